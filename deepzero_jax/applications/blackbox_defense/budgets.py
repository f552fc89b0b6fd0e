"""What the queries of a record allow a method."""

from collections.abc import Callable

import jax

from deepzero_jax.applications.blackbox_defense.config import DefenseConfig
from deepzero_jax.applications.blackbox_defense.methods import METHODS, Method
from deepzero_jax.coordinates import kept_per_leaf, leaf_paths
from deepzero_jax.estimators import Estimator
from deepzero_jax.registry import present
from deepzero_jax.types import PyTree


def estimators_of(name: str, config: DefenseConfig) -> Callable[[float], Estimator]:
    """``(smoothing) -> estimator`` of a method."""
    training, way = config.training, present(METHODS, name)
    directions = training.boundary_directions if way.at_boundary else training.num_directions
    return lambda smoothing: way.estimator(smoothing, directions, training.chunk_size)


def pruned(config: DefenseConfig, params: PyTree) -> dict[str, float]:
    """The part of each kernel that a step leaves out."""
    paths = (path for path in leaf_paths(params) if path.endswith("kernel"))
    return dict.fromkeys(paths, 1 - config.training.fraction)


def num_steps(
    name: str, config: DefenseConfig, method: Method, estimator: Estimator, probed: int
) -> int:
    """Steps that ``training.num_queries`` allow behind a probe of so many queries.

    Raises:
      ValueError: none.
    """
    training, way = config.training, present(METHODS, name)
    if not way.queries:
        return training.first_order_steps
    per_step = method.estimator.num_queries(0)
    if way.at_fraction:
        params, _ = method.task.init(jax.random.key(0))
        moved = sum(kept_per_leaf(params, pruned(config, params)).values())
        per_step = estimator.num_queries(moved)
    steps = (training.num_queries - probed) // per_step
    if steps < 1:
        probe = f" and the {probed:,} of the probe of its smoothing" if probed else ""
        raise ValueError(
            f"training.num_queries {training.num_queries:,} is less than the {per_step:,} of one "
            f"step of {name}{probe}"
        )
    return steps
