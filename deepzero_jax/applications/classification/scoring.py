"""How the parameters of an experiment are scored, and what their scores say of it."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from deepzero_jax.applications.classification.config import Pruning
from deepzero_jax.applications.classification.experiment import Experiment
from deepzero_jax.blackbox import box_errors
from deepzero_jax.estimators import Loss, counting_passes
from deepzero_jax.pruning import SCORES, layer_ratios
from deepzero_jax.pruning.ratios import equal_fraction
from deepzero_jax.pruning.scores import check_scoring_smoothing
from deepzero_jax.registry import arguments, call_with
from deepzero_jax.training import Boxes, scoring_batch
from deepzero_jax.types import Key, Log, Params, PyTree


class Scoring(NamedTuple):
    """How the parameters of an experiment are scored.

    Attributes:
      experiment: whose they are.
      score_key: of the directions.
      args: of the loss, behind the parameters.
      num_queries: that the scores cost.
      boxes: black boxes in the loss.
    """

    experiment: Experiment
    score_key: Key
    args: tuple[PyTree, ...]
    num_queries: int
    boxes: Boxes

    @classmethod
    def of(cls, experiment: Experiment) -> "Scoring":
        """As the record says; nothing is asked.

        Raises:
          ValueError: fewer images of a class than are asked for, or a smoothing that does not
            move the parameters.
        """
        pruning = experiment.config.pruning
        _check_smoothing(pruning, experiment.params)
        batch_key, score_key = jax.random.split(experiment.key("pruning"))
        args = (experiment.model_state, *_batch(experiment, batch_key))
        queries = call_with(SCORES[pruning.scores].num_queries, vars(pruning))
        boxes = Boxes.of(Loss(experiment.task.loss, args, has_aux=True), experiment.params)
        return cls(experiment, score_key, args, queries, boxes)

    @property
    def num_samples(self) -> int:
        """That scoring sends to the boxes, attempts after failures aside."""
        return self.num_queries * sum(self.boxes.samples.values())

    def scores(self, advance: Callable[[int], None] | None = None) -> PyTree:
        """Scores of the parameters.

        Args:
          advance: is told how many queries more are done, where scores count them.

        Raises:
          BlackBoxError: no answer, or a budget that does not hold the samples.
        """
        pruning, task = self.experiment.config.pruning, self.experiment.task
        self.boxes.check(self.num_queries)

        def loss(params: Params, *args: PyTree) -> jax.Array:
            return task.loss(params, *args)[0]

        def scores(params: Params, *args: PyTree) -> PyTree:
            given = {"fun": loss, "params": params, "args": args, "key": self.score_key}
            return call_with(SCORES[pruning.scores].scores, {**vars(pruning), **given})

        with box_errors(), counting_passes(advance):
            return jax.block_until_ready(jax.jit(scores)(self.experiment.params, *self.args))


def _takes(pruning: Pruning, name: str) -> bool:
    """Whether the scores of a record are given that argument."""
    return name in arguments(SCORES[pruning.scores].scores)


def _check_smoothing(pruning: Pruning, params: Params) -> None:
    if not _takes(pruning, "smoothing"):
        return
    try:
        check_scoring_smoothing(pruning.smoothing, params)
    except ValueError as error:
        raise ValueError(f"pruning.{error}") from error


def _batch(experiment: Experiment, key: Key) -> tuple[PyTree, ...]:
    """What scores are computed on; a batch of the training, for the boxes alone, if on nothing."""
    task, pruning = experiment.task, experiment.config.pruning
    if not _takes(pruning, "args"):
        return task.batch(task.data, key, jax.numpy.int32(0))
    try:
        return scoring_batch(experiment.dataset, key, pruning.samples_per_class)
    except ValueError as error:
        raise ValueError(
            f"pruning.samples_{error}; give at most as many, or pruning.scores=random, which looks "
            "at none"
        ) from error


def compute_scores(experiment: Experiment) -> tuple[PyTree, int]:
    """Scores of the parameters at initialisation and the queries they cost."""
    scoring = Scoring.of(experiment)
    return scoring.scores(), scoring.num_queries


def ranked(scores: PyTree, pruning: Pruning) -> dict[str, float]:
    """The layer ratios of scores."""
    try:
        return layer_ratios(scores, pruning.sparsity, prune=pruning.prune)
    except ValueError as error:
        raise ValueError(f"pruning.scores={pruning.scores}: {error}{_at(pruning)}") from error


def tell_equal(scores: PyTree, pruning: Pruning, log: Log) -> None:
    """Says that most scores rank nothing, if they do."""
    if (fraction := equal_fraction(scores)) > 0.5:
        log(
            f"{100 * fraction:.0f} % of the scores are equal, and are ranked by their position: "
            f"does the loss answer such a step{_at(pruning)}?"
        )


def _at(pruning: Pruning) -> str:
    """The fields that say how far scores look, in words."""
    steps = [name for name in ("smoothing", "step") if _takes(pruning, name)]
    settings = ", ".join(f"pruning.{name}={getattr(pruning, name):g}" for name in steps)
    return f" (at {settings})" if settings else ""
