"""Samples without an answer in losses that leave them out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.estimators import slopes_dropped
from deepzero_jax.split import SplitFunction
from tests.marks import few

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


@pytest.mark.parametrize("dtype", few(["float64", "float32"]))
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


def test_a_loss_in_stages_is_taken_whole():
    def loss(box):
        stages = [lambda p, c: X * p["w"], lambda p, c: jnp.nanmean(box(c) + p["v"])]
        return SplitFunction(stages, lambda path: 0 if "w" in path else 1)

    found = {}
    for reuse in ("split", "none"):
        box = diverging()
        vg = dz.value_and_grad(loss(box), dz.cge(smoothing=1e-3, reuse=reuse))
        found[reuse] = vg({"w": jnp.ones(2), "v": jnp.zeros(())})[1]
        assert box.num_dropped == 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2), *found.values())


def test_an_answer_beyond_float32_is_no_answer():
    host = lambda u: np.where(u[:, 0] > 0.5, 1e300, u[:, 0] ** 2)
    box = dz.black_box(host, (), dtype="float64", on_failure="nan", backoff=0.0)
    answers = box(jnp.array([[0.25], [0.75]]))
    assert float(answers[0]) == 0.0625
    assert np.isnan(answers[1])


def test_slopes_that_were_dropped_are_not_called_flat(caplog):
    def host(u):
        if (u != 1).any():
            raise FloatingPointError("diverged")
        return u.sum(1)

    box = dz.black_box(host, (), dtype="float64", on_failure="nan", backoff=0.0)
    grads = dz.value_and_grad(lambda w: jnp.mean(box(jnp.ones((2, 3)) * w)), dz.cge())(jnp.ones(3))
    jax.effects_barrier()
    assert grads[1].tolist() == [0, 0, 0]
    assert not caplog.messages
