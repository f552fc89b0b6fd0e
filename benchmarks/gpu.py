"""Checks, times and trains on an accelerator that is lent for minutes, in one command.

timeout --foreground 540 python -m benchmarks.gpu

Accuracy against a float64 finite difference at the same μ; then a 90 %- and a 99 %-sparse
ResNet-20 step at batch 256, in float32 and with bfloat16 differences, with the multiply-adds of
each and the achieved fraction of the device's own matrix rate; then DeepZero at 99 %, as the study
of sparsity trains it, until the time is over. The same command goes on from there: what was
measured is not measured again, and the run resumes if its folder (``--runs``) was kept. It needs
CIFAR-10 prepared in ``TFDS_DATA_DIR``. A rehearsal on a CPU, in two minutes and without data:

  python -m benchmarks.gpu --model cnn1 --per_leaf 2 --matrix 256 --record quickstart --epochs 2
"""

import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

import deepzero_jax as dz
from benchmarks.engine import RESULTS, median_seconds, problem, sampled
from deepzero_jax.coordinates import coordinates_per_leaf, num_coordinates
from deepzero_jax.training import Json
from deepzero_jax.types import PyTree
from studies.runner import Cell, Measurement, main
from studies.sparsity import cell


def flat(tree: PyTree) -> np.ndarray:
    """All leaves in one float64 vector."""
    return np.concatenate(
        [np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)]
    )


def gradient(
    name: str,
    coordinates: PyTree,
    wide: bool,
    smoothing: float,
    delta_dtype: DTypeLike | None = None,
) -> np.ndarray:
    """One estimate at ``coordinates``, in float64 if ``wide``."""
    fun, params, args = problem(name)
    with jax.enable_x64(wide):
        if wide:
            params, args = jax.tree.map(
                lambda a: np.asarray(a, np.float64) if a.dtype == jnp.float32 else np.asarray(a),
                (params, args),
            )
        vg = jax.jit(
            dz.value_and_grad(
                fun, dz.cge(smoothing=smoothing, delta_dtype=delta_dtype), has_aux=True
            )
        )
        return flat(vg(params, *args, coordinates=coordinates)[1])


def accuracy(name: str, per_leaf: int) -> list[Json]:
    """Relative error of the estimate, by smoothing and type of the differences."""
    coordinates = sampled(problem(name)[1], per_leaf)
    rows = []
    for smoothing in (5e-3, 1e-4):
        exact = gradient(name, coordinates, wide=True, smoothing=smoothing)
        for delta_dtype in (None, jnp.bfloat16):
            got = gradient(
                name, coordinates, wide=False, smoothing=smoothing, delta_dtype=delta_dtype
            )
            error = float(np.linalg.norm(got - exact) / np.linalg.norm(exact))
            label = "bfloat16" if delta_dtype else "float32"
            rows.append({"smoothing": smoothing, "delta_dtype": label, "error": error})
            print(f"μ {smoothing:g}  {label:<9} relative error {error:.1e}", flush=True)
    return rows


def step_multiply_adds(name: str, coordinates: PyTree) -> int:
    """Multiply-adds of the perturbed passes of a step: each leaf's coordinates at their price."""
    fun, params, args = problem(name)
    costs = dz.coordinate_costs(fun, params, *args, has_aux=True)
    counts = coordinates_per_leaf(params, coordinates)
    return int(sum(counts[path] * costs[path] for path in costs))


def matrix_rate(dtype: DTypeLike, size: int) -> float:
    """Multiply-adds a second of a large matrix product."""
    a = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.dot)
    jax.block_until_ready(product(a, a))
    return size**3 / median_seconds(lambda: product(a, a), 5)


def timing(name: str, size: int) -> list[Json]:
    """Seconds of a sparse step, by sparsity and type of the differences."""
    fun, params, args = problem(name)
    rows = []
    for sparsity in (0.99, 0.9):
        scores = jax.jit(lambda p: dz.grasp_scores(lambda q: fun(q, *args)[0], p))(params)
        ratios = dz.layer_ratios(scores, sparsity)
        coordinates = dz.sample_coordinates(jax.random.key(2), params, ratios)
        count = step_multiply_adds(name, coordinates)
        for delta_dtype in (None, jnp.bfloat16):
            estimator = dz.cge(smoothing=1e-4, delta_dtype=delta_dtype)
            vg = jax.jit(dz.value_and_grad(fun, estimator, has_aux=True))
            run = lambda vg=vg, c=coordinates: vg(params, *args, coordinates=c)
            start = time.perf_counter()
            jax.block_until_ready(run())
            first = time.perf_counter() - start
            seconds = median_seconds(run, 3)
            fraction = count / seconds / matrix_rate(delta_dtype or jnp.float32, size)
            label = "bfloat16" if delta_dtype else "float32"
            rows.append(
                {
                    "sparsity": sparsity,
                    "delta_dtype": label,
                    "coordinates": num_coordinates(params, coordinates),
                    "seconds": seconds,
                    "seconds_of_the_first": first,  # compiled in it
                    "multiply_adds": count,
                    "fraction_of_matrix_rate": fraction,
                }
            )
            print(
                f"{100 * sparsity:g} % sparse  {label:<9} {seconds:.3f} s a step "
                f"({first:.0f} s the first), {count / 1e12:.1f} T multiply-adds, "
                f"{100 * fraction:.0f} % of the matrix rate",
                flush=True,
            )
    return rows


def measurements(
    model: str = "resnet20", per_leaf: int = 8, matrix: int = 8192
) -> Iterator[Measurement]:
    """Accuracy and timing on the device of this process."""
    device = jax.devices()[0].device_kind
    name = device.lower().replace(" ", "_")
    labels = {"model": model, "device": device}
    yield Measurement(
        f"accuracy-{model}-{name}", labels, lambda: {"rows": accuracy(model, per_leaf)}
    )
    yield Measurement(f"timing-{model}-{name}", labels, lambda: {"rows": timing(model, matrix)})


def training(record: str = "resnet20_cifar10_paper", epochs: float = 50) -> Iterator[Cell]:
    """DeepZero at 99 %."""
    run = cell("resnet20", "deepzero", 0.99, 0, epochs)
    yield run._replace(name=f"{run.name}-{record}", config=record)


if __name__ == "__main__":
    main("gpu", (measurements, training), __doc__ or "", results=RESULTS)
