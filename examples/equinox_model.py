# %% [markdown]
# # An Equinox model
#
# An Equinox module is a pytree that holds arrays and, beside them, functions and settings.
# Queries move floating-point arrays, so the module is partitioned into its arrays, which are the
# parameters, and the rest, which is not. A whole module given as parameters is refused, because
# an activation function is no number that could be moved.

# %%
import equinox as eqx
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import deepzero_jax as dz

# %%
model = eqx.nn.MLP(64, 10, width_size=16, depth=1, activation=jax.nn.gelu, key=jax.random.key(0))
params, static = eqx.partition(model, eqx.is_inexact_array)


def loss(params, images, labels):
    """Cross-entropy of the module that the parameters make with the rest."""
    logits = jax.vmap(eqx.combine(params, static))(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


print(dz.leaf_paths(params))

# %% [markdown]
# ## Training on scikit-learn's digits
#
# What is not an array, here the `None` leaves of the partition, passes through untouched.

# %%
BATCH, NUM_STEPS = 128, 300
digits = load_digits()
images, labels = np.float32(digits.data / 16), digits.target.astype(np.int32)
order = np.random.default_rng(0).permutation(len(labels))
train, test = order[:1437], order[1437:]
vg = dz.value_and_grad(loss, dz.cge(smoothing=1e-4))
optimizer = optax.adam(optax.cosine_decay_schedule(2e-2, NUM_STEPS))


@eqx.filter_jit
def step(params, state, images, labels):
    """One update of the parameters."""
    value, grads = vg(params, images, labels)
    updates, state = optimizer.update(grads, state)
    return eqx.apply_updates(params, updates), state, value


state, rng = optimizer.init(params), np.random.default_rng(1)
for i in range(NUM_STEPS):
    batch = rng.choice(train, BATCH, replace=False)
    params, state, value = step(params, state, images[batch], labels[batch])
    if i % 50 == 0:
        print(f"step {i:3}  loss {value:.3f}")

# %%
model = eqx.combine(params, static)
answers = np.asarray(jax.vmap(model)(images[test])).argmax(-1)
print(f"test accuracy {100 * np.mean(answers == labels[test]):.1f} %")
print(f"{NUM_STEPS * dz.num_queries(dz.cge(), params):,} queries")
