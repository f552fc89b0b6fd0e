"""Counts that a user gives, whoever made the integer."""

import threading
import time

import jax.numpy as jnp
import numpy as np

import deepzero_jax as dz


def test_counts_of_numpy_and_jax_are_counts():
    threads = set()

    def host(x):
        threads.add(threading.get_ident())
        time.sleep(0.02)
        return x

    box = dz.black_box(host, (), workers=np.int64(2), max_batch=jnp.int32(1), retries=np.int8(0))
    assert box.options.is_thread_safe and type(box.options.max_batch) is int
    box(jnp.arange(4.0))
    assert len(threads) == 2 and box.num_calls == 4
    box.budget = np.int64(10)
    assert type(box.budget) is int
    assert dz.rge(num_directions=np.int64(3)).settings["num_directions"] == 3
