"""Measures what workers buy at a black box, and what a call costs by itself.

python -m benchmarks.box

Medians of five: a box that sleeps 20 ms a piece, 64 pieces, alone, by 4 threads and by 4 Dask
workers; one that computes, alone and by 2 processes; the overhead of a call of 64 samples.
"""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import deepzero_jax as dz


def sleeping(x: np.ndarray) -> np.ndarray:
    """Waits 20 ms, as an endpoint or a device does."""
    time.sleep(0.02)
    return x


def computing(x: np.ndarray) -> np.ndarray:
    """Keeps a core busy for some 50 ms."""
    total = 0.0
    for i in range(600_000):
        total += i * 1e-9
    return x + total


def median_seconds(
    host_fn: Callable[..., Any], workers: Any, pieces: int = 64, repeats: int = 5
) -> float:
    """Of a call of ``pieces`` samples, one a piece."""
    ask = jax.jit(dz.black_box(host_fn, (1,), max_batch=1, workers=workers))
    x = jnp.ones((pieces, 1))
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        ask(x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))


def overhead_seconds() -> float:
    """Of a call of 64 samples with a host function that does nothing."""
    ask = jax.jit(dz.black_box(lambda x: x, (8,)))
    x = jnp.ones((64, 8))
    seconds = []
    for _ in range(300):
        start = time.perf_counter()
        ask(x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def main() -> None:
    """Prints the figures."""
    print(f"call of 64 samples, trivial host function: {1e3 * overhead_seconds():.3f} ms")
    alone = median_seconds(sleeping, None)
    threads = median_seconds(sleeping, 4)
    print(f"20 ms × 64, 4 threads: {alone / threads:.2f} times faster than {alone:.2f} s")
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        print("Dask is not installed")
    else:
        with (
            LocalCluster(n_workers=4, threads_per_worker=1, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            dask = median_seconds(sleeping, client.get_executor())
        print(f"20 ms × 64, 4 Dask workers: {alone / dask:.2f} times faster")
    busy = median_seconds(computing, None, pieces=32)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        processes = median_seconds(computing, pool, pieces=32)
    print(f"computing × 32, 2 processes: {busy / processes:.2f} times faster than {busy:.2f} s")


if __name__ == "__main__":
    main()
