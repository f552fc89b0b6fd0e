# %% [markdown]
# # A first gradient without autodiff
#
# A gradient says how a loss changes when its parameters move. Autodiff computes it from the
# derivatives of every operation. A *coordinate-wise gradient estimate* (CGE) needs only values of
# the loss: it moves one parameter at a time by a small step μ, the *smoothing*, and divides the
# change of the loss by that step. With d parameters that takes d + 1 evaluations, called
# *queries*.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import deepzero_jax as dz

# %% [markdown]
# ## A loss and its gradient
#
# The loss is a function of a pytree of parameters, as for `jax.value_and_grad`, and so is the
# call.

# %%
keys = jax.random.split(jax.random.key(0), 4)
x = jax.random.normal(keys[0], (64, 8))
y = jnp.sin(x @ jax.random.normal(keys[1], (8,)))
params = {
    "w1": jax.random.normal(keys[2], (8, 16)) / 8**0.5,
    "w2": jax.random.normal(keys[3], (16,)) / 4,
}


def loss(params, x, y):
    """Mean squared error of a small network."""
    return jnp.mean((jnp.tanh(x @ params["w1"]) @ params["w2"] - y) ** 2)


vg = jax.jit(dz.value_and_grad(loss, dz.cge(smoothing=1e-4)))
value, grads = vg(params, x, y)
exact = jax.grad(loss)(params, x, y)


def relative_error(estimate):
    """Length of the error by the length of the exact gradient."""
    difference = jax.tree.map(jnp.subtract, estimate, exact)
    return float(optax.global_norm(difference) / optax.global_norm(exact))


print(f"loss {value:.4f}, {dz.num_queries(dz.cge(), params)} queries")
print(f"relative error of the gradient: {relative_error(grads):.1e}")

# %% [markdown]
# ## Why the smoothing may be small
#
# Two losses in float32 agree in their first digits, and the subtraction leaves only the last
# ones. So a small step is usually a bad step. Here the difference is not a subtraction: it is
# propagated through the network beside the unperturbed pass, and does not cancel. `reuse="none"`
# subtracts whole losses, for comparison.


# %%
def gradient_at(step, reuse):
    """The estimate at a smoothing."""
    return dz.value_and_grad(loss, dz.cge(smoothing=step, reuse=reuse))(params, x, y)[1]


steps = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]
errors = {
    reuse: [relative_error(gradient_at(step, reuse)) for step in steps]
    for reuse in ("difference", "none")
}
fig, axis = plt.subplots(figsize=(5, 3.3), layout="constrained")
axis.loglog(steps, errors["difference"], "o-", label="difference propagated (default)")
axis.loglog(steps, errors["none"], "s--", label="two losses subtracted")
axis.set(
    title="Error of a gradient by queries, float32",
    xlabel="smoothing μ, in units of the parameters",
    ylabel="relative error",
)
axis.grid(alpha=0.3)
axis.legend()
plt.show()

# %% [markdown]
# What is left on the blue line at large steps is the truncation of the difference itself. At
# small ones, the estimate agrees with autodiff.
#
# The transform behind it has the calling convention of `jax.jvp`, with finite steps in place of
# tangents:

# %%
step = jax.tree.map(lambda leaf: jnp.full_like(leaf, 1e-6), params)
value, delta = dz.difference(lambda p: loss(p, x, y), (params,), (step,))
print(f"loss {value:.4f}, and it changes by {delta:.4e}")

# %% [markdown]
# ## Training
#
# The estimates feed any optimiser of optax. Nothing below knows that no derivative was taken.

# %%
NUM_STEPS = 300
optimizer = optax.adam(2e-2)
state = optimizer.init(params)
for step in range(NUM_STEPS):
    value, grads = vg(params, x, y)
    updates, state = optimizer.update(grads, state)
    params = optax.apply_updates(params, updates)
    if step % 60 == 0:
        print(f"step {step:3}  loss {value:.4f}")
print(f"at the end loss {value:.2e}, {NUM_STEPS * dz.num_queries(dz.cge(), params):,} queries")

# %% [markdown]
# ## Fewer queries a step
#
# A step need not move every parameter. `coordinates` names those that it moves; the gradient of
# the others is exactly zero. Fresh coordinates are drawn without compiling anything again,
# because their number stays the same. Random directions (`dz.rge`) are the other way to spend few
# queries.

# %%
ratios = dict.fromkeys(dz.leaf_paths(params), 0.75)  # three quarters are left out
coordinates = dz.sample_coordinates(jax.random.key(1), params, ratios)
some, directions = dz.cge(), dz.rge(num_directions=10)
value, grads = vg(params, x, y, coordinates=coordinates)
print(f"a quarter of the coordinates: {dz.num_queries(some, params, coordinates)} queries")
value, grads = dz.value_and_grad(loss, directions)(params, x, y, key=jax.random.key(2))
print(f"ten random directions: {dz.num_queries(directions, params)} queries")
