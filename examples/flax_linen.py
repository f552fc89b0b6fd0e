# %% [markdown]
# # A Flax Linen model
#
# A Linen module is a pure function of its variables, so it goes into a loss as it stands.
# Variables other than the parameters, here the running statistics of a batch normalisation, are
# an argument of the loss and its auxiliary output.

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import deepzero_jax as dz


# %%
class Network(nn.Module):
    """A convolution with batch normalisation, and a classifier."""

    @nn.compact
    def __call__(self, images, train: bool):
        """Images [n, 8, 8, 1] to logits [n, 10]."""
        hidden = nn.Conv(12, (3, 3), strides=2, name="conv")(images)
        hidden = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(hidden)
        return nn.Dense(10, name="classifier")(nn.relu(hidden).reshape(len(images), -1))


model = Network()
variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
params, statistics = variables["params"], variables["batch_stats"]
print(dz.leaf_paths(params))


# %%
def loss(params, statistics, images, labels):
    """Cross-entropy, and the statistics after the call."""
    variables = {"params": params, "batch_stats": statistics}
    logits, updated = model.apply(variables, images, train=True, mutable="batch_stats")
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), updated["batch_stats"]


# %% [markdown]
# ## An eighth of the coordinates, drawn afresh at each step
#
# Most of the 2,100 parameters are weights of the classifier. A step that moves 5 % of them, and
# all others, costs an eighth of the queries of a step that moves everything, so that eight times
# as many can be taken. `dz.sample_coordinates` draws inside `jit`: the number of coordinates
# of a leaf follows from the ratio and never changes, so nothing is compiled again.

# %%
BATCH, NUM_STEPS = 128, 600
digits = load_digits()
images = np.float32(digits.images[..., None] / 16)
labels = digits.target.astype(np.int32)
order = np.random.default_rng(0).permutation(len(labels))
train, test = order[:1437], order[1437:]

ratios = {path: 0.95 if path == "classifier/kernel" else 0.0 for path in dz.leaf_paths(params)}
estimator = dz.cge(smoothing=1e-4)
vg = dz.value_and_grad(loss, estimator, has_aux=True)
optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, NUM_STEPS))


@jax.jit
def step(params, statistics, state, key, images, labels):
    """One update at fresh coordinates."""
    coordinates = dz.sample_coordinates(key, params, ratios)
    (value, statistics), grads = vg(params, statistics, images, labels, coordinates=coordinates)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), statistics, state, value


state, rng = optimizer.init(params), np.random.default_rng(1)
keys = jax.random.split(jax.random.key(2), NUM_STEPS)
for i in range(NUM_STEPS):
    batch = rng.choice(train, BATCH, replace=False)
    params, statistics, state, value = step(
        params, statistics, state, keys[i], images[batch], labels[batch]
    )
    if i % 100 == 0:
        print(f"step {i:3}  loss {value:.3f}")

# %%
variables = {"params": params, "batch_stats": statistics}
answers = np.asarray(model.apply(variables, images[test], train=False)).argmax(-1)
per_step = dz.num_queries(estimator, params, dz.sample_coordinates(keys[0], params, ratios))
print(f"test accuracy {100 * np.mean(answers == labels[test]):.1f} %")
print(f"{per_step} queries a step in place of {dz.num_queries(estimator, params):,}")
