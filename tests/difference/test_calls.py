import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive
from jax.sharding import AxisType, PartitionSpec

import deepzero_jax as dz
from deepzero_jax.difference import (
    RULES,
    Channel,
    base_values,
    dense,
    deregister_rule,
    evaluate,
    program,
    propagate,
    trace,
)
from deepzero_jax.difference.program import CALLS
from deepzero_jax.difference.rules import OWN_RULES


def test_composes_with_jit_vmap_grad_free_transforms_and_shard_map():
    fun = lambda x: jnp.sum(jnp.tanh(x) ** 2, axis=-1)
    x = jax.random.normal(jax.random.key(0), (4, 3, 10))
    delta = 1e-3 * jax.random.normal(jax.random.key(1), x.shape)
    out, expected = dz.difference(fun, (x,), (delta,))
    pair = lambda x, d: dz.difference(fun, (x,), (d,))
    for transformed in (
        jax.jit(pair),
        jax.vmap(pair),
        jax.jit(jax.vmap(jax.vmap(pair))),
        jax.shard_map(
            pair,
            mesh=jax.make_mesh((1,), ("x",), axis_types=(AxisType.Auto,)),
            in_specs=PartitionSpec("x"),
            out_specs=PartitionSpec("x"),
        ),
    ):
        got_out, got = transformed(x, delta)
        np.testing.assert_allclose(got_out, out, 1e-6)
        np.testing.assert_allclose(got, expected, 1e-5, 1e-9)


def test_bfloat16_keeps_its_type():
    x = jax.random.normal(jax.random.key(0), (4, 3, 10), jnp.bfloat16)
    out, delta = dz.difference(jnp.exp, (x,), (x * jnp.bfloat16(0.01),))
    assert out.dtype == delta.dtype == jnp.bfloat16
    expected = np.exp(np.float32(x) * 1.01) - np.exp(np.float32(x))
    assert np.linalg.norm(np.float32(delta) - expected) < 0.02 * np.linalg.norm(expected)


def test_pytrees_integers_and_booleans():
    fun = lambda tree, n: {"y": tree["x"] * n, "n": n, "up": tree["x"] > 0}
    float0 = np.zeros((), jax.dtypes.float0)
    out, delta = dz.difference(
        fun, ({"x": jnp.array([-1.0, 1.0])}, 3), ({"x": jnp.ones(2) * 1.5}, float0)
    )
    assert out["y"].tolist() == [-3.0, 3.0]
    assert delta["y"].tolist() == [4.5, 4.5]
    assert delta["n"] == 0
    assert delta["up"].tolist() == [1, 0]


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="structure of primals"):
        dz.difference(jnp.sin, (1.0,), (1.0, 2.0))
    with pytest.raises(TypeError, match="shape of its primal"):
        dz.difference(jnp.sin, (jnp.zeros(2),), (jnp.zeros(3),))
    with pytest.raises(TypeError, match="float0"):
        dz.difference(jnp.sin, (1,), (1,))


@pytest.fixture
def arctan_rule():
    used = []

    def arctan_delta(primals, deltas, output, **params):
        used.append(primals[0].shape)
        return jnp.arctan(deltas[0] / (1 + primals[0] * (primals[0] + deltas[0])))

    yield used, arctan_delta
    OWN_RULES.clear()


def test_a_rule_of_ones_own_is_used_until_it_is_taken_back(arctan_rule):
    used, arctan_delta = arctan_rule
    x, delta = jnp.float32(0.7), jnp.float32(1e-7)
    dz.register_rule("atan", arctan_delta)
    _, got = dz.difference(jnp.arctan, (x,), (delta,))
    assert len(used) == 1
    assert float(got) == pytest.approx(1e-7 / (1 + 0.7**2), rel=1e-5)
    deregister_rule(lax.atan_p)
    dz.difference(jnp.arctan, (x,), (delta,))
    assert len(used) == 1


def test_the_own_rule_of_the_library_comes_back():
    doubled = lambda primals, deltas, output, **params: 2 * deltas[0]
    dz.register_rule(lax.sin_p, doubled)
    assert dz.difference(jnp.sin, (0.0,), (0.25,))[1] == 0.5
    deregister_rule("sin")
    assert float(dz.difference(jnp.sin, (0.0,), (0.25,))[1]) == pytest.approx(np.sin(0.25))
    with pytest.raises(ValueError, match="no rule is registered for 'sin'; registered are: none"):
        deregister_rule("sin")


def test_an_elementwise_rule_of_ones_own_keeps_channels(arctan_rule):
    used, arctan_delta = arctan_rule
    x = jax.random.normal(jax.random.key(0), (4, 3, 10))
    program, _ = trace(jnp.arctan, x)
    delta = Channel(x[:, 1], 1, jnp.int32(1))
    dz.register_rule("atan", arctan_delta)
    whole = propagate(program, evaluate(program, [x]), [delta])[0]
    dz.register_rule("atan", arctan_delta, elementwise=True)
    kept = propagate(program, evaluate(program, [x]), [delta])[0]
    assert isinstance(kept, Channel)
    assert used == [(4, 3, 10), (4, 10)]
    np.testing.assert_allclose(dense(kept, x), whole, 1e-6)


def test_a_rule_of_ones_own_for_several_results():
    def halves(primals, deltas, outputs, **params):
        assert [out.shape for out in outputs] == [(2,), (2,)]
        return [2 * piece for piece in jnp.split(deltas[0], 2)]

    dz.register_rule("split", halves)
    try:
        _, delta = dz.difference(lambda x: jnp.split(x, 2), (jnp.zeros(4),), (jnp.arange(4.0),))
    finally:
        deregister_rule("split")
    assert [piece.tolist() for piece in delta] == [[0, 2], [4, 6]]


@pytest.mark.parametrize("table", [RULES, CALLS])
def test_every_key_is_a_primitive_of_the_installed_jax(table):
    # By type: to be asked for their class, objects of PyTorch warn that they are deprecated.
    found = {o.name for o in gc.get_objects() if issubclass(type(o), Primitive)}
    assert set(table) - found <= OF_OTHER_VERSIONS


# Gone in newer versions of JAX, or not yet in the oldest that is supported.
NEW_JAX = jax.__version_info__ >= (0, 11)
OF_OTHER_VERSIONS = {"closed_call"} if NEW_JAX else {"log2", "one_minus_square", "polynomial"}


def test_a_difference_keeps_no_value_after_its_last_use(monkeypatch):
    x, most = jnp.linspace(0.1, 0.9, 12_345), []

    def noted(eqn, operands):
        most.append(sum(array.shape == x.shape for array in jax.live_arrays()))
        return program.apply(eqn, operands)

    def deep(x):
        for _ in range(30):
            x = jnp.tanh(x) * 1.1 + 0.01
        return x

    monkeypatch.setattr(base_values, "apply", noted)
    dz.difference(deep, (x,), (jnp.full_like(x, 1e-4),))
    assert len(most) >= 90
    assert max(most[10:]) <= max(most[:10])
