"""The training loop: plan, steps, evaluation, checkpoints, exact resume."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
from tqdm import tqdm

from deepzero_jax.sharding import agree, any_of, is_lead
from deepzero_jax.training.checkpoint import Checkpointer
from deepzero_jax.training.errors import (
    InterruptedRunError,
    NonFiniteError,
    StepFailedError,
    black_box_failure,
)
from deepzero_jax.training.folder import Json, write_json
from deepzero_jax.training.metrics import MetricsLog, plot_learning_curve
from deepzero_jax.training.optimizer import Schedule
from deepzero_jax.training.planning import plan
from deepzero_jax.training.progress import Progress
from deepzero_jax.training.signals import StopRequest
from deepzero_jax.training.step import CompiledStep, Metrics, TrainState, TrainStep
from deepzero_jax.training.summary import summary
from deepzero_jax.types import Log


class Settings(NamedTuple):
    """How long a run is and how often it looks up, as the arguments of ``train``."""

    num_steps: int
    evaluation_interval: int
    checkpoint_seconds: float
    initial_queries: int
    initial_samples: Mapping[str, int]
    name: str


def train(
    step: TrainStep | CompiledStep,
    state: TrainState,
    *,
    folder: Path,
    num_steps: int,
    schedule: Schedule,
    evaluation_interval: int | None = None,
    checkpoint_seconds: float = 60.0,
    initial_queries: int = 0,
    initial_samples: Mapping[str, int] | None = None,
    name: str = "run",
    log: Log = print,
) -> Json:
    """Trains, or goes on training, until ``num_steps``; returns the summary.

    A folder that holds checkpoints of the run is gone on with, to the same bits.

    Args:
      step: the training step, compiled already or not.
      state: at step 0, from ``TrainStep.init``.
      folder: of the run; must exist.
      num_steps: of the whole run.
      schedule: learning rate by step, for the record.
      evaluation_interval: steps between evaluations, None: an epoch; the last step is
        always evaluated.
      checkpoint_seconds: at most this much work is lost to a kill.
      initial_queries: spent before the first step, on pruning.
      initial_samples: of black boxes, that went into them.
      name: in the bar and in pictures.
      log: takes a line for the person who watches.

    Returns:
      The content of ``summary.json``.

    Raises:
      NonFiniteError: a loss or parameter that is not finite.
      StepFailedError: a black box that gives no answer.
      InterruptedRunError: by SIGTERM or SIGINT, after saving.

    **Cost**: the queries of its steps and of its evaluations.
    """
    if isinstance(step, TrainStep):
        step = step.compile(state)
    state = step.step.place(state)
    interval = evaluation_interval or step.step.task.steps_per_epoch
    settings = Settings(
        num_steps, interval, checkpoint_seconds, initial_queries, initial_samples or {}, name
    )
    checkpointer = Checkpointer(folder / "checkpoints", log)
    trainer = _Trainer(step, schedule, folder, settings, checkpointer, log)
    try:
        state = trainer.run(trainer.start(state))
    finally:
        checkpointer.close()
    found = summary(name, step.step.task, trainer.progress, state)
    if is_lead():
        write_json(folder / "summary.json", found)
    return found


class _Trainer:
    """The pieces of one run, bound together."""

    def __init__(
        self,
        compiled: CompiledStep,
        schedule: Schedule,
        folder: Path,
        settings: Settings,
        checkpointer: Checkpointer,
        log: Log,
    ) -> None:
        self.compiled, self.task, self.estimator = (
            compiled,
            compiled.step.task,
            compiled.step.estimator,
        )
        self.schedule, self.folder, self.settings, self.log = schedule, folder, settings, log
        self.checkpointer, self.boxes = checkpointer, compiled.boxes
        self.progress = Progress(settings.initial_queries, compiled.boxes, settings.initial_samples)

    def start(self, state: TrainState) -> TrainState:
        """The state of the newest checkpoint; without one the state given, its plan printed."""
        restored, settings = self.checkpointer.restore(state), self.settings
        if restored is None:
            planned = plan(
                self.compiled,
                state,
                num_steps=settings.num_steps,
                initial_queries=settings.initial_queries,
                evaluation_interval=settings.evaluation_interval,
                initial_samples=settings.initial_samples,
            )
            self.log(str(planned))
            return state
        self.progress.load(restored[1])
        state = self.compiled.step.place(restored[0])
        self.log(f"going on from step {int(state.step):,} of {settings.num_steps:,}")
        return state

    def run(self, state: TrainState) -> TrainState:
        """Runs the remaining steps, and saves the last state."""
        settings = self.settings
        metrics = MetricsLog(self.folder, int(state.step), self.log) if is_lead() else None
        saved_at = time.perf_counter()
        bar = tqdm(
            total=settings.num_steps,
            initial=int(state.step),
            desc=settings.name,
            unit="step",
            disable=not (sys.stderr.isatty() and is_lead()),
        )
        try:
            with StopRequest() as stop, bar:
                # A box that failed while it was asked for scores is asked again.
                self._evaluate_if_due(state, metrics)
                while int(state.step) < settings.num_steps:
                    state = self._one_step(state, metrics, bar, stop)
                    evaluated = self._evaluate_if_due(state, metrics)
                    waited = agree(time.perf_counter() - saved_at)
                    if evaluated or waited >= settings.checkpoint_seconds:
                        self._save(state)
                        saved_at = time.perf_counter()
                    signum = any_of(stop.signum or 0)
                    if signum:
                        self._leave(state, signum)
        finally:
            if metrics is not None:
                metrics.close()
                self._plot()
        self._save(state)
        return state

    def _save(self, state: TrainState) -> None:
        self.checkpointer.save(int(state.step), state, self.progress.dump())

    def _one_step(
        self,
        state: TrainState,
        metrics: MetricsLog | None,
        bar: tqdm,
        stop: StopRequest,
    ) -> TrainState:
        started, sent = time.perf_counter(), self.progress.samples["training"]
        with self._asking(f"step {int(state.step) + 1}", state):
            moved, found = self.compiled.run(state, self.boxes.affordable(self.compiled, state))
            # One process of several cannot leave a step that the others are in.
            if not stop.wait(found["loss"], whole=jax.process_count() > 1):
                self._leave(state, stop.signum or 0)
            finite = bool(found.pop("finite"))
        done = int(moved.step)
        if not finite:
            self._save(state)
            raise NonFiniteError(
                f"step {done} gave a loss or parameters that are not finite (loss "
                f"{float(found['loss'])}); the state after step {int(state.step)} is kept in "
                f"{self.folder}. Lower the learning rate or the smoothing in a new run"
            )
        seconds, sent = time.perf_counter() - started, self.progress.samples["training"] - sent
        self._record(done, found, seconds, sent, metrics, bar)
        return moved

    def _record(
        self,
        done: int,
        found: Metrics,
        seconds: float,
        num_samples: int,
        metrics: MetricsLog | None,
        bar: tqdm,
    ) -> None:
        queries = self.estimator.num_queries(int(found.pop("num_coordinates")))
        self.progress.num_queries += queries
        values = {name: float(value) for name, value in found.items()}
        rate = float(jax.numpy.asarray(self.schedule(done - 1)))
        if metrics is not None:
            record = {
                "epoch": done / self.task.steps_per_epoch,
                **values,
                "learning_rate": rate,
                "num_queries": self.progress.num_queries,
                "seconds": seconds,
            }
            metrics.write(done, record | _told(num_samples))
        shown = {name: f"{value:.3f}" for name, value in values.items()}
        shown |= {"lr": f"{rate:.2g}", "queries": f"{queries / seconds:,.0f}/s"}
        bar.set_postfix(shown, refresh=False)
        bar.update()

    @contextmanager
    def _asking(self, what: str, state: TrainState) -> Iterator[None]:
        """Keeps the state and says what failed where a black box inside gives no answer."""
        try:
            yield
        except (RuntimeError, ValueError) as error:
            # Which of the two depends on where the result is first looked at.
            reason = black_box_failure(error)
            if reason is None:
                raise
            self._save(state)
            raise StepFailedError(
                f"{what} failed: {reason}. The state before it is kept in {self.folder}; the same "
                "command goes on from there"
            ) from error

    def _evaluate_if_due(self, state: TrainState, metrics: MetricsLog | None) -> bool:
        done, settings = int(state.step), self.settings
        due = done % settings.evaluation_interval == 0 or done == settings.num_steps
        if not due or done <= self.progress.evaluated:
            return False
        samples = self.progress.samples
        sent = samples["evaluation"]
        with self._asking(f"the evaluation after step {done}", state), samples.of("evaluation"):
            scores = self.task.evaluate(state.params, state.model_state, self.compiled.data)
        self.progress.evaluated, self.progress.scores = done, scores
        if metrics is not None:
            record = {"epoch": done / self.task.steps_per_epoch, **scores}
            metrics.write(done, record | _told(samples["evaluation"] - sent))
        self._report(scores, done)
        return True

    def _report(self, scores: dict[str, float], done: int) -> None:
        score, best = scores[self.task.score], self.progress.best
        sign = 1 if self.task.higher_is_better else -1
        if not best or sign * score > sign * best["value"]:
            self.progress.best = {"value": score, "step": done}
        words = "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in scores.items())
        line = f"step {done:,}/{self.settings.num_steps:,}  {words}"
        if sys.stderr.isatty():
            tqdm.write(line)
        else:
            self.log(line)

    def _leave(self, state: TrainState, signum: int) -> None:
        self._save(state)
        self.checkpointer.wait()
        raise InterruptedRunError(
            signum,
            f"stopped on request after step {int(state.step):,} of "
            f"{self.settings.num_steps:,}; the same command goes on from there",
        )

    def _plot(self) -> None:
        plot_learning_curve(
            self.folder / "metrics.jsonl",
            self.folder / "learning_curve.png",
            self.task.score,
            self.settings.name,
        )


def _told(num_samples: int) -> dict[str, float]:
    """What a line of the metrics says of black boxes: nothing where none was asked."""
    return {"box_samples": num_samples} if num_samples else {}
