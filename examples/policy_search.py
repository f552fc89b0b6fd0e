# %% [markdown]
# # Policy search on a pendulum
#
# A return is the sum of rewards along an episode, as a function of the parameters of a policy.
# The environment answers with numbers and nothing else, so its return is a black box of the
# parameters: `batched=False` says that it takes one set of parameters at a time, without a batch
# axis.

# %%
import gymnasium
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import deepzero_jax as dz

# %% [markdown]
# ## The return of a policy
#
# Gymnasium's pendulum starts at random near upright, where its motor is just strong enough, and
# must be kept there. The same starts serve every evaluation (common random numbers): without them
# a difference of two returns would mostly be a difference of two starts.

# %%
STARTS, HORIZON, HIDDEN = 6, 60, 4
environment = gymnasium.make("Pendulum-v1").unwrapped
within = {"x_init": 0.3, "y_init": 0.3}  # rad, rad/s


def policy(params, state):
    """Observed (cos θ, sin θ, speed) to a torque in [-2, 2], in NumPy."""
    hidden = np.tanh(state @ params["w1"] + params["b1"])
    return 2 * np.tanh(hidden @ params["w2"])


def cost(params, first_start=0):
    """Mean cost of a time step over some episodes: lower is better."""
    params = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    total = 0.0
    for start in range(first_start, first_start + STARTS):
        state, _ = environment.reset(seed=start, options=within)
        for _ in range(HORIZON):
            state, reward, *_ = environment.step(policy(params, state))
            total -= float(reward)
    return total / (STARTS * HORIZON)


box = dz.black_box(cost, (), batched=False, dtype="float64")
keys = jax.random.split(jax.random.key(0))
params = {
    "w1": 0.5 * jax.random.normal(keys[0], (3, HIDDEN)),
    "b1": jnp.zeros(HIDDEN),
    "w2": 0.1 * jax.random.normal(keys[1], (HIDDEN, 1)),
}

# %% [markdown]
# ## Which smoothing
#
# Too small a step drowns in the noise of the answers, too large a step blurs the slope.
# `dz.probe_smoothing` measures the noise and the curvature along a few lines, in at most 60
# evaluations, and says which step suits forward and central differences. Gymnasium observes in
# float32, which is a noise.

# %%
probe = dz.probe_smoothing(box, params, jax.random.key(1))
print(probe)

# %% [markdown]
# Central differences cost two evaluations a parameter instead of one, and their error falls with
# the square of the step, so they may take a longer one. An estimator takes the probe in place of
# a number.

# %%
NUM_STEPS = 20
estimator = dz.cge(smoothing=probe, central=True)
vg = dz.value_and_grad(box, estimator)
optimizer = optax.adam(0.3)
state, costs = optimizer.init(params), []
for _ in range(NUM_STEPS):
    value, grads = vg(params)
    updates, state = optimizer.update(grads, state)
    params = optax.apply_updates(params, updates)
    costs.append(float(value))
print(f"{dz.num_queries(estimator, params)} returns a step, {box.num_samples:,} in all")
print(f"cost of a time step: {costs[0]:.2f} at first, {cost(params):.3f} in the end")
print(f"from starts that were not trained on: {cost(params, first_start=100):.3f}")

# %%
fig, axis = plt.subplots(figsize=(5, 3.2), layout="constrained")
axis.semilogy(costs)
axis.set(title="Policy search by central differences", xlabel="step", ylabel="cost of a time step")
axis.grid(alpha=0.3)
plt.show()
