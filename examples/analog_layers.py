# %% [markdown]
# # A network on a device that only runs forward
#
# Analog accelerators multiply a matrix by a vector in one go, and imperfectly: converters of
# eight bits, amplifiers that saturate, cells that each miss their weight by some per cent, noise
# at every reading. Nobody knows a formula for one's own device, so nobody can differentiate it.
#
# Here every matrix product of a small network on scikit-learn's digits runs on such a device. The
# device is a black box, and `dz.differentiable` lets `jax.grad` flow through it. The structure of a
# product, known to everybody, makes it cheap: output column j depends on weight column j alone,
# and row n of the batch on row n alone. So one call moves a weight in every column at once, and
# a matrix of 64 × 32 weights costs 64 calls in place of 2,048. Central differences, as below, cost
# twice that, 128, and one more call gives the product itself.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse
from sklearn.datasets import load_digits

import deepzero_jax as dz

# %% [markdown]
# The device. Its errors are fixed when it is made, but for the noise.


# %%
class Device:
    """An analog multiplier for matrices of one shape, as a host function."""

    def __init__(self, num_inputs: int, num_outputs: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.gains = 1 + 0.3 * self.rng.normal(size=(num_inputs, num_outputs))
        self.offsets = 0.3 * self.rng.normal(size=num_outputs)

    def __call__(self, inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Inputs [n, i] and weights [i, j] to readings [n, j]."""
        sent = convert(inputs, 4.0)
        currents = sent @ (weights * self.gains) + self.offsets
        amplified = 6.0 * np.tanh(currents / 6.0)
        return convert(amplified + 0.03 * self.rng.normal(size=amplified.shape), 6.0)


def convert(values: np.ndarray, largest: float) -> np.ndarray:
    """An eight-bit converter."""
    step = 2 * largest / 255
    return np.clip(np.round(values / step), -128, 127) * step


# %% [markdown]
# Which input reaches which output: with `samples=False` a product is one function of the whole
# batch and of the weights. Numbers that share no output move together.


# %%
def structure(batch: int, num_inputs: int, num_outputs: int) -> scipy.sparse.csc_array:
    """The pattern [batch × outputs, batch × inputs + inputs × outputs] of a product."""
    of_inputs = scipy.sparse.kron(np.eye(batch), np.ones((num_outputs, num_inputs)))
    of_weights = scipy.sparse.kron(
        np.ones((batch, 1)), scipy.sparse.kron(np.ones((1, num_inputs)), np.eye(num_outputs))
    )
    return scipy.sparse.csc_array(scipy.sparse.hstack([of_inputs, of_weights]) != 0)


def on_device(batch: int, num_inputs: int, num_outputs: int, seed: int):
    """The box of one layer, and the same with gradients."""
    device = Device(num_inputs, num_outputs, seed)
    box = dz.black_box(device, (batch, num_outputs), batched=False, dtype="float64")
    # The converters answer in steps, so the smoothing is several steps wide.
    estimator = dz.cge(smoothing=0.2, central=True)
    pattern = structure(batch, num_inputs, num_outputs)
    return box, dz.differentiable(box, estimator, samples=False, structure=pattern)


# %% [markdown]
# Data, network, and a training that does not know what multiplies its matrices.

# %%
BATCH, HIDDEN = 64, 32
digits = load_digits()
images = np.float32(digits.data / 16 - 0.3)
labels = digits.target.astype(np.int32)
order = np.random.default_rng(0).permutation(len(labels))
train, test = order[:1437], order[1437 : 1437 + 5 * BATCH]


def network(params, x, products):
    """Two layers; the products run where they are told."""
    hidden = jax.nn.relu(products[0](x, params["w1"]) + params["b1"])
    return products[1](hidden, params["w2"]) + params["b2"]


def init(key):
    """Weights as Kaiming draws them."""
    keys = jax.random.split(key)
    return {
        "w1": jax.random.normal(keys[0], (64, HIDDEN)) * (2 / 64) ** 0.5,
        "b1": jnp.zeros(HIDDEN),
        "w2": jax.random.normal(keys[1], (HIDDEN, 10)) * (2 / HIDDEN) ** 0.5,
        "b2": jnp.zeros(10),
    }


def fit(products, num_steps=400, seed=0):
    """Adam through whatever multiplies the matrices."""
    params, optimizer = (
        init(jax.random.key(seed)),
        optax.adam(optax.cosine_decay_schedule(1e-2, num_steps)),
    )

    def loss(params, x, y):
        logits = network(params, x, products)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    @jax.jit
    def step(params, state, x, y):
        updates, state = optimizer.update(jax.grad(loss)(params, x, y), state)
        return optax.apply_updates(params, updates), state

    state, rng = optimizer.init(params), np.random.default_rng(seed)
    for _ in range(num_steps):
        batch = rng.choice(train, BATCH, replace=False)
        params, state = step(params, state, images[batch], labels[batch])
    return params


def accuracy(params, products):
    """On the test images, in batches of the device's size."""
    answers = [
        np.asarray(network(params, images[part], products)).argmax(-1)
        for part in test.reshape(-1, BATCH)
    ]
    return float(np.mean(np.concatenate(answers) == labels[test]))


# %% [markdown]
# Three trainings: in floating point; in floating point and then put on the device; on the device.


# %%
def main(num_steps: int = 400) -> dict[str, float]:
    """Accuracies in per cent."""
    layers = [on_device(BATCH, 64, HIDDEN, seed=1), on_device(BATCH, HIDDEN, 10, seed=2)]
    boxes, device = [box for box, _ in layers], [product for _, product in layers]
    exact = [jnp.matmul, jnp.matmul]
    in_floats = fit(exact, num_steps)
    on_the_device = fit(device, num_steps)
    asked = sum(box.num_samples for box in boxes)
    found = {
        "floating point": accuracy(in_floats, exact),
        "floating point, then put on the device": accuracy(in_floats, device),
        "trained on the device": accuracy(on_the_device, device),
    }
    for name, value in found.items():
        print(f"{name:<40}{100 * value:6.1f} %")
    before = boxes[0].num_samples
    jax.grad(lambda w: jnp.sum(device[0](images[:BATCH], w)))(in_floats["w1"]).block_until_ready()
    calls = boxes[0].num_samples - before
    print(f"{asked:,} products asked; one gradient of the first matrix: {calls - 1} calls and one")
    return found


if __name__ == "__main__":
    main()
