# %% [markdown]
# # A simulator inside a loss
#
# A network aims: it is told how far a ball shall fly and how the wind blows, and answers with a
# speed and an angle. Whether that is right, a simulator says, which cannot be differentiated.
# `dz.differentiable` lets `jax.grad` flow through it: the simulator is asked at its own inputs,
# of which there are two, and JAX differentiates the network in front of it, of whatever size.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax

import deepzero_jax as dz

# %% [markdown]
# ## The simulator
#
# NumPy in, NumPy out, in float64. It stands for any program that takes a batch of inputs: a ball
# with air drag, followed until it touches the ground.


# %%
def landing(launch: np.ndarray, wind: np.ndarray) -> np.ndarray:
    """Speed in m/s and angle in rad [n, 2], wind in m/s [n], to the distance in m [n]."""
    speed, angle = launch.T
    position = np.zeros((2, len(launch)))
    velocity = speed * np.stack([np.cos(angle), np.sin(angle)])
    distance, step = np.zeros(len(launch)), 0.01
    flying = np.ones(len(launch), bool)
    while flying.any():
        against = velocity - np.stack([wind, np.zeros_like(wind)])
        drag = -0.02 * np.linalg.norm(against, axis=0) * against
        velocity = velocity + step * (drag - np.array([[0.0], [9.81]]))
        moved = position + step * velocity
        lands = flying & (moved[1] < 0)
        part = position[1] / np.where(lands, position[1] - moved[1], 1.0)
        touched = position[0] + part * (moved[0] - position[0])
        distance, flying = np.where(lands, touched, distance), flying & ~lands
        position = moved
    return distance


box = dz.black_box(landing, (), dtype="float64")
fly = dz.differentiable(box, dz.cge(smoothing=1e-4, central=True))

# %% [markdown]
# ## The network in front of it
#
# The loss is written as if the simulator could be differentiated. The wind is no result of the
# network, so no derivative by it is asked for, and it is not moved.


# %%
def init(key, sizes=(2, 64, 64, 2)):
    """Weights of a perceptron."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"w": jax.random.normal(k, (m, n)) / m**0.5, "b": jnp.zeros(n)}
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def aim(params, target, wind):
    """Target in m and wind in m/s [n] to speed and angle [n, 2], within what is possible."""
    hidden = jnp.stack([target / 20 - 1, wind / 5], axis=1)
    for layer in params[:-1]:
        hidden = jnp.tanh(hidden @ layer["w"] + layer["b"])
    share = jax.nn.sigmoid(hidden @ params[-1]["w"] + params[-1]["b"])
    return jnp.stack([8 + 25 * share[:, 0], 0.3 + 0.8 * share[:, 1]], axis=1)


def loss(params, target, wind):
    """Mean squared miss, in units of 10 m."""
    return jnp.mean(((fly(aim(params, target, wind), wind) - target) / 10) ** 2)


# %%
NUM_STEPS, BATCH = 600, 64
params = init(jax.random.key(0))
optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, NUM_STEPS))


def draw(key, num):
    """Targets of 10 to 30 m, winds of -5 to 5 m/s."""
    keys = jax.random.split(key)
    target = jax.random.uniform(keys[0], (num,), minval=10.0, maxval=30.0)
    return target, jax.random.uniform(keys[1], (num,), minval=-5.0, maxval=5.0)


@jax.jit
def step(params, state, key):
    """One update; inside, the simulator is called back."""
    value, grads = jax.value_and_grad(loss)(params, *draw(key, BATCH))
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), state, value


state, keys = optimizer.init(params), jax.random.split(jax.random.key(1), NUM_STEPS)
for i in range(NUM_STEPS):
    params, state, value = step(params, state, keys[i])
    if i % 100 == 0:
        print(f"step {i:3}  loss {value:.4f}")

# %% [markdown]
# ## What it cost
#
# A gradient asks the simulator 1 + 2 · 2 times for each sample of the batch: the answer itself,
# and two moved answers for each of two inputs. At the parameters it would have been one query for
# each of them.

# %%
target, wind = draw(jax.random.key(2), 500)
miss = np.abs(landing(np.asarray(aim(params, target, wind), np.float64), np.asarray(wind)) - target)
size = sum(leaf.size for leaf in jax.tree.leaves(params))
calls = fly.num_queries(jnp.zeros((BATCH, 2)))
print(f"mean miss {100 * miss.mean():.0f} cm, {box.num_samples:,} flights")
print(f"{size:,} parameters, {calls} flights a sample and step")
