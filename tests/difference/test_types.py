"""The law of types: a delta is of the type of its value, in float32 also where JAX has float64."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import deepzero_jax as dz
from deepzero_jax.difference import RULES, evaluate, trace
from deepzero_jax.difference.interpreter import Passing
from deepzero_jax.difference.precision import wide_dtype
from deepzero_jax.difference.values import Channel, Moved, Point
from tests.difference.functions import ARRAYS, COMPLEX, ELEMENTWISE
from tests.difference.functions_elementwise import ACTIVATIONS, UNARY

# (type, shape, functions)
KINDS = {
    "elementwise": ("float32", (6,), ELEMENTWISE),
    "arrays": ("float32", (4, 6), ARRAYS),
    "float16": ("float16", (6,), {**UNARY, **ACTIVATIONS}),
    "complex": ("complex64", (6,), COMPLEX),
}
# JAX itself takes their constants for float64; the host is asked in float64.
DOUBLE = {"lax.clamp", "reduce", "pad less", "scan of tanh", "callback"}
# Rules whose results have no delta, or need a host or a mesh.
UNTYPED = {"lt", "le", "gt", "ge", "eq", "ne", "io_callback", "pure_callback", "pvary"}
UNTYPED |= {"psum", "psum_invariant", "pmax", "pmin", "all_gather", "all_gather_invariant"}
UNTYPED |= {"ppermute", "pbroadcast", "all_to_all", "reduce_scatter"}


def types_of(fun, x):
    """Of every value that moves and of its delta, by the primitive that made it; nothing is run."""
    found = []

    def run(x):
        program, _ = trace(fun, x)
        values = evaluate(program, [x])
        passing = Passing(program, values, None).anew({program.inputs[0]: x})
        for place, eqn in enumerate(program.equations):
            passing.advance(place)
            for number in eqn.outputs:
                delta = passing.moving.get(number)
                if delta is None or isinstance(delta, Moved):
                    continue
                array = delta.array if isinstance(delta, Channel) else delta
                assert not isinstance(array, Point)
                found.append((eqn.primitive.name, values[number].dtype, array.dtype))
        return x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own, whole = str(jax.make_jaxpr(fun)(x)), str(jax.make_jaxpr(run)(x))
    return found, "f64" in whole and "f64" not in own


def test_deltas_are_of_the_type_of_their_values(x64):
    seen = set()
    for dtype, shape, functions in KINDS.values():
        for name in functions.keys() - DOUBLE:
            found, in_float64 = types_of(functions[name], jax.ShapeDtypeStruct(shape, dtype))
            for primitive, value, delta in found:
                assert delta == wide_dtype(value), (name, primitive)
            assert not in_float64, name
            seen |= {primitive for primitive, *_ in found}
    # Those that this version of JAX has no function for.
    for name in RULES.keys() - seen - UNTYPED:
        x = 0.5 * jnp.ones(3, jnp.float32)
        assert RULES[name].takes == "elements", name
        assert RULES[name].function([x, x, x], [x, x, x], x).dtype == jnp.float32, name


@pytest.mark.parametrize("fun", [jnp.exp2, jnp.log2, lax.erf])
def test_slopes_in_float32_where_jax_has_float64(fun, x64):
    w = jnp.array([0.3, 0.7], jnp.float32)
    loss = lambda w: jnp.sum(fun(w) * w)
    found = dz.value_and_grad(loss, dz.cge(smoothing=1e-5, central=True))(w)[1]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, jax.grad(loss)(w), rtol=1e-5)
