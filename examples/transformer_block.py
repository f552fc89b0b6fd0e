# %% [markdown]
# # A transformer block in plain JAX
#
# No framework is needed: parameters are a dictionary of arrays, the model is a function. One
# attention layer and one feed-forward layer learn to reverse a sequence, by sparse
# coordinate-wise estimates.

# %%
import jax
import jax.numpy as jnp
import optax

import deepzero_jax as dz

# %%
LENGTH, VOCABULARY, WIDTH = 8, 8, 16


def init(key):
    """Normal weights, scaled by their number of inputs."""
    shapes = {
        "embedding": (VOCABULARY, WIDTH),
        "position": (LENGTH, WIDTH),
        "query": (WIDTH, WIDTH),
        "key": (WIDTH, WIDTH),
        "value": (WIDTH, WIDTH),
        "output": (WIDTH, WIDTH),
        "up": (WIDTH, 2 * WIDTH),
        "down": (2 * WIDTH, WIDTH),
        "unembedding": (WIDTH, VOCABULARY),
    }
    keys = jax.random.split(key, len(shapes))
    return {
        name: jax.random.normal(k, shape) / WIDTH**0.5
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def normalise(x):
    """To mean 0 and variance 1 of each token."""
    return jax.nn.standardize(x, axis=-1)


def transformer(params, tokens):
    """Tokens [n, t] to logits [n, t, vocabulary]."""
    x = params["embedding"][tokens] + params["position"]
    h = normalise(x)
    q, k, v = (h @ params[name] for name in ("query", "key", "value"))
    weights = jax.nn.softmax(q @ k.swapaxes(-1, -2) / WIDTH**0.5)
    x = x + weights @ v @ params["output"]
    x = x + jax.nn.gelu(normalise(x) @ params["up"]) @ params["down"]
    return normalise(x) @ params["unembedding"]


def loss(params, tokens):
    """Cross-entropy of the reversed sequence."""
    logits = transformer(params, tokens)
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, ::-1]).mean()


# %% [markdown]
# ## Training
#
# A step moves 10 % of each leaf. The draw, the estimate and the update are one compiled function.

# %%
NUM_STEPS, BATCH = 500, 32
params = init(jax.random.key(0))
ratios = dict.fromkeys(dz.leaf_paths(params), 0.9)
vg = dz.value_and_grad(loss, dz.cge(smoothing=1e-4))
optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, NUM_STEPS))


@jax.jit
def step(params, state, key):
    """One update on fresh sequences, at fresh coordinates."""
    keys = jax.random.split(key)
    tokens = jax.random.randint(keys[0], (BATCH, LENGTH), 0, VOCABULARY)
    coordinates = dz.sample_coordinates(keys[1], params, ratios)
    value, grads = vg(params, tokens, coordinates=coordinates)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), state, value


state, keys = optimizer.init(params), jax.random.split(jax.random.key(1), NUM_STEPS)
for i in range(NUM_STEPS):
    params, state, value = step(params, state, keys[i])
    if i % 100 == 0:
        print(f"step {i:4}  loss {value:.3f}")

# %%
tokens = jax.random.randint(jax.random.key(2), (1000, LENGTH), 0, VOCABULARY)
right = jnp.mean(transformer(params, tokens).argmax(-1) == tokens[:, ::-1])
per_step = dz.num_queries(dz.cge(), params, dz.sample_coordinates(keys[0], params, ratios))
print(f"{100 * right:.1f} % of the tokens are right, {per_step} queries a step")
