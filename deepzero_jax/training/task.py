"""What a training loop must know of a problem."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from deepzero_jax.blackbox import BlackBox
from deepzero_jax.types import Key, Params, PyTree


class Task(NamedTuple):
    """A training problem.

    Attributes:
      init: ``(key) -> (params, model_state)``.
      loss: ``(params, model_state, *batch) -> (loss, (model_state, metrics))``.
      data: pytree of arrays, handed to ``batch`` and ``evaluate`` as an argument.
      batch: ``(data, key, step) -> batch``, a tuple; pure, so that a resumed run sees
        the same batches.
      evaluate: ``(params, model_state, data) -> {name: float}``.
      steps_per_epoch: steps that see every training example once.
      score: the name in ``evaluate``'s result by which runs are judged.
      higher_is_better: direction of ``score``.
      evaluation_samples: ``(params, model_state, data) -> int``, what ``evaluate`` sends to black
        boxes, told without asking; None: nobody knows.
      boxes: that ``evaluate`` asks and the loss does not, so that their counts and budgets are
        kept with a run.
    """

    init: Callable[[Key], tuple[Params, PyTree]]
    loss: Callable[..., tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]]
    data: PyTree
    batch: Callable[[PyTree, Key, jax.Array], tuple[PyTree, ...]]
    evaluate: Callable[[Params, PyTree, PyTree], dict[str, float]]
    steps_per_epoch: int
    score: str = "test_accuracy"
    higher_is_better: bool = True
    evaluation_samples: Callable[[Params, PyTree, PyTree], int] | None = None
    boxes: tuple[BlackBox, ...] = ()

    def loss_on_a_batch(self, model_state: PyTree, key: Key) -> Callable[[Params], jax.Array]:
        """The loss as a function of the parameters alone, on the first batch of a key."""
        batch = self.batch(self.data, key, jnp.int32(0))
        return lambda params: self.loss(params, model_state, *batch)[0]
