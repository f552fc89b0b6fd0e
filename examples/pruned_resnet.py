# %% [markdown]
# # ZO-GraSP and price-aware sampling on a small ResNet
#
# A network of many thousand parameters is not moved in every coordinate at every step. DeepZero
# chooses how many coordinates of each layer a step moves by pruning scores at initialisation
# (ZO-GraSP). Here these layer-wise ratios say how much a step may cost, and the same price is
# then spent at rates that weigh what a coordinate costs against what it tells.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import deepzero_jax as dz
from deepzero_jax.data import load_digits
from deepzero_jax.models import ResNet, init_model, model_loss, predict
from deepzero_jax.sampling import price_aware_sampler
from deepzero_jax.training import cross_entropy

# %% [markdown]
# ## A ResNet of depth 8
#
# `model_loss` makes a training loss of any Linen module; its auxiliary output holds the new batch
# statistics and the metrics.

# %%
BATCH, NUM_STEPS, WIDTH = 64, 70, 4
digits = load_digits()
model = ResNet(depth=8, width=WIDTH)
images = np.asarray(digits.normalise(digits.train_images))
labels = np.asarray(digits.train_labels)
params, statistics = jax.jit(lambda key: init_model(model, key, images[:1]))(jax.random.key(0))
loss = model_loss(model, cross_entropy)
first = images[:BATCH], labels[:BATCH]
leaves = jax.tree.leaves(params)
sizes = {p: leaf.size for p, leaf in zip(dz.leaf_paths(params), leaves, strict=True)}
print(f"{sum(sizes.values()):,} parameters in {len(sizes)} leaves")

# %% [markdown]
# ## Scores and ratios
#
# ZO-GraSP asks for 2 · (q + 1) losses in q random directions, here 130, whatever the size of the
# network. The scores of all leaves are ranked together; what share of a leaf lies beyond the
# threshold is its pruning ratio. Only the ratios are used: the coordinates themselves are drawn
# afresh.

# %%
score = lambda p, key: dz.zo_grasp_scores(
    lambda p: loss(p, statistics, *first)[0], p, key=key, num_directions=64
)
scores = jax.jit(score)(params, jax.random.key(1))
ratios = dz.layer_ratios(scores, sparsity=0.95)

# %% [markdown]
# ## Prices
#
# A weight of the first layer changes everything behind it, a weight of the last layer one number.
# The price of a coordinate is counted in multiply-adds of its propagated difference.

# %%
costs = dz.coordinate_costs(loss, params, statistics, *first, has_aux=True)
dense = sum(costs[path] * sizes[path] for path in sizes)
budget = sum(costs[path] * sizes[path] * (1 - ratios[path]) for path in sizes)
print(f"dense step: {dense / 1e9:.1f} G multiply-adds, at these ratios {budget / 1e9:.2f} G")
for path in ("stem_conv/kernel", "stage2_block1_conv1/kernel", "classifier/kernel"):
    print(f"{path:<28}{costs[path]:>12,.0f} a coordinate, ratio {ratios[path]:.2f}")

# %% [markdown]
# ## Training at that price
#
# A sampler is a set of pure functions with a state: `sample` gives coordinates and scales,
# `update` takes in what was estimated. The price-aware one spends the budget where the mean
# square of the estimates is large for their price, and divides each estimate by its rate, so that
# the gradient is unbiased. (The other one, `layer_ratio_sampler(params, ratios, interval=1)`,
# draws at the ratios themselves.)

# %%
sampler = price_aware_sampler(params, costs, budget)
vg = dz.value_and_grad(loss, dz.cge(smoothing=1e-4), has_aux=True)
optimizer = optax.sgd(optax.cosine_decay_schedule(0.1, NUM_STEPS), momentum=0.9)


@jax.jit
def step(i, params, statistics, state, sampling, images, labels):
    """One update of parameters, statistics, optimiser and sampler."""
    drawn = sampler.sample(sampling, i)
    (value, (statistics, _)), grads = vg(
        params, statistics, images, labels, coordinates=drawn.coordinates
    )
    sampling = sampler.update(sampling, drawn, grads)
    grads = jax.tree.map(jnp.multiply, grads, drawn.scales)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), statistics, state, sampling, value


now = params, statistics, optimizer.init(params), sampler.init(jax.random.key(2))
rng, values = np.random.default_rng(0), []
for i in range(NUM_STEPS):
    batch = rng.choice(len(labels), BATCH, replace=False)
    *now, value = step(i, *now, images[batch], labels[batch])
    values.append(float(value))
trained, statistics, _, sampling = now
answers = predict(model, trained, statistics, digits.normalise(digits.test_images)).argmax(-1)
print(f"test accuracy {100 * np.mean(np.asarray(answers) == digits.test_labels):.1f} %")

# %% [markdown]
# ## Where the budget went

# %%
spending = sampler.spending(sampling)
kernels = [path for path in spending if path.endswith("kernel")]
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
left.plot(values)
left.set(title="Training", xlabel="step", ylabel="loss on the batch")
names = [path.removesuffix("/kernel") for path in kernels]
right.barh(names, [100 * spending[path].rate for path in kernels], label="price-aware")
right.plot([100 * (1 - ratios[path]) for path in kernels], names, "k.", label="ZO-GraSP")
right.invert_yaxis()
right.set(title="Coordinates of a step", xlabel="per cent of a kernel's coordinates")
right.legend()
plt.show()

# %% [markdown]
# The cheap last layers are moved densely. The stem is dear; where its slopes are larger than those
# of the layers behind it, it is moved more often than they all the same. What that is worth
# against the ratios themselves is measured over three seeds on CIFAR-10, at equal price, in [the
# results](../results.md#price-aware-sampling-at-equal-price).
