# %% [markdown]
# # A simulator on many processes, and on Dask
#
# A simulator that takes 20 ms a sample would make every gradient wait. The samples of a call are
# independent, so `workers=` deals them out, in pieces of `max_batch`. Answers and counts do not
# depend on the workers.
#
# What runs in another process must be importable there, so the simulator stands in a module of
# its own, `slow_simulator.py`, beside this file. And a program that starts processes does its
# work in a function that is called under `if __name__ == "__main__"`, so that those processes can
# import it without starting others.

# %%
import inspect
import time

import jax
import jax.numpy as jnp
import numpy as np
import slow_simulator
from dask.distributed import Client, LocalCluster
from loky import get_reusable_executor

import deepzero_jax as dz

NUM_WORKERS, BATCH, NUM_STEPS = 4, 8, 30
if __name__ == "__main__":  # or each worker that imports this would print it
    print(inspect.getsource(slow_simulator.simulate))


# %% [markdown]
# ## One gradient, timed
#
# Three inputs of the simulator follow from the parameters. A gradient at the boundary takes 1 + 3
# calls of 8 samples, 32 samples, so 0.64 s one after the other.


# %%
def loss_with(workers):
    """The loss, and the box that counts."""
    box = dz.black_box(slow_simulator.simulate, (2,), dtype="float64", max_batch=2, workers=workers)
    readings = dz.differentiable(box, dz.cge(smoothing=1e-6))
    goal = jnp.array([0.5, -0.2])
    return lambda w, x: jnp.mean((readings(jnp.tanh(x @ w)) - goal) ** 2), box


x = jax.random.normal(jax.random.key(0), (BATCH, 5)).at[:, 0].set(1.0)
start = jax.random.normal(jax.random.key(1), (5, 3))


def gradient_with(name, workers):
    """Prints how long a gradient takes, after one that starts the workers."""
    loss, box = loss_with(workers)
    jax.grad(loss)(start, x)
    asked, before = box.num_samples, time.perf_counter()
    gradient = np.asarray(jax.grad(loss)(start, x))
    seconds = time.perf_counter() - before
    print(f"{name:<22} {seconds:5.2f} s for {box.num_samples - asked} samples")
    return gradient


# %% [markdown]
# ## Processes, and a Dask cluster
#
# Any `concurrent.futures.Executor` serves: loky's and the standard library's processes, Dask's on
# one machine or on a hundred, MPI's. Only the line that makes it differs.


# %%
def compare():
    """The same gradient by three kinds of workers."""
    processes = get_reusable_executor(NUM_WORKERS)
    cluster = LocalCluster(n_workers=NUM_WORKERS, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster) as client:
        found = [
            gradient_with("one after the other", None),
            gradient_with("processes (loky)", processes),
            gradient_with("Dask", client.get_executor()),
        ]
    same = all((gradient == found[0]).all() for gradient in found)
    print("the gradients are the same to the bit" if same else "the gradients differ")
    return same


# %% [markdown]
# ## Training on processes


# %%
def train():
    """Gradient descent; the loss before each step."""
    loss, box = loss_with(get_reusable_executor(NUM_WORKERS))
    w, values = start, []
    step = jax.jit(jax.value_and_grad(loss))
    for _ in range(NUM_STEPS):
        value, gradient = step(w, x)
        w, values = w - 0.3 * gradient, [*values, float(value)]
    print(f"loss {values[0]:.3f} at first, {values[-1]:.4f} in the end")
    print(f"{box.num_samples:,} samples in {box.num_calls:,} calls")
    return values


# %%
if __name__ == "__main__":
    compare()
    train()
