"""Runs of the training loop in subfolders of one run folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from deepzero_jax.estimators import Estimator
from deepzero_jax.sampling import Sampler, dense_sampler
from deepzero_jax.training import loop
from deepzero_jax.training.checkpoint import Checkpointer
from deepzero_jax.training.folder import read_json
from deepzero_jax.training.optimizer import learning_rate_schedule, make_optimizer
from deepzero_jax.training.step import make_step
from deepzero_jax.training.task import Task

PyTree = Any


class Stages:
    """Trains stages by Adam, one after the other; finished ones are read back.

    Args:
      seed: of the whole.
      keys: ``{stage: number}``. Stages of one number start from the same draws and see their data
        in the same order, so that only what they do with it sets them apart.
      workdir: the run folder.
      checkpoint_seconds: as in ``loop.Settings``.
      say: prints a line.
    """

    def __init__(
        self,
        seed: int,
        keys: Mapping[str, int],
        workdir: Path,
        checkpoint_seconds: float,
        say: Callable[[str], None],
    ) -> None:
        self.workdir, self.say = workdir, say
        self._seed, self._keys, self._checkpoint_seconds = seed, dict(keys), checkpoint_seconds

    def key(self, name: str) -> jax.Array:
        """The key of a stage."""
        return jax.random.fold_in(jax.random.key(self._seed), self._keys[name])

    def run(
        self,
        name: str,
        task: Task,
        estimator: Estimator,
        num_steps: int,
        learning_rate: float,
        sampler: Sampler | None = None,
    ) -> tuple[PyTree, PyTree, dict[str, Any]]:
        """Trains a stage; its parameters, running statistics and summary.

        Raises:
          ValueError: a finished stage whose checkpoint is gone.
          InterruptedRunError, NonFiniteError, StepFailedError: from the loop.
        """
        folder = self.workdir / name
        folder.mkdir(parents=True, exist_ok=True)
        init_key, run_key = jax.random.split(self.key(name))
        params, model_state = task.init(init_key)
        schedule = learning_rate_schedule("cosine", learning_rate, num_steps, 0)
        optimizer = make_optimizer("adam", schedule)
        step = make_step(task, estimator, optimizer, sampler or dense_sampler(params))
        state = step.init(run_key, params, model_state)
        if not (folder / "summary.json").exists():
            self.say(f"\n{name}: {num_steps:,} steps")
            interval = max(1, num_steps // 4)
            settings = loop.Settings(name, num_steps, interval, self._checkpoint_seconds)
            loop.run(task, estimator, step, schedule, state, folder, settings, self.say)
        checkpoints = Checkpointer(folder / "checkpoints", self.say)
        restored = checkpoints.restore(state)
        checkpoints.close()
        if restored is None:
            raise ValueError(
                f"{folder} is finished but holds no checkpoint; remove the folder to train it again"
            )
        return restored[0].params, restored[0].model_state, read_json(folder / "summary.json")
