"""The results that are committed, and what tables and figures pick out of them."""

import json
from pathlib import Path

from deepzero_jax.training import Json
from studies.runner import RESULTS

# A result file: labels, command, commit, hardware, summary, and its name.
Result = Json


def results(study: str, folder: Path | None = None) -> list[Result]:
    """Every result of a study, by name."""
    return [
        {"name": path.stem, **json.loads(path.read_text())}
        for path in sorted(((folder or RESULTS) / study).glob("*.json"))
    ]


def chosen(found: list[Result], **labels: object) -> list[Result]:
    """The results that carry these labels."""
    return [run for run in found if all(run["labels"].get(name) == v for name, v in labels.items())]


def by_epochs(found: list[Result]) -> list[tuple[float, list[Result]]]:
    """Runs of each length apart: ``[(epochs, runs)]``, shortest first."""
    lengths = sorted({run["labels"]["epochs"] for run in found})
    return [(epochs, chosen(found, epochs=epochs)) for epochs in lengths]


def slopes_note(found: list[Result]) -> str:
    """How many runs of a study PyTorch took the slopes of; "" where it took none."""
    by_torch = chosen(found, precision="float32")
    if not by_torch:
        return ""
    return (
        f" Slopes of {len(by_torch)} of the {len(found)} runs are by PyTorch (`--slopes torch`), "
        "all others by XLA; float32 everywhere."
    )


def final_accuracies(found: list[Result]) -> list[float]:
    """Final test accuracies of runs."""
    return [run["summary"]["test_accuracy"] for run in found]


def mean_and_spread(values: list[float]) -> str:
    """Percentages as ``"57.1 ± 0.4 (3)"``: mean, standard deviation, number of runs."""
    if not values:
        return "not run"
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{100 * mean:.2f} (1)"
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return f"{100 * mean:.2f} ± {100 * variance**0.5:.2f} ({len(values)})"


def accuracies(found: list[Result]) -> str:
    """Test accuracies as mean and spread; runs of different length kept apart."""
    parts = [
        f"{mean_and_spread(final_accuracies(runs))}, {epochs:g} epochs"
        for epochs, runs in by_epochs(found)
    ]
    return "; ".join(parts) or "not run"


def mean_percent(found: list[Result]) -> float:
    """Mean accuracy of runs in per cent; of none NaN, which a line leaves out."""
    values = final_accuracies(found)
    return 100 * sum(values) / len(values) if values else float("nan")
