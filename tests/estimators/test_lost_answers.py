"""Samples without an answer in losses that leave them out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.estimators import slopes_dropped

X = np.array([[0.1, 0.2], [0.3, 0.4999], [0.2, 0.2], [0.1, 0.4]])
MASKS = {
    "mean": jnp.mean,
    "nanmean": jnp.nanmean,
    "zeros": lambda a: jnp.mean(jnp.where(jnp.isfinite(a), a, 0)),
    "hinge": lambda a: jnp.sum(jnp.where(a > 0.1, a - 0.1, 0)),
}
ESTIMATORS = {
    "cge": dz.cge(smoothing=1e-3),
    "central": dz.cge(smoothing=1e-3, central=True),
    "none": dz.cge(smoothing=1e-3, reuse="none"),
    "rge": dz.rge(smoothing=1e-3, num_directions=40),
    "rge none": dz.rge(smoothing=1e-3, num_directions=40, reuse="none"),
}


def diverging(dtype="float64"):
    """Squares summed; no answer beyond 0.5."""

    def host(u):
        if (u > 0.5).any():
            raise FloatingPointError("diverged")
        return (u**2).sum(1)

    return dz.black_box(host, (), dtype=dtype, on_failure="nan", backoff=0.0)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_loss_that_masks_lost_samples_has_the_slopes_of_one_that_does_not(name, dtype):
    found = {}
    for mask, reduced in MASKS.items():
        box, before = diverging(dtype), slopes_dropped()
        vg = dz.value_and_grad(lambda w, box=box, of=reduced: of(box(X * w)), ESTIMATORS[name])
        grads = jax.jit(vg)(jnp.ones(2), key=jax.random.key(0))[1]
        jax.effects_barrier()
        assert slopes_dropped() - before == box.num_dropped > 0
        assert np.max(np.abs(grads)) < 2
        found[mask] = grads
    np.testing.assert_allclose(found["nanmean"], found["mean"], rtol=1e-2)
    np.testing.assert_allclose(found["zeros"], found["mean"], rtol=1e-2)


@pytest.mark.parametrize(
    "left_out",
    [
        jnp.nanmean,
        lambda a: jnp.mean(a, where=jnp.isfinite(a)),
        lambda a: jnp.mean(a[jnp.array([0, 2, 3])]),
    ],
)
@pytest.mark.parametrize("where", ["samples", "whole", "coloured", *ESTIMATORS])
def test_a_sample_that_the_base_lacks_is_in_no_slope(where, left_out):
    x = X + np.array([[0, 0], [0, 0.1], [0, 0], [0, 0]])
    box, w, key = diverging(), jnp.ones(2), jax.random.key(0)
    cge = dz.cge(smoothing=1e-3)
    functions = {
        "samples": dz.differentiable(box, cge),
        "whole": dz.differentiable(box, cge, samples=False),
        "coloured": dz.differentiable(box, cge, structure=np.ones((1, 2), bool)),
    }
    kept = x[[0, 2, 3]]
    clean = lambda w: jnp.mean(jnp.sum((kept * w) ** 2, axis=1))
    if where in functions:
        grads = jax.grad(lambda w: left_out(functions[where](x * w)))(w)
        exact = jax.grad(clean)(w)
    else:
        grads = dz.value_and_grad(lambda w: left_out(box(x * w)), ESTIMATORS[where])(w, key=key)[1]
        exact = dz.value_and_grad(clean, ESTIMATORS[where])(w, key=key)[1]
    np.testing.assert_allclose(grads, exact, rtol=1e-2)


def test_a_sample_that_the_base_lacks_and_that_weighs_is_told_as_nan():
    f = dz.differentiable(diverging(), dz.cge(smoothing=1e-3))
    found = jax.grad(lambda x: jnp.sum(f(x)[1:]))(jnp.array([[0.9, 0.9], [0.1, 0.9], [0.1, 0.2]]))
    assert found[0].tolist() == [0, 0]
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[2], [0.2, 0.4], rtol=1e-2)
