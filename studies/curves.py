"""Curves of a run, read off what it has recorded."""

from pathlib import Path

from deepzero_jax.training import read_metrics


def learning_curve(metrics: Path) -> list[dict[str, float]]:
    """Test accuracies of a run by epoch and by the seconds that its steps have taken.

    Empty for a run that left no ``metrics.jsonl``, as one of several trainings does.
    """
    seconds, curve = 0.0, []
    for line in read_metrics(metrics):
        seconds += line.get("seconds", 0.0)
        if line.get("test_accuracy") is not None:
            point = {"epoch": line["epoch"], "seconds": seconds, "accuracy": line["test_accuracy"]}
            curve.append({name: round(value, 4) for name, value in point.items()})
    return curve


def stage_curves(workdir: Path) -> dict[str, list[dict[str, float]]]:
    """Scores of each training of a run of several, by the samples that its box was sent for steps.

    Empty for a run of one training.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for metrics in sorted(workdir.glob("*/metrics.jsonl")):
        samples, curve = 0.0, []
        for line in read_metrics(metrics):
            scores = {name: value for name, value in line.items() if name.startswith("validation")}
            if None in scores.values():  # not finite
                continue
            if scores:
                rounded = {name: float(f"{value:.5g}") for name, value in scores.items()}
                curve.append({"step": line["step"], "samples": samples, **rounded})
            else:
                samples += line.get("box_samples", 0)
        if curve:
            found[metrics.parent.name] = curve
    return found
