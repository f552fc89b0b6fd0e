"""Measures how a sparse CGE step scales over processes, and shows how work is dealt out.

python -m benchmarks.scaling

Prediction: seconds and traffic of such a step on 1 to 1,024 devices like the one that
``benchmarks/results/engine`` was measured on.

Speed-up: the same step of a CNN of the ladder, on one and on two single-threaded processes
that talk over the loopback interface. Work: each device's multiply-adds of a 90 %-sparse
ResNet-20 step, on 1 to 64 devices.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

import deepzero_jax as dz
from benchmarks.engine import RESULTS, problem
from deepzero_jax.coordinates import coordinates_per_leaf
from deepzero_jax.sharding import (
    is_lead,
    make_mesh,
    replicate,
    shard_coordinates,
)
from deepzero_jax.training import Json
from studies.report.committed import chosen, results
from studies.runner import Measurement, main

_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def step_seconds(name: str, repeats: int) -> float:
    """Median seconds of a 50 %-sparse step on all devices of all processes."""
    fun, params, args = problem(name)
    mesh = make_mesh()
    coordinates = dz.sample_coordinates(
        jax.random.key(0), params, dict.fromkeys(["block1_conv/kernel", "block2_conv/kernel"], 0.5)
    )
    estimator = dz.sharded(dz.cge(smoothing=1e-4), mesh)
    vg = jax.jit(dz.value_and_grad(fun, estimator, has_aux=True))
    params, args, coordinates = replicate((params, args, coordinates), mesh)
    run = lambda: jax.block_until_ready(vg(params, *args, coordinates=coordinates))
    run()
    times = []
    for turn in range(repeats):
        multihost_utils.sync_global_devices(f"turn {turn}")
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def worker(model: str, repeats: int, count: int, index: int, port: int) -> None:
    """One process of a measurement; the lead prints the seconds."""
    if count > 1:
        jax.distributed.initialize(f"localhost:{port}", count, index)
    seconds = step_seconds(model, repeats)
    if is_lead():
        print(json.dumps(seconds), flush=True)


def measure(model: str, repeats: int, count: int) -> float:
    """Seconds of a step on ``count`` processes of one thread each, each on a core of its own."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    processes = []
    for index in range(count):
        program = f"from benchmarks.scaling import worker; worker({model!r}, {repeats}, "
        call = [sys.executable, "-c", f"{program}{count}, {index}, {port})"]
        pinned = ["taskset", "-c", str(index)] if os.name == "posix" else []
        environment = {**os.environ, "XLA_FLAGS": _THREAD, "JAX_PLATFORMS": "cpu"}
        processes.append(
            subprocess.Popen([*pinned, *call], env=environment, stdout=subprocess.PIPE, text=True)
        )
    outputs = [process.communicate()[0] for process in processes]
    return json.loads(outputs[0].splitlines()[-1])


def work_table() -> list[dict[str, float]]:
    """Multiply-adds of the busiest and of the average device of a 90 %-sparse ResNet-20 step."""
    fun, params, (variables, images, labels) = problem("resnet20")
    small = (variables, images[:1], labels[:1])
    costs = dz.coordinate_costs(fun, params, *small, has_aux=True)
    scores = jax.jit(lambda p: dz.grasp_scores(lambda q: fun(q, *small)[0], p))(params)
    coordinates = dz.sample_coordinates(jax.random.key(1), params, dz.layer_ratios(scores, 0.9))
    rows = []
    for devices in (1, 2, 4, 8, 16, 32, 64):
        shards = shard_coordinates(params, coordinates, devices)
        first = coordinates_per_leaf(params, jax.tree.map(lambda shard: shard[0], shards))
        every = coordinates_per_leaf(params, coordinates)
        busiest = sum(first[path] * costs[path] for path in costs)
        average = sum(every[path] * costs[path] for path in costs) / devices
        rows.append({"devices": devices, "busiest": busiest, "padding": busiest / average - 1})
    return rows


def predicted_table() -> list[dict[str, float]]:
    """Seconds and traffic of a 90 %-sparse ResNet-20 step by number of devices.

    From the milliseconds per coordinate that ``benchmarks.engine`` measured: a device runs
    the base pass and, leaf by leaf, ⌈n / devices⌉ coordinates; it receives 4 bytes for each
    coordinate of the others.
    """
    measured = chosen(results("engine", RESULTS), model="resnet20")[0]["summary"]
    fun, params, (variables, images, labels) = problem("resnet20")
    small = (variables, images[:32], labels[:32])
    scores = jax.jit(lambda p: dz.grasp_scores(lambda q: fun(q, *small)[0], p))(params)
    coordinates = dz.sample_coordinates(jax.random.key(1), params, dz.layer_ratios(scores, 0.9))
    counts = coordinates_per_leaf(params, coordinates)
    seconds = {p: max(leaf["milliseconds"], 0.0) / 1e3 for p, leaf in measured["leaves"].items()}
    rows = []
    for devices in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024):
        work = sum(-(-counts[path] // devices) * seconds[path] for path in counts)
        received = 4 * sum(counts.values()) * (devices - 1) / devices
        total = measured["base_seconds"] + work
        rows.append({"devices": devices, "seconds": total, "kilobytes": received / 1e3})
    for row in rows:
        row["speedup"] = rows[0]["seconds"] / row["seconds"]
    return rows


def measurements(model: str = "cnn2", repeats: int = 5) -> Iterator[Measurement]:
    """Speed-up by a second process; how evenly work is dealt out; what more devices would do."""

    def speed_up() -> Json:
        one, two = measure(model, repeats, 1), measure(model, repeats, 2)
        print(f"{model}: one process {one:.2f} s, two {two:.2f} s, speed-up {one / two:.2f}")
        return {"one": one, "two": two}

    def work() -> Json:
        rows = work_table()
        print("devices  G multiply-adds an image, busiest device  padding")
        for row in rows:
            busiest, padding = row["busiest"] / 1e9, 100 * row["padding"]
            print(f"{row['devices']:>7}  {busiest:>40,.2f}  {padding:>6.2f} %")
        return {"rows": rows}

    def predicted() -> Json:
        rows = predicted_table()
        print("devices  predicted s a step  speed-up  kB received by a device")
        for row in rows:
            print(
                f"{row['devices']:>7}  {row['seconds']:>18,.1f}  {row['speedup']:>8,.1f}  "
                f"{row['kilobytes']:>23,.1f}"
            )
        return {"rows": rows}

    yield Measurement(f"processes-{model}", {"model": model}, speed_up)
    yield Measurement("work-resnet20", {"model": "resnet20"}, work)
    yield Measurement("predicted-resnet20", {"model": "resnet20"}, predicted)


if __name__ == "__main__":
    main("scaling", (measurements,), __doc__ or "", results=RESULTS)
