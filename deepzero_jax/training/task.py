"""What a training loop must know of a problem."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from deepzero_jax.blackbox import BlackBox
from deepzero_jax.coordinates import leaf_paths
from deepzero_jax.training.metrics import check_names
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
        batch = self.checked_batch(self.data, key, jnp.int32(0))
        return lambda params: self.loss(params, model_state, *batch)[0]

    def checked_batch(self, data: PyTree, key: Key, step: jax.Array) -> tuple[PyTree, ...]:
        """What ``batch`` gives; TypeError, a line, for what is no tuple."""
        batch = self.batch(data, key, step)
        if not isinstance(batch, tuple | list):
            raise TypeError(
                "Task.batch must give a tuple of the loss's arguments behind model_state, got "
                f"{type(batch).__name__}: give (batch,) for one"
            )
        return tuple(batch)


def checked_aux(aux: PyTree, before: PyTree) -> tuple[PyTree, Mapping[str, jax.Array]]:
    """``(model_state, metrics)`` of a loss.

    Args:
      aux: what the loss gives beside its value.
      before: the ``model_state`` that it was given.

    Raises:
      TypeError: not such a pair.
      ValueError: a metric that is no number or that is called as what is recorded of every run,
        or a state whose leaves are not those that it was given.
    """
    if not isinstance(aux, tuple | list) or len(aux) != 2:
        raise TypeError(
            "a task's loss must give (loss, (model_state, metrics)); beside its value, in place "
            f"of (model_state, metrics), got {type(aux).__name__}"
        )
    model_state, metrics = aux
    if not isinstance(metrics, Mapping):
        raise TypeError(
            "a task's loss must give (loss, (model_state, metrics)), metrics as {name: number}, "
            f"got {type(metrics).__name__}: give {{}} if there are none"
        )
    check_names("metric", metrics)
    for name, value in metrics.items():
        if jnp.shape(value):
            raise ValueError(
                f"a metric must be one number, and the task's {name!r} has shape "
                f"{jnp.shape(value)}: give its mean"
            )
    _check_model_state(before, model_state)
    return model_state, metrics


def _check_model_state(before: PyTree, after: PyTree) -> None:
    was, found = _kinds(before), _kinds(after)
    for path in (*was, *found):
        if was.get(path) != found.get(path):
            raise ValueError(
                f"a task's loss must give model_state as it was: its leaf {path!r} was "
                f"{was.get(path, 'not there')} and is {found.get(path, 'not there')}"
            )
    if (one := jax.tree.structure(before)) != (other := jax.tree.structure(after)):
        raise ValueError(
            f"a task's loss must give model_state as it was: it was {one} and is {other}"
        )


def _kinds(tree: PyTree) -> dict[str, str]:
    """Dtype and shape of each leaf, by its path."""
    kinds = [f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" for leaf in jax.tree.leaves(tree)]
    return dict(zip(leaf_paths(tree), kinds, strict=True))
