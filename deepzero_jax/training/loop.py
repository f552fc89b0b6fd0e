"""The training loop: plan, steps, evaluation, checkpoints, exact resume."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

import jax

from deepzero_jax.bars import bar
from deepzero_jax.blackbox import samples_sent, stop_asking_when, was_stopped, watch_counts
from deepzero_jax.sharding import agree, any_of, is_lead
from deepzero_jax.training.asked import Asked
from deepzero_jax.training.checkpoint import Checkpointer
from deepzero_jax.training.errors import (
    InterruptedRunError,
    NonFiniteError,
    StepFailedError,
    black_box_failure,
    remedy,
)
from deepzero_jax.training.folder import Json, RunFolderError, write_json
from deepzero_jax.training.lengths import Lengths, check_pause
from deepzero_jax.training.metrics import median_seconds
from deepzero_jax.training.optimizer import Schedule
from deepzero_jax.training.planning import plan
from deepzero_jax.training.probing import Probing
from deepzero_jax.training.progress import Progress
from deepzero_jax.training.recording import Recorder
from deepzero_jax.training.signals import StopRequest
from deepzero_jax.training.step import CompiledStep, TrainState, TrainStep
from deepzero_jax.training.summary import summary
from deepzero_jax.types import Log


class Settings(NamedTuple):
    """How long a run is and how often it looks up, as the arguments of ``train``."""

    lengths: Lengths
    checkpoint_seconds: float
    name: str
    probing: Probing | None


def train(
    step: TrainStep | CompiledStep,
    state: TrainState,
    *,
    folder: Path | str,
    num_steps: int,
    schedule: Schedule | float,
    evaluation_interval: int | None = None,
    checkpoint_seconds: float = 60.0,
    initial_queries: int = 0,
    initial_samples: Mapping[str, int] | None = None,
    probing: Probing | None = None,
    begin: Callable[[TrainState], TrainState] = lambda state: state,
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
      schedule: learning rate by step, or one for all, for the record.
      evaluation_interval: in steps, None: an epoch; the last step is always evaluated.
      checkpoint_seconds: at most this much work is lost to a kill.
      initial_queries: spent before the first step, on pruning.
      initial_samples: of black boxes, that went into them.
      probing: of the smoothing; its queries and samples come to those.
      begin: what is done to the state where there is no checkpoint to go on from.
      name: in the bar and in pictures.
      log: takes a line for the person who watches.

    Returns:
      The content of ``summary.json``.

    Raises:
      ValueError: ``num_steps``, ``evaluation_interval`` or ``Task.steps_per_epoch`` that is no
        integer of at least 1, or another number that is none of its kind.
      RunFolderError: a folder whose run has done more steps than ``num_steps``.
      NonFiniteError: a loss or parameter that is not finite.
      StepFailedError: a black box that gives no answer.
      InterruptedRunError: by SIGTERM or SIGINT, after saving.

    **Cost**: the queries of its steps and of its evaluations.
    """
    task = step.task if isinstance(step, TrainStep) else step.step.task
    spent = initial_queries, initial_samples
    lengths = Lengths.of(task.steps_per_epoch, num_steps, evaluation_interval, *spent)
    check_pause(checkpoint_seconds)
    folder = Path(folder)
    if isinstance(step, TrainStep):
        with bar(f"compiling the step of {name}", log):
            step = step.compile(state)
    state = step.step.place(state)
    settings = Settings(lengths, checkpoint_seconds, name, probing)
    checkpointer = Checkpointer(folder / "checkpoints", log)
    by_step = schedule if callable(schedule) else lambda step: schedule
    trainer = _Trainer(step, by_step, folder, settings, checkpointer, log)
    try:
        state = trainer.run(trainer.start(state, begin))
    finally:
        checkpointer.close()
    seconds = median_seconds(folder / "metrics.jsonl")
    found = summary(name, task, trainer.progress, state, seconds)
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
        self.compiled, self.task = compiled, compiled.step.task
        self.schedule, self.folder, self.settings, self.log = schedule, folder, settings, log
        self.checkpointer, self.boxes = checkpointer, compiled.boxes
        self.told_of_boxes, self.stop = False, StopRequest()
        # One process of several cannot leave a step that the others are in.
        self.alone = jax.process_count() == 1
        self.progress = Progress(
            settings.lengths.initial_queries,
            compiled.boxes,
            settings.lengths.initial_samples,
            settings.probing,
        )
        self.asked = Asked(folder, self.progress)

    def start(self, state: TrainState, begin: Callable[[TrainState], TrainState]) -> TrainState:
        """The state of the newest checkpoint; without one that begun with, its plan printed."""
        restored, settings = self.checkpointer.restore(state), self.settings
        if restored is None:
            state = self.compiled.step.place(begin(state))
            with bar("timing a part of a step", self.log):
                planned = plan(
                    self.compiled,
                    state,
                    **settings.lengths._asdict(),
                    probing=settings.probing,
                )
            self.log(str(planned))
            self.asked.load(0)
            if settings.probing is not None:  # so that it is not asked for again, even if killed
                self._save(state)
                self.checkpointer.wait()
            return state
        done, num_steps = int(restored[0].step), settings.lengths.num_steps
        if done > num_steps:
            raise RunFolderError(
                f"{self.folder} holds {done:,} steps, and num_steps is {num_steps:,}: "
                f"give at least {done:,}, or another folder"
            )
        self.progress.load(restored[1])
        state = self.compiled.step.place(restored[0])
        self.asked.load(done)
        self.log(f"going on from step {done:,} of {num_steps:,}")
        return state

    def run(self, state: TrainState) -> TrainState:
        """Runs the remaining steps, and saves the last state."""
        settings = self.settings
        recorder = Recorder(
            self.compiled.step,
            self.schedule,
            self.progress,
            self.folder,
            settings.name,
            int(state.step),
            settings.lengths.num_steps,
            self.log,
        )
        saved_at = time.perf_counter()
        try:
            is_to_stop = lambda: self.alone and self.stop.signum is not None
            with self.stop, watch_counts(self.asked.update), stop_asking_when(is_to_stop):
                # A box that failed while it was asked for scores is asked again.
                if self._evaluate_if_due(state, recorder):
                    self._save(state)
                    self._leave_if_asked(state)
                while int(state.step) < settings.lengths.num_steps:
                    state = self._one_step(state, recorder)
                    self._leave_if_asked(state)  # an evaluation is caught up
                    evaluated = self._evaluate_if_due(state, recorder)
                    waited = agree(time.perf_counter() - saved_at)
                    if evaluated or waited >= settings.checkpoint_seconds:
                        self._save(state)
                        saved_at = time.perf_counter()
                    if evaluated:
                        self._leave_if_asked(state)
        finally:
            recorder.close()
            self.asked.close()
        self._save(state)
        return state

    def _save(self, state: TrainState) -> None:
        progress = self.progress.dump()
        self.checkpointer.save(int(state.step), state, progress)
        if any(progress["samples"].values()):
            # A step that failed has asked too, after the checkpoint that it goes on from.
            self.asked.save()

    def _one_step(self, state: TrainState, recorder: Recorder) -> TrainState:
        started, counts = time.perf_counter(), self.progress.of_host()
        with self._asking(f"step {int(state.step) + 1}", state):
            moved, found = self.compiled.run(state, self.boxes.affordable(self.compiled, state))
            if not self.stop.wait(found["loss"], whole=not self.alone):
                self._leave(state, self.stop.signum or 0)
            finite = bool(found.pop("finite"))
        done = int(moved.step)
        seconds, asked = time.perf_counter() - started, self.progress.of_host(counts)
        if not finite:
            self._save(state)
            settings = getattr(self.compiled.step.estimator, "settings", {})
            raise NonFiniteError(
                f"step {done} gave a loss or parameters that are not finite (loss "
                f"{float(found['loss'])}); the state after step {int(state.step)} is kept in "
                f"{self.folder}. {remedy(settings, asked.get('num_unanswered', 0))}"
            )
        recorder.step(done, found, seconds, asked)
        return moved

    @contextmanager
    def _asking(self, what: str, state: TrainState) -> Iterator[None]:
        """Keeps the state and says what failed where a black box inside gives no answer.

        Where one waited as a signal came, the run is left as at the end of a step.
        """
        try:
            yield
        except (RuntimeError, ValueError) as error:
            # Which of the two depends on where the result is first looked at.
            reason = black_box_failure(error)
            if reason is None:
                raise
            if was_stopped(error):
                self._leave(state, self.stop.signum or 0, f"; {what} was given up: {reason}")
            self.progress.meet()
            self._save(state)
            raise StepFailedError(
                f"{what} failed: {reason}. The state before it is kept in {self.folder}; the same "
                "command goes on from there"
            ) from error

    def _evaluate_if_due(self, state: TrainState, recorder: Recorder) -> bool:
        done, settings = int(state.step), self.settings
        due = done % settings.lengths.evaluation_interval == 0 or done == settings.lengths.num_steps
        if not due or done <= self.progress.evaluated:
            return False
        counts, evaluation = self.progress.of_host(), self.progress.samples.of("evaluation")
        sent, known = samples_sent(), self.boxes.num_known
        asking = self._asking(f"the evaluation after step {done}", state)
        with asking, evaluation, bar(f"evaluating after step {done:,}", self.log):
            scores = self.task.evaluate(state.params, state.model_state, self.compiled.data)
        asks_others = samples_sent() - sent != self.boxes.num_known - known
        recorder.evaluation(done, scores, self.progress.of_host(counts))
        if asks_others and not self.told_of_boxes:
            self.told_of_boxes = True
            self.log(
                "the evaluation asks a black box that the loss does not: name it in Task.boxes, or "
                "its budget begins anew when the run is gone on with"
            )
        return True

    def _leave_if_asked(self, state: TrainState) -> None:
        """All processes must call it."""
        if signum := any_of(self.stop.signum or 0):
            self._leave(state, signum)

    def _leave(self, state: TrainState, signum: int, how: str = "") -> NoReturn:
        self._save(state)
        self.checkpointer.wait()
        raise InterruptedRunError(
            signum,
            f"stopped on request after step {int(state.step):,} of "
            f"{self.settings.lengths.num_steps:,}{how}; the same command goes on from there",
        )
