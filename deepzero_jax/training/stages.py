"""Runs of the training loop in subfolders of one run folder."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jax

from deepzero_jax.blackbox import watch_counts
from deepzero_jax.counts import check_count
from deepzero_jax.estimators import Estimator
from deepzero_jax.sampling import Sampler, dense_sampler
from deepzero_jax.training.checkpoint import Checkpointer
from deepzero_jax.training.folder import read_json
from deepzero_jax.training.live import LiveJson
from deepzero_jax.training.loop import train
from deepzero_jax.training.optimizer import learning_rate_schedule, make_optimizer
from deepzero_jax.training.probing import Probing, find_probe
from deepzero_jax.training.samples import SamplesFile
from deepzero_jax.training.step import TrainStep
from deepzero_jax.training.task import Task
from deepzero_jax.training.trained import Trained
from deepzero_jax.types import Key, Log, Params


class Stages:
    """Trains stages by Adam, one after the other; finished ones are read back.

    Args:
      seed: of the whole.
      keys: ``{stage: number}``. Stages of one number start from the same draws and see their data
        in the same order, so that only what they do with it sets them apart.
      workdir: the run folder.
      checkpoint_seconds: as in ``train``.
      log: takes a line for the person who watches.
    """

    def __init__(
        self,
        seed: int,
        keys: Mapping[str, int],
        workdir: Path,
        checkpoint_seconds: float = 60.0,
        log: Log = print,
    ) -> None:
        self.workdir, self.log = workdir, log
        self._seed, self._keys, self._checkpoint_seconds = seed, dict(keys), checkpoint_seconds
        self._beside = SamplesFile(workdir / "samples.json")
        self._within: dict[str, dict[str, int]] = {}
        self._seconds_file = workdir / "seconds.json"
        self._since, self._before = time.perf_counter(), 0.0
        if self._seconds_file.exists():
            self._before = read_json(self._seconds_file).get("wall_seconds", 0.0)

    @contextmanager
    def asking(self, part: str) -> Iterator[None]:
        """Counts what is sent inside to black boxes, beside the stages; kept in a file."""
        with self._timed(), self._beside.of(part):
            yield

    @property
    def wall_seconds(self) -> float:
        """Of all processes that have worked in the folder, up to the last part of each."""
        return round(self._before + time.perf_counter() - self._since, 1)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Keeps the time in a file, when a part ends and whenever a box is asked in it."""
        live = LiveJson(self._seconds_file, lambda: {"wall_seconds": self.wall_seconds})
        try:
            with watch_counts(live.update):
                yield
        finally:
            live.save()
            live.close()

    @property
    def box_samples(self) -> dict[str, int | dict[str, int]]:
        """Sent to black boxes: ``{part: samples}`` of ``asking``, and by purpose of each stage."""
        return {**self._beside.counts, **self._within}

    def key(self, name: str) -> Key:
        """The key of a stage."""
        return jax.random.fold_in(jax.random.key(self._seed), self._keys[name])

    def probing(self, name: str, fun: Callable[[Params], jax.Array], params: Params) -> Probing:
        """The probed smoothing of a stage, from its checkpoints where it has any."""
        return find_probe(fun, params, self.key(name), self.workdir / name, self.log)

    def run(
        self,
        name: str,
        task: Task,
        estimator: Estimator,
        num_steps: int,
        learning_rate: float,
        sampler: Sampler | None = None,
        probing: Probing | None = None,
        num_evaluations: int = 4,
    ) -> Trained:
        """Trains a stage, or reads it back; arguments as of ``TrainStep`` and ``train``.

        At most ``num_evaluations`` are spread evenly over its steps, one after the last.

        Raises:
          ValueError: a number that is no integer of at least 1, or a finished stage whose
            checkpoint is gone.
          InterruptedRunError, NonFiniteError, StepFailedError: from the loop.
        """
        num_steps = check_count("num_steps", num_steps)
        num_evaluations = check_count("num_evaluations", num_evaluations)
        folder = self.workdir / name
        folder.mkdir(parents=True, exist_ok=True)
        init_key, run_key = jax.random.split(self.key(name))
        params, model_state = task.init(init_key)
        schedule = learning_rate_schedule("cosine", learning_rate, num_steps)
        optimizer = make_optimizer("adam", schedule)
        step = TrainStep(task, estimator, optimizer, sampler or dense_sampler(params))
        state = step.init(run_key, params, model_state)
        if not (folder / "summary.json").exists():
            self.log(f"\n{name}: {num_steps:,} steps")
            with self._timed():
                train(
                    step,
                    state,
                    folder=folder,
                    num_steps=num_steps,
                    schedule=schedule,
                    evaluation_interval=-(-num_steps // num_evaluations),
                    checkpoint_seconds=self._checkpoint_seconds,
                    probing=probing,
                    name=name,
                    log=self.log,
                )
        checkpoints = Checkpointer(folder / "checkpoints", self.log)
        restored = checkpoints.restore(state)
        checkpoints.close()
        if restored is None:
            raise ValueError(
                f"{folder} is finished but holds no checkpoint; remove the folder to train it again"
            )
        summary = read_json(folder / "summary.json")
        if "box_samples" in summary:
            self._within[name] = summary["box_samples"]
        return Trained(restored[0].params, restored[0].model_state, summary)
