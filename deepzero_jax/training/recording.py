"""What is recorded of each step and each evaluation: metrics, the bar, the best score."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from deepzero_jax.sharding import is_lead
from deepzero_jax.training.metrics import MetricsLog, check_names, plot_learning_curve
from deepzero_jax.training.optimizer import Schedule
from deepzero_jax.training.progress import Progress
from deepzero_jax.training.step import Metrics, TrainStep
from deepzero_jax.types import Log


class Recorder:
    """The records of one session of a run; in the leading process alone they are written.

    Args:
      step: of the run.
      schedule: learning rate by step.
      progress: its counters.
      folder: of the run.
      name: in the bar and in pictures.
      first: steps done before.
      num_steps: of the whole run.
      log: takes a line for the person who watches.
    """

    def __init__(
        self,
        step: TrainStep,
        schedule: Schedule,
        progress: Progress,
        folder: Path,
        name: str,
        first: int,
        num_steps: int,
        log: Log,
    ) -> None:
        self._task, self._estimator, self._schedule = step.task, step.estimator, schedule
        self._progress, self._folder, self._name, self._log = progress, folder, name, log
        self._num_steps = num_steps
        self._metrics = MetricsLog(folder, first, log) if is_lead() else None
        self._bar = tqdm(
            total=num_steps,
            initial=first,
            desc=name,
            unit="step",
            disable=not (sys.stderr.isatty() and is_lead()),
        )

    def step(self, done: int, found: Metrics, seconds: float, asked: dict[str, int]) -> None:
        """Records a step.

        Args:
          done: steps done with it.
          found: its metrics.
          seconds: that it took.
          asked: what was counted on the host meanwhile.
        """
        queries = self._estimator.num_queries(int(found.pop("num_coordinates")))
        self._progress.num_queries += queries
        values = {name: float(value) for name, value in found.items()}
        rate = float(jax.numpy.asarray(self._schedule(done - 1)))
        counts = {"num_queries": self._progress.num_queries, "seconds": seconds, **asked}
        self._write(done, {**values, "learning_rate": rate, **counts})
        shown = {name: f"{value:.3f}" for name, value in values.items()}
        shown |= {"lr": f"{rate:.2g}", "queries": f"{queries / seconds:,.0f}/s"}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def evaluation(self, done: int, scores: dict[str, float], asked: dict[str, int]) -> None:
        """Records an evaluation after ``done`` steps, and says what it found."""
        if not isinstance(scores, Mapping) or any(np.ndim(value) for value in scores.values()):
            raise ValueError(f"evaluate must give {{name: number}}, got {str(scores)[:200]}")
        check_names("score", scores)
        if self._task.score not in scores:
            raise ValueError(
                f"evaluate gives no score {self._task.score!r}, by which the task is judged, but "
                f"{sorted(scores)}: give it, or name another in score="
            )
        scores = {name: float(value) for name, value in scores.items()}
        unanswered = asked.get("num_unanswered", 0)
        self._progress.evaluated, self._progress.scores = done, scores
        self._progress.unanswered = unanswered
        self._write(done, {**scores, **asked})
        score, best = scores[self._task.score], self._progress.best
        sign = 1 if self._task.higher_is_better else -1
        if math.isfinite(score) and (not best or sign * score > sign * best["value"]):
            self._progress.best = {"value": score, "step": done}
        words = "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in scores.items())
        line = f"step {done:,}/{self._num_steps:,}  {words}"
        if unanswered:
            line += f"  ({unanswered:,} sample{'s' * (unanswered > 1)} without an answer)"
        if sys.stderr.isatty():
            tqdm.write(line)
        else:
            self._log(line)

    def _write(self, done: int, values: dict[str, float]) -> None:
        if self._metrics is not None:
            self._metrics.write(done, {"epoch": done / self._task.steps_per_epoch, **values})

    def close(self) -> None:
        """Closes the files, and draws the learning curve."""
        self._bar.close()
        if self._metrics is None:
            return
        self._metrics.close()
        plot_learning_curve(
            self._folder / "metrics.jsonl",
            self._folder / "learning_curve.png",
            self._task.score,
            self._name,
        )
