import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.cost import multiply_adds
from deepzero_jax.estimators.base_pass import FlatLoss
from deepzero_jax.estimators.contract import Loss
from deepzero_jax.estimators.pass_suffix import suffix_losses
from deepzero_jax.models import MODELS
from tests.marks import few, long
from tests.problems import (
    estimated,
    estimates_at,
    flatten,
    network_loss,
    quadratic,
    quadratic_problem,
    relative_error,
    smooth,
    some_coordinates,
)

# A shallow residual network stands for the deep ones, which take minutes to compile.
NETWORKS = [
    "cnn1",
    "resnet8",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in MODELS
        if name not in ("cnn1", "resnet8")
    ),
]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("reuse", few(["difference", "none", "split"], 2))
@pytest.mark.parametrize("name", few(NETWORKS))
def test_error_falls_with_the_order_of_the_difference(name, reuse, monkeypatch):
    if reuse == "none" and name != "cnn1":
        pytest.skip("the whole-pass oracle is checked on small networks")
    smooth(monkeypatch)
    fun, params, args = network_loss(name, width=4, batch=2, size=32 if name == "cnn5" else 16)
    every = max(1, len(jax.tree.leaves(params)) // 4)
    coordinates = some_coordinates(params, every=every)
    exact = estimated(dz.first_order(), fun, params, *args, coordinates=coordinates, has_aux=True)[
        1
    ]
    for central, order in ((False, 1), (True, 2)):
        make = lambda smoothing, central=central: dz.cge(
            smoothing=smoothing, central=central, reuse=reuse
        )
        steps, given = (1e-2, 5e-3), {"coordinates": coordinates, "has_aux": True}
        found = estimates_at(steps, make, fun, params, *args, **given)
        errors = [relative_error(grads, exact) for grads in found]
        assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25), errors


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", few(NETWORKS))
def test_agreement_with_autodiff_on_the_networks_as_they_are(name):
    fun, params, args = network_loss(name, width=4, batch=2, size=32 if name == "cnn5" else 16)
    every = max(1, len(jax.tree.leaves(params)) // 4)
    coordinates = some_coordinates(params, every=every)
    exact, grads = (
        estimated(estimator, fun, params, *args, coordinates=coordinates, has_aux=True)[1]
        for estimator in (dz.first_order(), dz.cge(smoothing=1e-7, reuse="split"))
    )
    assert relative_error(grads, exact) < 1e-5


@pytest.mark.parametrize("batch_size", [1, 3, 7, 1000, "auto"])
def test_chunks_do_not_change_the_estimate(batch_size, x64):
    params, target = quadratic_problem()
    whole = estimated(dz.cge(smoothing=1e-3, batch_size=1000), quadratic, params, target)[1]
    got = estimated(dz.cge(smoothing=1e-3, batch_size=batch_size), quadratic, params, target)[1]
    assert relative_error(got, whole) < 1e-12


def test_padded_coordinates_are_skipped():
    params, target = quadratic_problem()
    padded = jax.tree.map(lambda leaf: jnp.full(leaf.size, leaf.size, jnp.int32), params)
    padded["w"] = padded["w"].at[:2].set(jnp.array([3, 7]))
    estimator = dz.cge(smoothing=1e-3, batch_size=2)
    _, grads = estimated(estimator, quadratic, params, target, coordinates=padded)
    assert np.flatnonzero(flatten(grads["w"])).tolist() == [3, 7]
    assert not np.any(flatten(grads["b"]))


def test_the_step_that_the_parameter_took_is_the_divisor():
    # 1000 + 1e-3 rounds to another step in float32; a linear function must not notice.
    estimator = dz.cge(smoothing=1e-3, reuse="none")
    _, grads = estimated(estimator, lambda w: 0.5 * w - 500.0, jnp.float32(1000.0))
    assert grads == 0.5


@long
@pytest.mark.parametrize("name", few(["resnet8", "cnn2"]))
def test_split_equals_none_in_float32(name):
    fun, params, args = network_loss(name, width=4, batch=8)
    coordinates = some_coordinates(params, per_leaf=3, every=1 if name == "cnn2" else 5)

    ways = [
        estimates_at(
            (1e-2, 0.5),
            lambda smoothing, reuse=reuse: dz.cge(smoothing=smoothing, reuse=reuse, batch_size=1),
            fun,
            params,
            *args,
            coordinates=coordinates,
            has_aux=True,
        )
        for reuse in ("none", "split")
    ]
    value = float(jax.jit(fun)(params, *args)[0])
    # Two losses are subtracted: each agrees to a few units in the last place, whatever the step.
    for step, none, split in zip((1e-2, 0.5), *ways, strict=True):
        apart = np.max(np.abs(flatten(split) - flatten(none)))
        assert apart * step <= 8 * np.finfo(np.float32).eps * abs(value)


@pytest.mark.usefixtures("x64")
def test_split_equals_none_in_float64():
    fun, params, args = network_loss("cnn2")
    grads = [
        estimated(dz.cge(smoothing=1e-3, reuse=reuse), fun, params, *args, has_aux=True)[1]
        for reuse in ("none", "split")
    ]
    assert relative_error(grads[1], grads[0]) < 1e-10


@long
def test_split_does_a_quarter_of_the_multiply_adds_on_resnet20():
    fun, params, args = network_loss("resnet20", width=16, batch=1, size=32)
    loss = Loss(fun, args, has_aux=True)
    whole = multiply_adds(loss, params)
    none = split = 0
    for leaf, moved in zip(
        jax.tree.leaves(params), suffix_losses(FlatLoss.at(loss, params)), strict=True
    ):
        none += leaf.size * whole
        split += leaf.size * multiply_adds(moved, jnp.int32(0), jnp.float32(0))
    # The carries are closed over, so a trace of one suffix counts that suffix alone.
    print(f"multiply-adds of a dense step and image: none {none:.4g}, split {split:.4g}")
    assert split <= none / 4


@pytest.mark.parametrize("reuse", ["difference", "none"])
def test_padding_of_a_leaf_without_scalars_is_padding(reuse):
    params = {"w": jnp.ones(2), "nothing": jnp.zeros(0)}
    coordinates = {"w": jnp.arange(2), "nothing": jnp.zeros(1, jnp.int32)}
    vg = dz.value_and_grad(lambda p: jnp.sum(p["w"] ** 2), dz.cge(smoothing=1e-4, reuse=reuse))
    grads = vg(params, coordinates=coordinates)[1]
    np.testing.assert_allclose(grads["w"], 2, rtol=1e-3)
    assert grads["nothing"].shape == (0,)
