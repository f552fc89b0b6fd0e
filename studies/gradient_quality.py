"""How far CGE and RGE are from the gradient by autodiff, at initialisation on CIFAR-10.

python -m studies.gradient_quality --models cnn2,resnet20

CGE by smoothing and by the way in which a perturbed pass is evaluated, on up to 500 random
coordinates; RGE by the number of directions, on all of them. What rounding does to CGE: a
coordinate of every leaf, against the same finite difference in float64.
"""

from collections.abc import Iterator
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

import deepzero_jax as dz
from deepzero_jax.applications.classification import Experiment, build
from deepzero_jax.coordinates import masked_coordinates
from deepzero_jax.training import Json
from deepzero_jax.types import Params, PyTree
from studies.runner import Measurement, configured, main

STUDY = "gradient_quality"
SMOOTHINGS = (1e-1, 1e-2, 5e-3, 1e-3, 1e-4, 1e-5)
ROUNDED = (5e-3, 1e-4)  # smoothings at which rounding is measured
DIRECTIONS = (10, 100, 1000)
WAYS = {
    "difference": {"reuse": "difference"},
    "difference_bf16": {"reuse": "difference", "delta_dtype": jnp.bfloat16},
    "subtraction": {"reuse": "none"},
}


@lru_cache(maxsize=1)
def problem(model: str) -> tuple[Experiment, tuple[PyTree, ...], PyTree]:
    """An experiment, arguments of its loss on the first batch, and the gradient by autodiff."""
    config = configured("cnn_cifar10", {"model.name": model})
    experiment = build(config)
    task = experiment.task
    batch = task.batch(task.data, experiment.key("run"), jnp.int32(0))
    args = (experiment.model_state, *batch)
    vg = jax.jit(dz.value_and_grad(task.loss, dz.first_order(), has_aux=True))
    return experiment, args, vg(experiment.params, *args)[1]


def some_coordinates(params: Params, count: int = 500) -> PyTree:
    """Random coordinates of the whole tree, the same at every call."""
    leaves, treedef = jax.tree.flatten(params)
    ends = np.cumsum([leaf.size for leaf in leaves])
    kept = np.zeros(ends[-1], bool)
    kept[np.random.default_rng(0).permutation(ends[-1])[:count]] = True
    parts = np.split(kept, ends[:-1])
    mask = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return masked_coordinates(treedef.unflatten(mask))


def quality(model: str, estimator: dz.Estimator, coordinates: PyTree = None) -> Json:
    """Cosine and relative error of one estimate."""
    experiment, args, exact = problem(model)
    vg = jax.jit(dz.value_and_grad(experiment.task.loss, estimator, has_aux=True))
    key = jax.random.key(1)
    grads = vg(experiment.params, *args, key=key, coordinates=coordinates)[1]
    found = dz.gradient_quality(grads, exact, coordinates)
    return {name: float(value) for name, value in found._asdict().items()}


def measurements(models: tuple[str, ...] = ("cnn2", "resnet20")) -> Iterator[Measurement]:
    """The cells, network by network."""

    def of_cge(model: str, way: str, smoothing: float) -> Json:
        estimator = dz.cge(smoothing=smoothing, **WAYS[way])
        return quality(model, estimator, some_coordinates(problem(model)[0].params))

    def of_rge(model: str, directions: int) -> Json:
        return quality(model, dz.rge(smoothing=1e-4, num_directions=directions))

    for model in models:
        for way in WAYS:
            for smoothing in SMOOTHINGS:
                labels = {"model": model, "way": way, "smoothing": smoothing}
                yield Measurement(
                    f"{model}-{way}-{smoothing:g}",
                    labels,
                    lambda m=model, w=way, s=smoothing: of_cge(m, w, s),
                )
        for directions in DIRECTIONS:
            labels = {"model": model, "way": "rge", "num_directions": directions}
            yield Measurement(
                f"{model}-rge-{directions}", labels, lambda m=model, q=directions: of_rge(m, q)
            )


def rounding(models: tuple[str, ...] = ("cnn2", "resnet20")) -> Iterator[Measurement]:
    """What rounding does to CGE, network by network."""
    for model in models:
        for smoothing in ROUNDED:
            for way in WAYS:
                labels = {"model": model, "rounding_of": way, "smoothing": smoothing}
                measure = partial(_rounding, model, way, smoothing)
                yield Measurement(f"{model}-rounding-{way}-{smoothing:g}", labels, measure)


def _rounding(model: str, way: str, smoothing: float) -> Json:
    estimator = dz.cge(smoothing=smoothing, **WAYS[way])
    got = jax.device_get(_on_every_leaf(model, estimator))
    with jax.enable_x64(True):
        found = dz.gradient_quality(got, _in_float64(model, smoothing))
    return {"relative_error": float(found.relative_error)}


@lru_cache(maxsize=1)
def _in_float64(model: str, smoothing: float) -> PyTree:
    # Propagated: equal to a subtraction to 1e-8, and quicker.
    with jax.enable_x64(True):
        return jax.device_get(_on_every_leaf(model, dz.cge(smoothing=smoothing), jnp.float64))


def _on_every_leaf(model: str, estimator: dz.Estimator, dtype: DTypeLike = jnp.float32) -> PyTree:
    """An estimate at one random coordinate of every leaf, the same at every call."""
    experiment, args, _ = problem(model)
    rng = np.random.default_rng(0)
    params, args = jax.tree.map(
        lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
        (experiment.params, args),
    )
    coordinates = jax.tree.map(lambda leaf: rng.integers(0, leaf.size, 1).astype(np.int32), params)
    vg = jax.jit(dz.value_and_grad(experiment.task.loss, estimator, has_aux=True))
    return vg(params, *args, coordinates=coordinates)[1]


if __name__ == "__main__":
    main(STUDY, (measurements, rounding), __doc__ or "")
