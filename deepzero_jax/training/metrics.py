"""What a run records: a line of JSON a step, TensorBoard events, a learning curve."""

import itertools
import json
import math
import shutil
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

from deepzero_jax.pictures import pyplot, save_figure
from deepzero_jax.training.folder import Json, free_name, json_text, write_text
from deepzero_jax.types import Log

# What a line of the metrics tells besides those of a task.
RECORDED = frozenset(
    {"step", "epoch", "loss", "finite", "learning_rate", "seconds"}
    | {"num_queries", "num_coordinates", "num_dropped", "num_unanswered", "box_samples"}
)


def check_names(kind: str, names: Iterable[str]) -> None:
    """Raises ValueError for a metric or score of a task with the name of what is recorded."""
    if taken := sorted(RECORDED.intersection(names)):
        raise ValueError(
            f"the task gives a {kind} {taken[0]!r}, which every run records by that name: give it "
            "another"
        )


class MetricsLog:
    """Writes ``metrics.jsonl`` and TensorBoard events; on resume cuts off what is redone.

    Lines that cannot be read are left out, and the file that held them is kept aside.

    Args:
      folder: the run folder.
      step: steps done at the checkpoint that the run goes on from; later lines go.
      log: takes a line when something in the file could not be read.
    """

    def __init__(self, folder: Path, step: int, log: Log = print) -> None:
        self.path = folder / "metrics.jsonl"
        lines, num_broken = read_lines(self.path, "step")
        if num_broken:
            aside = free_name(self.path.with_name("metrics_damaged.jsonl"))
            shutil.copyfile(self.path, aside)
            log(
                f"{self.path}: {num_broken} of its lines could not be read and "
                f"{'is' if num_broken == 1 else 'are'} left out; the file as it was is {aside.name}"
            )
        kept = [line for line in lines if line["step"] <= step]
        write_text(self.path, "".join(json_text(line) + "\n" for line in kept))
        self._file = self.path.open("a")
        self._events = _Events(folder / "tensorboard", step)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends a line ``{"step": step, **values}`` by ``json_text``, and the same as events."""
        self._file.write(json_text({"step": step, **values}) + "\n")
        self._file.flush()
        self._events.write(step, values)

    def close(self) -> None:
        """Flushes and closes both."""
        self._file.close()
        self._events.close()


class _Events:
    """A file of TensorBoard events, written by the thread that calls.

    The library's own writer has a thread, and where that one dies of a full disk, its queue fills
    and the run waits for ever.
    """

    _SECONDS = 10  # on disk at least this often

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore
        from tensorboardX.summary import scalar

        folder.mkdir(exist_ok=True)
        self._event, self._scalar = Event, scalar
        # The library names a file by second and host, and would write over that of a session
        # begun in the same second.
        suffix = next(s for s in map(".{}".format, itertools.count()) if _is_free(folder, s))
        self._writer, self._flushed = EventsWriter(str(folder / "events"), suffix), 0.0
        # TensorBoard hides what an earlier session has written from this step on.
        started = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(step=step + 1, wall_time=time.time(), session_log=started))

    def write(self, step: int, values: dict[str, float]) -> None:
        event = self._event(step=step, wall_time=time.time())
        for name, value in values.items():
            event.summary.MergeFrom(self._scalar(name, value))
        self._writer.write_event(event)
        if time.monotonic() - self._flushed >= self._SECONDS:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        self._writer.close()


def _is_free(folder: Path, suffix: str) -> bool:
    return not any(file.name.endswith(suffix) for file in folder.iterdir())


def read_metrics(path: Path) -> list[Json]:
    """Reads the lines of a ``metrics.jsonl`` that are whole: objects with a number of steps."""
    return read_lines(path, "step")[0]


def median_seconds(path: Path) -> float | None:
    """The median of the seconds of the steps in a ``metrics.jsonl``; None where there are none."""
    seconds = [line.get("seconds") for line in read_metrics(path)]
    known = [value for value in seconds if isinstance(value, int | float)]
    return statistics.median(known) if known else None


def read_lines(path: Path, number: str) -> tuple[list[Json], int]:
    """Reads a file of JSON lines.

    Args:
      path: of the file, which need not exist.
      number: a name under which every line must have an integer.

    Returns:
      The lines that can be read, and how many cannot, a last one cut by a kill not counted.
    """
    if not path.exists():
        return [], 0
    texts = path.read_bytes().split(b"\n")
    found = [_read_line(text, number) for text in texts[:-1]]
    if (last := _read_line(texts[-1], number)) is not None:
        found.append(last)
    lines = [line for line in found if line is not None]
    return lines, len(found) - len(lines)


def _read_line(text: bytes, number: str) -> Json | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):  # no JSON, no UTF-8, or a nest too deep to read
        return None
    value = line.get(number) if isinstance(line, dict) else None
    return line if isinstance(value, int) and not isinstance(value, bool) else None


def plot_learning_curve(metrics: Path, picture: Path, score: str, title: str) -> None:
    """Draws training loss and the score against steps into a PNG."""
    plt = pyplot()
    lines = read_metrics(metrics)
    train, scored = _numbers_of(lines, "loss"), _numbers_of(lines, score)
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


def _numbers_of(lines: Iterable[Json], name: str) -> list[tuple[int, float]]:
    """``(step, number)`` of the lines that have a finite number of a name."""
    found = []
    for line in lines:
        value = line.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            found.append((line["step"], value))
    return found


def _smoothed(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """Exponential moving average over a fiftieth of the run."""
    weight = 1.0 / max(1.0, len(points) / 50)
    steps, values, average = [], [], points[0][1]
    for step, value in points:
        average += weight * (value - average)
        steps.append(step)
        values.append(average)
    return steps, values
