# %% [markdown]
# # A Flax NNX model with BatchNorm and Dropout
#
# An NNX model is an object that holds parameters, running statistics and random streams, and a
# call changes some of them. A loss that is evaluated many times by a transformation must be a
# pure function, so the model is taken apart once, with `nnx.split`, and put together inside the
# loss, with `nnx.merge(..., copy=True)`. The copy matters: without it the loss would write into
# objects of the outer trace, which Flax refuses with a `TraceContextError`.

# %%
import jax
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import deepzero_jax as dz

# %% [markdown]
# ## The model and its three parts
#
# `nnx.Param` leaves are what queries move. Everything else, that is batch statistics, dropout
# keys and their counters, goes into the loss as an argument and comes back as auxiliary output.


# %%
class Network(nnx.Module):
    """Two convolutions with batch normalisation, dropout, and a classifier."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 8, (3, 3), rngs=rngs)
        self.norm1 = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(8, 12, (3, 3), rngs=rngs)
        self.norm2 = nnx.BatchNorm(12, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.classifier = nnx.Linear(12, 10, rngs=rngs)

    def __call__(self, images):
        """Images [n, 8, 8, 1] to logits [n, 10]."""
        hidden = nnx.relu(self.norm1(self.conv1(images)))
        hidden = nnx.max_pool(hidden, (2, 2), (2, 2))
        hidden = nnx.relu(self.norm2(self.conv2(hidden)))
        return self.classifier(self.dropout(hidden.mean(axis=(1, 2))))


model = Network(nnx.Rngs(0))
model.train()
graphdef, params, others = nnx.split(model, nnx.Param, ...)
print(dz.leaf_paths(params))

# %% [markdown]
# ## The loss
#
# All perturbed passes of one gradient get the same `others`, hence the same dropout mask: a
# difference of two losses must not contain the difference of two masks. The new state comes from
# the unperturbed pass alone (`has_aux=True`), so statistics are updated once a step.


# %%
def loss(params, others, images, labels):
    """Cross-entropy, and the state after the call."""
    model = nnx.merge(graphdef, params, others, copy=True)
    logits = model(images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), nnx.state(model, nnx.Not(nnx.Param))


vg = dz.value_and_grad(loss, dz.cge(smoothing=1e-4), has_aux=True)

# %% [markdown]
# ## Training on scikit-learn's digits

# %%
BATCH, NUM_STEPS = 64, 300
digits = load_digits()
images = np.float32(digits.images[..., None] / 16)
labels = digits.target.astype(np.int32)
order = np.random.default_rng(0).permutation(len(labels))
train, test = order[:1437], order[1437:]
optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, NUM_STEPS))


@jax.jit
def step(params, others, state, images, labels):
    """One update of parameters, model state and optimiser."""
    (value, others), grads = vg(params, others, images, labels)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), others, state, value


state, rng = optimizer.init(params), np.random.default_rng(1)
for i in range(NUM_STEPS):
    batch = rng.choice(train, BATCH, replace=False)
    params, others, state, value = step(params, others, state, images[batch], labels[batch])
    if i % 50 == 0:
        print(f"step {i:3}  loss {value:.3f}")

# %% [markdown]
# ## Evaluation
#
# The trained model is an ordinary NNX object again.

# %%
model = nnx.merge(graphdef, params, others)
model.eval()
accuracy = float(np.mean(np.asarray(model(images[test])).argmax(-1) == labels[test]))
print(f"test accuracy {100 * accuracy:.1f} %")
print(f"{NUM_STEPS} steps of {dz.num_queries(dz.cge(), params):,} queries")
