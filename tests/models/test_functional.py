"""Any model as pure functions: Linen modules with and without state, and pairs of functions."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.models import (
    CNN,
    MODELS,
    cut_table,
    init_model,
    layer_names,
    model_loss,
    predict,
    split_model_loss,
)
from tests.marks import few
from tests.problems import estimated, flatten, relative_error, some_coordinates


def squares(outputs, targets):
    return jnp.mean((outputs - targets) ** 2), {"largest": jnp.max(jnp.abs(outputs))}


def labels_loss(logits, labels):
    losses = -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]
    return jnp.mean(losses), {"accuracy": jnp.mean(jnp.argmax(logits, -1) == labels)}


class Stateless(nn.Module):
    """Takes no ``train``; its layers are made in another order than that of their names."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="a")(nn.tanh(nn.Dense(3, name="b")(x)))


class Counting(nn.Module):
    """Batch norm, and a collection of its own; ``train`` has no default."""

    @nn.compact
    def __call__(self, x, train):
        calls = self.variable("counters", "calls", lambda: jnp.int32(0))
        if train and not self.is_initializing():
            calls.value += 1
        return nn.Dense(2)(nn.BatchNorm(use_running_average=not train)(x))


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))


def test_a_model_that_draws_random_numbers_is_refused_with_what_to_do():
    params, state = init_model(Dropping(), jax.random.key(0), jnp.ones((1, 3)))
    assert predict(Dropping(), params, state, jnp.ones((4, 3))).shape == (4, 2)
    words = r"random numbers \(Dropout_0 needs PRNG for \"dropout\"\), .* deterministic=True"
    with pytest.raises(ValueError, match=words):
        model_loss(Dropping(), squares)(params, state, jnp.ones((4, 3)), jnp.ones((4, 2)))


class Pair(NamedTuple):
    init: object
    apply: object


LINE = Pair(
    lambda key, x: {"w": jax.random.normal(key, (x.shape[-1], 2))}, lambda p, x: jnp.sin(x @ p["w"])
)
MAKERS = {"stateless": Stateless, "counting": Counting, "pair": lambda: LINE}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", MAKERS)
def test_estimates_through_the_loss_agree_with_autodiff(name):
    model = MAKERS[name]()
    x, y = jax.random.normal(jax.random.key(0), (5, 4)), jnp.ones((5, 2))
    params, state = init_model(model, jax.random.key(1), x[:1])
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    fun = model_loss(model, squares)
    exact, got, whole = (
        estimated(estimator, fun, params, state, x, y, has_aux=True)
        for estimator in (
            dz.first_order(),
            dz.cge(smoothing=1e-6),
            dz.cge(smoothing=1e-4, central=True, reuse="none"),
        )
    )
    assert relative_error(got[1], exact[1]) < 1e-5
    assert relative_error(whole[1], exact[1]) < 1e-6
    assert jax.tree.structure(got[0]) == jax.tree.structure(exact[0])


def test_state_is_updated_by_the_base_pass_alone():
    x, y = jax.random.normal(jax.random.key(0), (5, 4)), jnp.ones((5, 2))
    model = Counting()
    params, state = init_model(model, jax.random.key(1), x[:1])
    assert set(state) == {"batch_stats", "counters"}
    fun = model_loss(model, squares)
    (_, (moved, metrics)), _ = estimated(dz.cge(), fun, params, state, x, y, has_aux=True)
    assert moved["counters"]["calls"] == 1
    mean = moved["batch_stats"]["BatchNorm_0"]["mean"]
    assert np.allclose(mean, 0.01 * x.mean(0), rtol=1e-4)
    assert metrics["largest"] > 0
    outputs = predict(model, params, moved, x)
    expected = model.apply({"params": params, **moved}, x, train=False)
    assert np.array_equal(outputs, expected)


def test_parameters_come_in_the_order_in_which_layers_are_made():
    x = jnp.zeros((1, 8, 8, 3))
    assert list(init_model(Stateless(), jax.random.key(0), x)[0]) == ["b", "a"]
    model = CNN(depth=2)
    assert list(init_model(model, jax.random.key(0), x)[0]) == layer_names(model)


def test_a_pair_of_functions_has_no_state():
    x = jnp.ones((2, 3))
    params, state = init_model(LINE, jax.random.key(0), x)
    assert state == {}
    assert np.array_equal(predict(LINE, params, {}, x), LINE.apply(params, x))
    assert model_loss(LINE, squares)(params, {}, x, jnp.zeros((2, 2)))[1][0] == {}


def test_what_is_no_model_is_refused():
    for use in (
        lambda: init_model("resnet20", jax.random.key(0), jnp.ones(2)),
        lambda: predict(len, {}, {}, jnp.ones(2)),
        lambda: model_loss(object(), squares),
    ):
        with pytest.raises(TypeError, match=r"a model is a flax\.linen\.Module, or an object"):
            use()


@pytest.mark.parametrize("name", few(["cnn2", "resnet20"]))
def test_the_cut_loss_is_the_loss_of_the_module(name):
    model = MODELS[name](width=2)
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    params, state = init_model(model, jax.random.key(1), images[:1])
    args = (state, images, jnp.arange(4))
    outputs = [
        jax.jit(make(model, labels_loss))(params, *args) for make in (model_loss, split_model_loss)
    ]
    whole, cut = (jax.tree.leaves(output) for output in outputs)
    assert jax.tree.structure(outputs[0]) == jax.tree.structure(outputs[1])
    assert all(np.array_equal(a, b) for a, b in zip(whole, cut, strict=True))
    if name == "cnn2":
        coordinates = some_coordinates(params)
        grads = [
            estimated(
                dz.cge(), make(model, labels_loss), params, *args,
                coordinates=coordinates, has_aux=True,
            )[1]
            for make in (model_loss, split_model_loss)
        ]  # fmt: skip
        assert np.array_equal(flatten(grads[0]), flatten(grads[1]))


def test_only_reuse_split_needs_a_cut_table():
    with pytest.raises(ValueError, match=r'Stateless has no cut table .*CNN, ResNet.*"difference"'):
        split_model_loss(Stateless(), squares)
    with pytest.raises(ValueError, match="no cut table"):
        cut_table(LINE)
    x = jnp.ones((2, 3))
    params, state = init_model(Stateless(), jax.random.key(0), x)
    fun = model_loss(Stateless(), squares)
    vg = dz.value_and_grad(fun, dz.cge(smoothing=1e-2, reuse="split"), has_aux=True)
    with pytest.raises(ValueError, match="cut into stages"):
        vg(params, state, x, jnp.ones((2, 2)))


def test_models_of_ones_own_are_found_by_import():
    assert MODELS["tests.models.test_functional:Stateless"] is Stateless
    with pytest.raises(ValueError, match="unknown model 'restnet20', did you mean 'resnet20'"):
        MODELS["restnet20"]
