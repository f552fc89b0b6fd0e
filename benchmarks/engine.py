"""Measures a CGE step on CPU: milliseconds per coordinate, and a dense step in PyTorch passes.

python -m benchmarks.engine --models cnn1,cnn2,cnn5,resnet20   (needs the ``bench`` extra)

What benchmarks/results/ holds already is not measured again.

The yardstick is one eager PyTorch CPU forward pass of the same network, batch and threads:
the released code pays one such pass for each coordinate.
"""

import resource
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import deepzero_jax as dz
from benchmarks.pytorch_forward import forward_pass
from deepzero_jax.coordinates import first_coordinates, leaf_paths
from deepzero_jax.estimators import Reuse
from deepzero_jax.models import MODELS, init_model, split_model_loss
from deepzero_jax.split import SplitFunction
from deepzero_jax.training import Json, cross_entropy
from deepzero_jax.types import Params, PyTree
from studies.runner import Measurement, main

BATCH = 256
RESULTS = Path(__file__).parent / "results"


def problem(name: str) -> tuple[SplitFunction, Params, tuple[PyTree, ...]]:
    """The training loss of a network on a batch of random CIFAR-sized images."""
    model = MODELS[name]()
    images = jax.random.normal(jax.random.key(0), (BATCH, 32, 32, 3))
    params, model_state = init_model(model, jax.random.key(1), images[:1])
    labels = jnp.arange(BATCH) % 10
    return split_model_loss(model, cross_entropy), params, (model_state, images, labels)


def sampled(params: Params, per_leaf: int, fraction: float = 0.0) -> PyTree:
    """Random coordinates: ``per_leaf`` of every leaf, or a ``fraction`` of it if that is more."""
    rng = np.random.default_rng(0)

    def one(leaf: jax.Array) -> np.ndarray:
        count = max(per_leaf, int(fraction * leaf.size))
        return np.sort(rng.permutation(leaf.size)[:count]).astype(np.int32)

    return jax.tree.map(one, params)


def median_seconds(run: Callable[[], PyTree], repeats: int) -> float:
    """Median wall time of ``run()``, its result waited for."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def measure(name: str, reuse: Reuse, per_leaf: int, repeats: int) -> Json:
    """Compiles the whole step with ``per_leaf`` coordinates of every leaf; times leaf by leaf."""
    fun, params, args = problem(name)
    pytorch = forward_pass(name, BATCH)
    pytorch_times = []
    # A large leaf weighs much; a few of its coordinates would vanish beside the base's jitter.
    coordinates = sampled(params, per_leaf, fraction=1 / 72)
    smoothing = 1e-4 if reuse == "difference" else 5e-3
    vg = jax.jit(dz.value_and_grad(fun, dz.cge(smoothing=smoothing, reuse=reuse), has_aux=True))
    start = time.perf_counter()
    compiled = vg.lower(params, *args, coordinates=coordinates).compile()
    compile_seconds = time.perf_counter() - start

    def seconds(position: int | None, count: int) -> float:
        counts = [count if i == position else 0 for i in range(len(jax.tree.leaves(params)))]
        part = first_coordinates(params, coordinates, counts)
        return median_seconds(lambda: compiled(params, *args, coordinates=part), 1)

    seconds(None, 0)
    base = float(np.median([seconds(None, 0) for _ in range(repeats)]))
    leaves, total = {}, base
    for position, (path, leaf, chosen) in enumerate(
        zip(leaf_paths(params), *map(jax.tree.leaves, (params, coordinates)), strict=True)
    ):
        count = chosen.size
        # Each against a baseline of its own: the machine's pace drifts by more than a leaf costs.
        pairs = [(seconds(None, 0), seconds(position, count)) for _ in range(repeats)]
        # The yardstick too: measured once at the end, it would be of another hour. The first
        # pass after JAX's work finds cold caches and does not count.
        pytorch_times += [pytorch() for _ in range(4)][1:]
        added = [with_leaf - without for without, with_leaf in pairs]
        each = float(np.median(added)) / count
        noise = float(np.ptp([without for without, _ in pairs])) / count
        leaves[path] = {
            "coordinates": leaf.size,
            "measured": count,
            "milliseconds": 1e3 * each,
            "noise_milliseconds": 1e3 * noise,
        }
        total += each * leaf.size
    return {
        "model": name,
        "reuse": reuse,
        "coordinates": sum(leaf["coordinates"] for leaf in leaves.values()),
        "per_leaf": per_leaf,
        "compile_seconds": compile_seconds,
        "base_seconds": base,
        "dense_step_seconds": total,
        "pytorch_forward_seconds": float(np.median(pytorch_times)),
        "leaves": leaves,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def measure_whole(name: str, repeats: int) -> float:
    """Seconds of a whole dense step, every coordinate run."""
    fun, params, args = problem(name)
    vg = jax.jit(dz.value_and_grad(fun, dz.cge(smoothing=1e-4), has_aux=True))
    jax.block_until_ready(vg(params, *args))
    return median_seconds(lambda: vg(params, *args), repeats)


def show(result: Json) -> None:
    """Prints one result as a table."""
    print(f"\n{result['model']}, reuse={result['reuse']}, batch {BATCH}")
    print(f"{'leaf':<30} {'coordinates':>11} {'ms each':>9} {'s':>9}")
    for path, leaf in result["leaves"].items():
        spent = 1e-3 * leaf["milliseconds"] * leaf["coordinates"]
        unsure = "  within the noise" if leaf["milliseconds"] < leaf["noise_milliseconds"] else ""
        count, each = leaf["coordinates"], leaf["milliseconds"]
        print(f"{path:<30} {count:>11,} {each:>9.3f} {spent:>9.2f}{unsure}")
    line = f"dense step {result['dense_step_seconds']:.4g} s"
    passes = result["dense_step_seconds"] / result["pytorch_forward_seconds"]
    line += f" = {passes:,.1f} PyTorch passes of {1e3 * result['pytorch_forward_seconds']:.1f} ms"
    print(
        f"{line}; compiled in {result['compile_seconds']:.1f} s, "
        f"peak memory {result['peak_memory_gb']:.2f} GB"
    )


def measurements(
    models: tuple[str, ...] = ("cnn1", "cnn2", "cnn5", "resnet20"),
    reuse: tuple[Reuse, ...] = ("difference",),
    per_leaf: int = 16,
    repeats: int = 3,
) -> Iterator[Measurement]:
    """A dense step of each network, each way; a table is printed."""

    def dense_step(name: str, way: Reuse) -> Json:
        result = measure(name, way, per_leaf, repeats)
        if name.startswith("cnn") and way == "difference":
            result["dense_step_seconds"] = measure_whole(name, repeats)
        show(result)
        return result

    for name in models:
        for way in reuse:
            labels = {"model": name, "reuse": way}
            yield Measurement(f"{name}-{way}", labels, partial(dense_step, name, way))


if __name__ == "__main__":
    main("engine", (measurements,), __doc__ or "", results=RESULTS)
