"""A training step as a program: compiled for CPUs, and for GPUs and TPU slices that are not there.

python -m benchmarks.compile --targets cpu,h100 --models resnet20 --sparsities 0.99

Targets other than the CPU need wheels, no device: ``jax[cuda12]`` for ``h100``, ``a100``,
``h100x8``; ``jax[tpu]`` for ``v5e_4x4``, ``v5e_16x16``; each in an environment of its own. A target
that cannot be had is skipped with the reason. Seconds to trace and to compile (on CPUs also to
start once more, from kept programs), size of the program, loops, convolutions and their distinct
shapes, temporaries, collectives, multiply-adds, and a roofline: the seconds that a device needs at
least for the arithmetic, and for what the largest loop writes.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

# Before jax is imported: they say that no device is there.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import deepzero_jax as dz
from benchmarks.engine import BATCH, RESULTS, problem
from benchmarks.hlo import Hlo
from benchmarks.off_the_shelf import flax_resnet20
from deepzero_jax.cost import chunks_for, multiply_adds
from deepzero_jax.difference.platforms import forms_of
from deepzero_jax.platform import collect_rarely
from deepzero_jax.sharding import COORDINATES, DATA
from deepzero_jax.training import Json
from deepzero_jax.types import PyTree
from studies.runner import Measurement, check_known, main


class Target(NamedTuple):
    """A device that need not be there.

    Attributes:
      platform: of JAX.
      topology: what ``topologies`` calls it.
      memory: bytes of one device.
      float32: multiply-adds a second, of matrix products in float32.
      bfloat16: likewise.
      bandwidth: bytes a second.
      capability: of a GPU, (major, minor).
      cores: of a GPU.
      mesh: coordinates × data.
    """

    platform: str
    topology: str
    memory: float
    float32: float
    bfloat16: float
    bandwidth: float
    capability: tuple[int, int] = (0, 0)
    cores: int = 0
    mesh: tuple[int, int] = (1, 1)


_H100 = Target("cuda", "1x1x1", 84.9e9, 33.5e12, 495e12, 3.35e12, (9, 0), 132)
_V5E = Target("tpu", "v5e:4x4", 17.2e9, 24.6e12, 98.5e12, 0.82e12, mesh=(16, 1))
TARGETS = {
    "cpu": None,
    "h100": _H100,
    "a100": Target("cuda", "1x1x1", 42.5e9, 9.7e12, 156e12, 1.56e12, (8, 0), 108),
    "h100x8": _H100._replace(topology="1x1x8", mesh=(8, 1)),
    "v5e_4x4": _V5E,
    "v5e_4x4_data2": _V5E._replace(mesh=(8, 2)),
    "v5e_16x16": _V5E._replace(topology="v5e:16x16", mesh=(256, 1)),
}


def _gpu(target: Target) -> str:
    """A GPU in the words of XLA."""
    major, minor = target.capability
    return (
        "gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 "
        "shared_memory_per_block: 49152 shared_memory_per_core: 233472 "
        f"threads_per_core_limit: 2048 core_count: {target.cores} fpus_per_core: 128 "
        "block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 "
        f"memory_bandwidth: {int(target.bandwidth)} l2_cache_size: 52428800 clock_rate_ghz: 1.98 "
        f"device_memory_size: {int(target.memory)} shared_memory_per_block_optin: 232448 "
        f"cuda_compute_capability {{ major: {major} minor: {minor} }} "
        "registers_per_core_limit: 65536 registers_per_block_limit: 65536 } "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } '
        "runtime_version { major: 12 minor: 9 patch: 0 } "
        f'device_description_str: "{"NVIDIA H100 80GB HBM3" if major == 9 else "NVIDIA A100"}"'
    )


@cache
def mesh_of(target: Target | None) -> Mesh:
    """Devices that need not be there, coordinates × data."""
    if target is None:
        devices, shape = np.array(jax.devices()[:1]), (1, 1)
    else:
        options: dict[str, Any] = {"topology_name": target.topology}
        if target.platform == "cuda":
            options = {"topology": target.topology, "target_config": _gpu(target)}
        found = topologies.get_topology_desc(platform=target.platform, **options)
        devices, shape = np.array(found.devices), target.mesh
    return Mesh(devices.reshape(shape), (COORDINATES, DATA), axis_types=(AxisType.Auto,) * 2)


def measure(name: str, model: str, sparsity: float, dtype: str, batch_size: str) -> Json:
    """What one program is; of the first-order step where ``sparsity`` is negative."""
    collect_rarely()  # as the programs do
    target = TARGETS[name]
    mesh = mesh_of(target)
    fun, params, args = flax_resnet20(BATCH) if model == "flax_resnet20" else problem(model)
    estimator, coordinates = dz.first_order(), None
    if sparsity >= 0:
        chunk = int(batch_size) if batch_size.isdigit() else batch_size
        delta_dtype = jnp.bfloat16 if dtype == "bfloat16" else None
        estimator = dz.cge(smoothing=1e-4, delta_dtype=delta_dtype, batch_size=chunk)
        estimator = dz.sharded(estimator, mesh) if mesh.size > 1 else estimator
        count = lambda leaf: max(1, round((1 - sparsity) * leaf.size))
        coordinates = jax.tree.map(lambda leaf: jnp.arange(count(leaf), dtype=jnp.int32), params)
    given = _placed((params, args, coordinates), mesh)
    vg = dz.value_and_grad(fun, estimator, has_aux=True)
    step = jax.jit(lambda params, args, coordinates: vg(params, *args, coordinates=coordinates))
    with ExitStack() as told:
        if target:
            told.enter_context(forms_of("gpu" if target.platform == "cuda" else "tpu"))
            told.enter_context(chunks_for(int(target.memory)))
        start = time.perf_counter()
        lowered = step.lower(*given)
        traced = time.perf_counter()
        compiled = lowered.compile()
    seconds = {"trace": traced - start, "compile": time.perf_counter() - traced}
    if target is None:
        seconds["warm"] = _warm_seconds(lambda: step.lower(*given).compile())
    found = _read(compiled) | {name: round(value, 2) for name, value in seconds.items()}
    found["multiply_adds"] = _multiply_adds(fun, params, args, coordinates) // mesh.size
    return found | (_roofline(target, found, dtype) if target else {})


def _warm_seconds(start: Callable[[], Any]) -> float:
    """Seconds to trace and load what a run before has compiled and kept."""
    with TemporaryDirectory() as folder:
        settings = {"compilation_cache_dir": folder, "persistent_cache_min_compile_time_secs": 0.0}
        before = {name: getattr(jax.config, f"jax_{name}") for name in settings}
        try:
            for name, value in settings.items():
                jax.config.update(f"jax_{name}", value)
            reset_cache()
            jax.clear_caches()
            start()
            jax.clear_caches()
            began = time.perf_counter()
            start()
            return time.perf_counter() - began
        finally:
            for name, value in before.items():
                jax.config.update(f"jax_{name}", value)
            reset_cache()


def _placed(tree: PyTree, mesh: Mesh) -> PyTree:
    everywhere = NamedSharding(mesh, PartitionSpec())
    shape = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=everywhere)
    return jax.tree.map(shape, tree)


def _read(compiled: Any) -> Json:
    program = Hlo(compiled.as_text())
    convolutions, shapes = program.convolutions()
    return {
        "hlo_bytes": program.num_bytes,
        "loops": program.count("while"),
        "branches": program.count("conditional"),
        "fusions": program.count("fusion"),
        "convolutions": convolutions,
        "convolution_shapes": shapes,
        "temporaries": int(compiled.memory_analysis().temp_size_in_bytes),
        "largest_loop_bytes": program.bytes_of_largest_loop(),
        **program.collectives(),
    }


def _multiply_adds(fun: Any, params: PyTree, args: PyTree, coordinates: PyTree) -> int:
    base = multiply_adds(fun, params, *args)
    if coordinates is None:
        return 3 * base
    costs = dz.coordinate_costs(fun, params, *args, has_aux=True).values()
    counts = [indices.shape[0] for indices in jax.tree.leaves(coordinates)]
    return base + round(sum(cost * count for cost, count in zip(costs, counts, strict=True)))


def _roofline(target: Target, found: Json, dtype: str) -> Json:
    rate = target.bfloat16 if dtype == "bfloat16" else target.float32
    # A round of the loop cannot be faster than its writes, each read once.
    return {
        "seconds_of_arithmetic": found["multiply_adds"] / rate,
        "seconds_of_a_round": 2 * found["largest_loop_bytes"] / target.bandwidth,
    }


def cells(
    targets: tuple[str, ...] = ("cpu",),
    models: tuple[str, ...] = ("resnet20",),
    methods: tuple[str, ...] = ("first_order", "cge"),
    sparsities: tuple[float, ...] = (0.99,),
    dtypes: tuple[str, ...] = ("float32",),
    batch_size: str = "auto",
) -> Iterator[Measurement]:
    """A first-order step of each network, then a step of CGE at each sparsity.

    A target whose wheels are not installed, or whose topology they do not know, is skipped.

    Raises:
      ValueError: an unknown method.
    """
    check_known("method", methods, ("first_order", "cge"))
    steps = [(-1.0, "float32")] if "first_order" in methods else []
    if "cge" in methods:
        steps += [(sparsity, dtype) for sparsity in sparsities for dtype in dtypes]
    for target in targets:
        known = TARGETS[target]
        try:
            mesh_of(known)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            print(f"compile/{target}: skipped, {reason}", flush=True)
            continue
        for model in models:
            for sparsity, dtype in steps:
                kind = f"{sparsity:g}-{dtype}-{batch_size}" if sparsity >= 0 else "first_order"
                labels = {"target": target, "model": model, "batch": BATCH, "step": kind}
                run = partial(measure, target, model, sparsity, dtype, batch_size)
                yield Measurement(f"{target}-{model}-{kind}", labels, run)


if __name__ == "__main__":
    main("compile", (cells,), __doc__ or "", results=RESULTS)
