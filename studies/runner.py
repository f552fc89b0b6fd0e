"""Runs the cells of a study through train.py, and keeps what each left in its summary."""

import json
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from configs.loading import load_config, override
from deepzero_jax.platform import num_cores
from deepzero_jax.training.metrics import read_metrics

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "studies" / "results"
# Of a program that saved, or that the signal ended before it listened.
_STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM, -signal.SIGINT)


class Cell(NamedTuple):
    """One run of a study.

    Attributes:
      name: unique in its study; the name of its files.
      config: a file of configs/, without its ending.
      overrides: ``{dotted field: value}``.
      labels: what the table says of it, besides its scores.
    """

    name: str
    config: str
    overrides: dict[str, Any]
    labels: dict[str, Any]

    def arguments(self) -> list[str]:
        """What train.py is called with, the run folder left out."""
        fields = [f"--config.{name}={value}" for name, value in self.overrides.items()]
        return ["--config", f"configs/{self.config}.py", *fields]


def configured(name: str, overrides: dict[str, Any]) -> Any:
    """A file of configs/, without its ending, with some of its fields changed."""
    config = load_config(ROOT / "configs" / f"{name}.py")
    for field, value in overrides.items():
        config = override(config, field, str(value))
    return config


def length_overrides(epochs: float) -> dict[str, Any]:
    """Fields for a run of so many epochs; at most a sixth of them warm up."""
    return {
        "training.num_epochs": f"{epochs:g}",
        "optimizer.warmup_epochs": f"{min(3.0, epochs / 6):g}",
    }


def run_study(study: str, cells: Iterable[Cell], runs: Path) -> None:
    """Runs what is missing, one cell after the other; finished ones are skipped.

    An interrupted cell goes on where it was. Each result is a small JSON file in
    ``studies/results/<study>/``: the summary, the command, the commit and the hardware, and the
    accuracies on the way.

    Raises:
      SystemExit: a cell failed; its message is on stderr.
    """
    for cell in cells:
        if _done(study, cell.name):
            continue
        workdir = runs / study / cell.name
        print(f"{study}/{cell.name}: python train.py {' '.join(cell.arguments())}", flush=True)
        call = [sys.executable, "train.py", *cell.arguments(), "--workdir", str(workdir)]
        status = run_and_hand_on_signals(call)
        if status in _STOPPED:
            raise SystemExit(f"{study}/{cell.name} stopped; the same command goes on from there")
        if status != 0:
            raise SystemExit(f"{study}/{cell.name} failed with status {status}; see above")
        summary = json.loads((workdir / "summary.json").read_text())
        command = " ".join(["python train.py", *map(_quoted, cell.arguments())])
        curve = learning_curve(workdir / "metrics.jsonl")
        keep_result(study, cell.name, cell.labels, command, summary, curve)


def learning_curve(metrics: Path) -> list[dict[str, float]]:
    """Test accuracies of a run by epoch and by the seconds that its steps have taken.

    Empty for a run that left no ``metrics.jsonl``, as one of several trainings does.
    """
    seconds, curve = 0.0, []
    for line in read_metrics(metrics):
        seconds += line.get("seconds", 0.0)
        if "test_accuracy" in line:
            point = {"epoch": line["epoch"], "seconds": seconds, "accuracy": line["test_accuracy"]}
            curve.append({name: round(value, 4) for name, value in point.items()})
    return curve


def run_and_hand_on_signals(call: list[str]) -> int:
    """Runs a program; its exit status. A SIGTERM goes to the program, which may save first."""
    process = subprocess.Popen(call, cwd=ROOT)
    previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        return process.wait()
    except KeyboardInterrupt:
        return process.wait()  # the terminal has told the program as well
    finally:
        signal.signal(signal.SIGTERM, previous)


class Measurement(NamedTuple):
    """One cell of a study that is computed and not trained.

    Attributes:
      name: unique in its study; the name of its file.
      labels: what the table says of it, besides what was measured.
      measure: ``() -> {name: number}``.
    """

    name: str
    labels: dict[str, Any]
    measure: Callable[[], dict[str, Any]]


def run_measurements(study: str, measurements: Iterable[Measurement]) -> None:
    """Computes what is missing; each result is kept as ``run_study`` keeps those of runs."""
    for name, labels, measure in measurements:
        if _done(study, name):
            continue
        print(f"{study}/{name} …", flush=True)
        devices = jax.devices()
        hardware = {"num_devices": len(devices), "device": devices[0].device_kind}
        found = {**measure(), **hardware}
        keep_result(study, name, labels, f"python -m studies.{study}", found)
        print(f"{study}/{name}: {found}", flush=True)


def _done(study: str, name: str) -> bool:
    done = result_path(study, name).exists()
    if done:
        print(f"{study}/{name}: done", flush=True)
    return done


def keep_result(
    study: str,
    name: str,
    labels: dict[str, Any],
    command: str,
    summary: dict[str, Any],
    curve: list[dict[str, float]] | None = None,
) -> None:
    """Writes the result file of a finished cell, its ``learning_curve`` beside the summary."""
    content = {
        "labels": labels,
        "command": command,
        "commit": _commit(),
        "hardware": f"{summary['num_devices']} × {summary['device']}, "
        f"{num_cores()} {'core' if num_cores() == 1 else 'cores'}, {platform.machine()}",
        "summary": summary,
    }
    if curve:
        content["learning_curve"] = curve
    path = result_path(study, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def _commit() -> str:
    """The commit that is checked out; ``-dirty`` where more than results differ from it."""
    git = lambda *args: subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True)
    found = git("describe", "--always").stdout.strip()
    differs = git("diff", "--quiet", "HEAD", "--", ".", ":!studies/results").returncode
    return f"{found}-dirty" if found and differs else found or "unknown"


def _quoted(argument: str) -> str:
    return f"'{argument}'" if " " in argument else argument


def result_path(study: str, name: str) -> Path:
    """Where the result of a cell lies."""
    return RESULTS / study / f"{name}.json"


def results(study: str) -> list[dict[str, Any]]:
    """Every result of a study, by name."""
    return [
        {"name": path.stem, **json.loads(path.read_text())}
        for path in sorted((RESULTS / study).glob("*.json"))
    ]


def chosen(found: list[dict[str, Any]], **labels: Any) -> list[dict[str, Any]]:
    """The results that carry these labels."""
    return [run for run in found if all(run["labels"].get(name) == v for name, v in labels.items())]


def by_epochs(found: list[dict[str, Any]]) -> list[tuple[float, list[dict[str, Any]]]]:
    """Runs of each length apart: ``[(epochs, runs)]``, shortest first."""
    lengths = sorted({run["labels"]["epochs"] for run in found})
    return [(epochs, chosen(found, epochs=epochs)) for epochs in lengths]


def final_accuracies(found: list[dict[str, Any]]) -> list[float]:
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
