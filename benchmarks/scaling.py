"""Measures how a sparse CGE step scales over processes, and shows how work is dealt out.

python -m benchmarks.scaling

Prediction: seconds and traffic of such a step on 1 to 1,024 devices like the one that
``benchmarks/engine.json`` was measured on.

Speed-up: the same step of a CNN of the ladder, on one and on two single-threaded processes
that talk over the loopback interface. Work: each device's multiply-adds of a 90 %-sparse
ResNet-20 step, on 1 to 64 devices.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

import deepzero_jax as dz
from benchmarks.engine import problem
from deepzero_jax.coordinates import coordinates_per_leaf
from deepzero_jax.sharding import deal, is_lead, make_mesh, replicate, wait_for_all

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
        wait_for_all(f"turn {turn}")
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def worker(options: argparse.Namespace) -> None:
    """One process of a measurement; the lead prints the seconds."""
    if options.count > 1:
        jax.distributed.initialize(f"localhost:{options.port}", options.count, options.index)
    seconds = step_seconds(options.model, options.repeats)
    if is_lead():
        print(json.dumps(seconds), flush=True)


def measure(options: argparse.Namespace, count: int) -> float:
    """Seconds of a step on ``count`` processes of one thread each, each on a core of its own."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    processes = []
    for index in range(count):
        call = [sys.executable, "-m", "benchmarks.scaling", "--model", options.model]
        call += [f"--repeats={options.repeats}", f"--count={count}", f"--index={index}"]
        pinned = ["taskset", "-c", str(index)] if os.name == "posix" else []
        environment = {**os.environ, "XLA_FLAGS": _THREAD, "JAX_PLATFORMS": "cpu"}
        processes.append(
            subprocess.Popen(
                [*pinned, *call, f"--port={port}"],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )
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
        hands = deal(params, coordinates, devices)
        first = coordinates_per_leaf(params, jax.tree.map(lambda hand: hand[0], hands))
        every = coordinates_per_leaf(params, coordinates)
        busiest = sum(first[path] * costs[path] for path in costs)
        average = sum(every[path] * costs[path] for path in costs) / devices
        rows.append({"devices": devices, "busiest": busiest, "padding": busiest / average - 1})
    return rows


def predicted_table(engine: Path) -> list[dict[str, float]]:
    """Seconds and traffic of a 90 %-sparse ResNet-20 step by number of devices.

    From the milliseconds per coordinate that ``benchmarks.engine`` measured: a device runs
    the base pass and, leaf by leaf, ⌈n / devices⌉ coordinates; it receives 4 bytes for each
    coordinate of the others.
    """
    measured = {entry["model"]: entry for entry in json.loads(engine.read_text())}["resnet20"]
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


def main() -> None:
    """Prints both tables and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="cnn2")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/scaling.json"))
    for hidden in ("count", "index", "port"):
        parser.add_argument(f"--{hidden}", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.count:
        worker(options)
        return
    one, two = measure(options, 1), measure(options, 2)
    print(f"{options.model}: one process {one:.2f} s, two {two:.2f} s, speed-up {one / two:.2f}")
    rows = work_table()
    print("devices  G multiply-adds an image, busiest device  padding")
    for row in rows:
        print(
            f"{row['devices']:>7}  {row['busiest'] / 1e9:>40,.2f}  {100 * row['padding']:>6.2f} %"
        )
    predicted = predicted_table(Path("benchmarks/engine.json"))
    print("devices  predicted s a step  speed-up  kB received by a device")
    for row in predicted:
        print(
            f"{row['devices']:>7}  {row['seconds']:>18,.1f}  {row['speedup']:>8,.1f}  "
            f"{row['kilobytes']:>23,.1f}"
        )
    result = {"model": options.model, "one": one, "two": two, "work": rows, "predicted": predicted}
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
