"""What a run records: a line of JSON a step, TensorBoard events, a learning curve."""

import json
from pathlib import Path

from deepzero_jax.pictures import pyplot, save_figure
from deepzero_jax.training.folder import Json


class MetricsLog:
    """Writes ``metrics.jsonl`` and TensorBoard events; on resume cuts off what is redone.

    Args:
      folder: the run folder.
      step: steps done at the checkpoint that the run goes on from; later lines go.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboardX import SummaryWriter

        self.path = folder / "metrics.jsonl"
        kept = [line for line in read_metrics(self.path) if line["step"] <= step]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        temporary.replace(self.path)
        self._file = self.path.open("a")
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends one line ``{"step": step, **values}`` and the same as events."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes both."""
        self._file.close()
        self._events.close()


def read_metrics(path: Path) -> list[Json]:
    """Reads the whole lines of a ``metrics.jsonl``; a last line cut by a kill is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def plot_learning_curve(metrics: Path, picture: Path, score: str, title: str) -> None:
    """Draws training loss and the score against steps into a PNG."""
    plt = pyplot()
    lines = read_metrics(metrics)
    train = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    scored = [(line["step"], line[score]) for line in lines if score in line]
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    if train:
        axis.plot(*zip(*train, strict=True), color="tab:gray", alpha=0.35, linewidth=0.8)
        axis.plot(*_smoothed(train), color="black", linewidth=1.5, label="training loss")
    axis.set(xlabel="step", ylabel="training loss", title=title)
    if scored:
        label = score.replace("_", " ")
        right = axis.twinx()
        best = f"{label} (last {scored[-1][1]:.4g})"
        right.plot(*zip(*scored, strict=True), "o-", color="tab:blue", markersize=3, label=best)
        right.set_ylabel(label, color="tab:blue")
    if train or scored:
        # Below the axes: inside them it would lie on one of the curves.
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    axis.set_ylim(bottom=0)
    save_figure(figure, picture)


def _smoothed(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """Exponential moving average over a fiftieth of the run."""
    weight = 1.0 / max(1.0, len(points) / 50)
    steps, values, average = [], [], points[0][1]
    for step, value in points:
        average += weight * (value - average)
        steps.append(step)
        values.append(average)
    return steps, values
