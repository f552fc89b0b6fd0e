"""Common errors stay one line and name the section that explains them."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import deepzero_jax as dz
from deepzero_jax.pages import see


def gradient(fun, params, estimator=None, **kwargs):
    return dz.value_and_grad(fun, estimator or dz.cge())(params, **kwargs)


def box(batched=True):
    return dz.black_box(lambda x: np.round(np.sum(x)), (), batched=batched)


CASES = {
    "not-arrays": lambda: gradient(lambda p: p["w"], {"w": jnp.ones(()), "f": jnp.tanh}),
    "integer-leaves": lambda: gradient(lambda p: p["w"], {"w": jnp.ones(()), "n": jnp.int32(1)}),
    "key": lambda: gradient(jnp.sum, jnp.ones(3), dz.rge(num_directions=2)),
    "mesh": lambda: dz.sharded(dz.cge(), jax.make_mesh((1,), ("data",))),
    "no-derivative": lambda: jax.grad(box(batched=False))(jnp.ones(3)),
}


@pytest.mark.parametrize("section", CASES)
def test_error_names_its_section(section):
    with pytest.raises((TypeError, ValueError)) as raised:
        CASES[section]()
    assert str(raised.value).endswith(see(section))
    assert "\n" not in str(raised.value)


def test_flat_box_names_its_section(caplog):
    with caplog.at_level(logging.WARNING, "deepzero_jax"):
        gradient(box(batched=False), 0.1 * jnp.ones(3))
        jax.effects_barrier()
    assert caplog.messages[0].endswith(see("flat"))


@pytest.mark.parametrize(
    "ask",
    [
        lambda: gradient(lambda w: np.sum(np.square(w)), jnp.ones(3)),
        lambda: gradient(lambda w: float(jnp.sum(w)), jnp.ones(3)),
        lambda: gradient(lambda w: w[0] if w[0] > 0 else w[1], jnp.ones(3)),
        lambda: gradient(lambda w: [1, 2][w.astype(int)[0]] * w[0], jnp.zeros(3)),
        lambda: jax.grad(lambda x: dz.differentiable(lambda u: np.sin(u), dz.cge())(x).sum())(
            jnp.ones((2, 3))
        ),
    ],
)
def test_a_function_that_needs_numbers_gets_a_note(ask):
    with pytest.raises((jax.errors.JAXTypeError, TypeError)) as raised:
        ask()
    assert any(note.endswith(see("numpy")) for note in raised.value.__notes__)


def test_tracer_leak_of_an_nnx_model_gets_a_note():
    model = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    graphdef, params, others = nnx.split(model, nnx.Param, ...)

    def loss(params, x):
        return jnp.sum(nnx.merge(graphdef, params, others)(x) ** 2)

    with pytest.raises(Exception, match="different trace level") as raised:
        dz.value_and_grad(loss, dz.cge())(params, jnp.ones((2, 3)))
    assert any(note.endswith(see("nnx")) for note in raised.value.__notes__)


FOREIGN = {
    "__dlpack_device__": lambda torch: lambda w: torch.as_tensor(w).sum(),
    "must be Tensor": lambda torch: lambda w: torch.sum(w),
    "unsupported operand": lambda torch: lambda w: (w * torch.ones(3)).sum(),
    "not a valid JAX type": lambda torch: lambda w: torch.zeros(()),
}


@pytest.mark.parametrize("words", FOREIGN)
@pytest.mark.parametrize("boundary", [True, False])
def test_a_loss_in_torch_is_explained(words, boundary):
    loss = FOREIGN[words](pytest.importorskip("torch"))
    f = dz.differentiable(loss, dz.cge(), samples=False)
    with pytest.raises((AttributeError, TypeError), match=words) as raised:
        f(jnp.ones(3)) if boundary else gradient(loss, jnp.ones(3))
    assert raised.value.__notes__[-1].endswith(see("numpy"))


def test_parameters_in_torch_are_refused_in_one_line():
    zeros = pytest.importorskip("torch").zeros(5)
    for refused in (
        lambda: dz.ask(dz.cge(), zeros),
        lambda: gradient(jnp.sum, {"w": zeros}),
        lambda: dz.probe_smoothing(lambda w: 0.0, zeros, jax.random.key(0)),
    ):
        with pytest.raises(TypeError, match=r"of type torch\.Tensor.*np\.asarray") as raised:
            refused()
        assert str(raised.value).endswith(see("numpy")) and "\n" not in str(raised.value)
