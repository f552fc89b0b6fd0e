"""The training loop: plan, steps, evaluation, checkpoints, exact resume."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from deepzero_jax.coordinates import num_coordinates
from deepzero_jax.estimators import Estimator, num_queries
from deepzero_jax.estimators.contract import Loss
from deepzero_jax.sharding import agree, any_of, is_lead
from deepzero_jax.training.checkpoint import Checkpointer, tree_digest
from deepzero_jax.training.errors import (
    InterruptedRunError,
    NonFiniteError,
    StepFailedError,
    black_box_failure,
)
from deepzero_jax.training.folder import write_json
from deepzero_jax.training.metrics import MetricsLog, plot_learning_curve
from deepzero_jax.training.plan import Plan, make_plan
from deepzero_jax.training.progress import Progress
from deepzero_jax.training.signals import StopRequest
from deepzero_jax.training.step import TrainState, TrainStep
from deepzero_jax.training.task import Task

PyTree = Any


class Settings(NamedTuple):
    """How long a run is and how often it looks up.

    Attributes:
      name: in the bar and in pictures.
      num_steps: of the whole run.
      evaluation_interval: steps between evaluations; the last step is always evaluated.
      checkpoint_seconds: at most this much work is lost to a kill.
      initial_queries: spent before the first step, on pruning.
      plan_only: print the plan and stop.
    """

    name: str
    num_steps: int
    evaluation_interval: int
    checkpoint_seconds: float = 60.0
    initial_queries: int = 0
    plan_only: bool = False


def run(
    task: Task,
    estimator: Estimator,
    step: TrainStep,
    schedule: Callable[[Any], Any],
    initial_state: TrainState,
    folder: Path,
    settings: Settings,
    say: Callable[[str], None] = print,
) -> dict[str, Any] | None:
    """Trains, or goes on training, until ``settings.num_steps``; returns the summary.

    Args:
      task: the problem.
      estimator: for the count of queries and the plan.
      step: from ``make_step``.
      schedule: learning rate by step, for the record.
      initial_state: at step 0.
      folder: the run folder.
      settings: length and intervals.
      say: prints a line.

    Returns:
      The content of ``summary.json``; None after ``plan_only``.

    Raises:
      NonFiniteError: a loss or parameter that is not finite.
      StepFailedError: a black box that gives no answer.
      InterruptedRunError: by SIGTERM or SIGINT, after saving.
    """
    trainer = _Trainer(task, estimator, step, schedule, folder, settings, say)
    state = step.place(initial_state)
    trainer.prepare(state)
    if settings.plan_only:
        say(str(trainer.plan(state)))
        return None
    checkpointer = Checkpointer(folder / "checkpoints", say)
    try:
        restored = checkpointer.restore(state)
        if restored is None:
            say(str(trainer.plan(state)))
        else:
            state, saved = step.place(restored[0]), restored[1]
            trainer.progress.load(saved)
            say(f"going on from step {int(state.step):,} of {settings.num_steps:,}")
        state = trainer.train(state, checkpointer)
        checkpointer.save(int(state.step), state, trainer.progress.dump())
    finally:
        checkpointer.close()
    summary = trainer.summary(state)
    if is_lead():
        write_json(folder / "summary.json", summary)
    return summary


class _Trainer:
    """The pieces of one run, bound together."""

    def __init__(
        self,
        task: Task,
        estimator: Estimator,
        step: TrainStep,
        schedule: Callable[[Any], Any],
        folder: Path,
        settings: Settings,
        say: Callable[[str], None],
    ) -> None:
        self.task, self.estimator, self.step = task, estimator, step
        self.schedule, self.folder, self.settings, self.say = schedule, folder, settings, say
        self.data = step.place(task.data)
        self.progress = Progress(settings.initial_queries)
        self.select = jax.jit(step.select)

    def prepare(self, state: TrainState) -> None:
        """Compiles the step, ahead of time, so that a plan and a run use the same program."""
        started = time.perf_counter()
        selection = self.select(state)
        self.queries_per_step = num_queries(self.estimator, state.params, selection.coordinates)
        self.advance = jax.jit(self.step.advance).lower(state, selection, self.data).compile()
        self.compile_seconds = time.perf_counter() - started

    def plan(self, state: TrainState) -> Plan:
        """Measures what a step costs."""
        selection = self.select(state)
        return make_plan(
            lambda coordinates: self.advance(
                state,
                selection._replace(coordinates=self.step.place(coordinates)),
                self.data,
            ),
            state.params,
            selection.coordinates,
            self.estimator,
            Loss(self.task.loss, jax.eval_shape(self.step.batch, state, self.data), has_aux=True),
            self.step.shares(state),
            num_parameters=num_coordinates(state.params),
            queries_per_step=self.queries_per_step,
            num_steps=self.settings.num_steps,
            extra_queries=self.settings.initial_queries,
            compile_seconds=self.compile_seconds,
        )

    def train(self, state: TrainState, checkpointer: Checkpointer) -> TrainState:
        """Runs the remaining steps."""
        settings = self.settings
        log = MetricsLog(self.folder, int(state.step)) if is_lead() else None
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
                self._evaluate_if_due(state, log, checkpointer)
                while int(state.step) < settings.num_steps:
                    state = self._one_step(state, log, bar, stop, checkpointer)
                    evaluated = self._evaluate_if_due(state, log, checkpointer)
                    waited = agree(time.perf_counter() - saved_at)
                    if evaluated or waited >= settings.checkpoint_seconds:
                        checkpointer.save(int(state.step), state, self.progress.dump())
                        saved_at = time.perf_counter()
                    signum = any_of(stop.signum or 0)
                    if signum:
                        self._leave(state, checkpointer, signum)
        finally:
            if log is not None:
                log.close()
                self._plot()
        return state

    def _one_step(
        self,
        state: TrainState,
        log: MetricsLog | None,
        bar: Any,
        stop: StopRequest,
        checkpointer: Checkpointer,
    ) -> TrainState:
        started = time.perf_counter()
        with self._asking(f"step {int(state.step) + 1}", state, checkpointer):
            moved, metrics = self.advance(state, self.select(state), self.data)
            # One process of several cannot leave a step that the others are in.
            if not stop.wait(metrics["loss"], whole=jax.process_count() > 1):
                self._leave(state, checkpointer, stop.signum or 0)
            finite = bool(metrics.pop("finite"))
        done = int(moved.step)
        if not finite:
            checkpointer.save(int(state.step), state, self.progress.dump())
            raise NonFiniteError(
                f"step {done} gave a loss or parameters that are not finite (loss "
                f"{float(metrics['loss'])}); the state after step {int(state.step)} is kept in "
                f"{self.folder}. Lower optimizer.learning_rate or estimator.smoothing in a new run"
            )
        queries = self.estimator.num_queries(int(metrics.pop("num_coordinates")))
        self.progress.num_queries += queries
        values = {name: float(value) for name, value in metrics.items()}
        seconds = time.perf_counter() - started
        record = {
            "epoch": done / self.task.steps_per_epoch,
            **values,
            "learning_rate": float(self.schedule(done - 1)),
            "num_queries": self.progress.num_queries,
            "seconds": seconds,
        }
        if log is not None:
            log.write(done, record)
        shown = {name: f"{value:.3f}" for name, value in values.items()}
        bar.set_postfix(
            **shown,
            lr=f"{record['learning_rate']:.2g}",
            queries=f"{queries / seconds:,.0f}/s",
            refresh=False,
        )
        bar.update()
        return moved

    @contextmanager
    def _asking(self, what: str, state: TrainState, checkpointer: Checkpointer) -> Iterator[None]:
        """Keeps the state and says what failed where a black box inside gives no answer."""
        try:
            yield
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            # Which of the two depends on where the result is first looked at.
            reason = black_box_failure(error)
            if reason is None:
                raise
            checkpointer.save(int(state.step), state, self.progress.dump())
            raise StepFailedError(
                f"{what} failed: {reason}. The state before it is kept in {self.folder}; the same "
                "command goes on from there"
            ) from error

    def _evaluate_if_due(
        self, state: TrainState, log: MetricsLog | None, checkpointer: Checkpointer
    ) -> bool:
        done, settings = int(state.step), self.settings
        due = done % settings.evaluation_interval == 0 or done == settings.num_steps
        if not due or done <= self.progress.evaluated:
            return False
        with self._asking(f"the evaluation after step {done}", state, checkpointer):
            scores = self.task.evaluate(state.params, state.model_state, self.data)
        self.progress.evaluated, self.progress.scores = done, scores
        self._report(scores, done, log)
        return True

    def _report(self, scores: dict[str, float], done: int, log: MetricsLog | None) -> None:
        if log is not None:
            log.write(done, {"epoch": done / self.task.steps_per_epoch, **scores})
        score, best = scores[self.task.score], self.progress.best
        sign = 1 if self.task.higher_is_better else -1
        if not best or sign * score > sign * best["value"]:
            self.progress.best = {"value": score, "step": done}
        words = "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in scores.items())
        line = f"step {done:,}/{self.settings.num_steps:,}  {words}"
        if sys.stderr.isatty():
            tqdm.write(line)
        else:
            self.say(line)

    def _leave(self, state: TrainState, checkpointer: Checkpointer, signum: int) -> None:
        checkpointer.save(int(state.step), state, self.progress.dump())
        checkpointer.wait()
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

    def summary(self, state: TrainState) -> dict[str, Any]:
        """What ``summary.json`` holds: final and best scores, queries, steps, seconds."""
        progress = self.progress.dump()
        return {
            "name": self.settings.name,
            **progress["scores"],
            f"best_{self.task.score}": self.progress.best.get("value"),
            "best_step": self.progress.best.get("step"),
            "num_queries": progress["num_queries"],
            "num_steps": int(state.step),
            "wall_seconds": round(progress["wall_seconds"], 3),
            "seconds_per_step": round(progress["wall_seconds"] / max(int(state.step), 1), 6),
            "parameters_sha256": tree_digest(state.params),
            "num_parameters": num_coordinates(state.params),
            "device": jax.devices()[0].device_kind,
            "num_devices": jax.device_count(),
            "jax_version": jax.__version__,
        }
