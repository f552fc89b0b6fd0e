"""The law of forms: whether a delta is a scalar, a channel or dense, the result is the same.

Estimates move one coordinate at a time; the oracle moves all. What it says of dense deltas holds
for theirs too, also where values outside of what moves are infinite or no numbers.
"""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import deepzero_jax as dz
from deepzero_jax.difference import Channel, Point, dense, evaluate, propagate, read, trace
from deepzero_jax.difference.values import Moved, Zero
from tests.difference.functions import ARRAYS
from tests.marks import few
from tests.problems import relative_error

# Half of them are not positive, and the functions below make infinities or NaN of these.
VALUES = np.resize([0.3, -0.7, 1.3, -0.2, 0.9, -1.1, 0.6], (4, 6))
MOVES = 0.05 * np.cos(2.0 + np.arange(24)).reshape(4, 6)
MADE = {
    "finite": lambda x: x,
    "low": lambda x: jnp.log(jax.nn.relu(x)),
    "high": lambda x: 1 / jax.nn.relu(x),
    "no numbers": lambda x: x * (jax.nn.relu(x) / jax.nn.relu(x)),
    "in columns": lambda x: jnp.log(jax.nn.relu(x.T)).T,
    "of a product": lambda x: jnp.log(jax.nn.relu(x @ jnp.eye(6, dtype=x.dtype))),
}
PARTS = 48


def results(fun, x):
    """By form of the delta of x: all results in that form, and all of dense deltas."""
    program, _ = trace(fun, x)
    values, moves = evaluate(program, [x]), jnp.asarray(MOVES, x.dtype)

    def at_end(delta, item):
        value = jnp.asarray(read(values, item))
        if isinstance(delta, Moved) or not jnp.issubdtype(value.dtype, jnp.inexact):
            return value if isinstance(delta, Zero) else delta.value
        return dense(delta, value)

    def both(delta):
        found = [propagate(program, values, [d]) for d in (delta, dense(delta, x))]
        return [list(map(at_end, deltas, program.outputs)) for deltas in found]

    def channel(axis):
        array = lambda index: lax.dynamic_index_in_dim(moves, index, axis, False)
        return lambda index: both(Channel(array(index), axis, index))

    point = lambda row, column: both(Point(moves[row, column], (row, column)))
    rows, columns = jnp.arange(4, dtype=jnp.int32), jnp.arange(6, dtype=jnp.int32)
    return {
        "point": jax.vmap(jax.vmap(point, (None, 0)), (0, None))(rows, columns),
        "row": jax.vmap(channel(0))(rows),
        "column": jax.vmap(channel(1))(columns),
    }


def wrong(found, expected, dtype):
    """Where a result is not the expected one; where that is no number, anything goes."""
    found, expected = (np.asarray(v, np.complex128) for v in (found, expected))
    finite = np.isfinite(expected)
    size = np.max(np.abs(expected), initial=0, where=finite)
    close = np.abs(found - expected) <= (1e-9 if dtype == "float64" else 1e-3) * (size + 1e-2)
    return np.where(finite, ~close, np.isinf(expected) & ~np.isinf(found))


def checked(name, made, dtype):
    fun = lambda x: ARRAYS[name](MADE[made](x))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        pairs = jax.jit(lambda x: results(fun, x))(jnp.asarray(VALUES, dtype))
    return [
        (name, made, form, int(np.sum(bad)))
        for form, (own, as_dense) in pairs.items()
        for bad in map(lambda a, b: wrong(a, b, dtype), own, as_dense)
        if np.any(bad)
    ]


@pytest.mark.parametrize("part", few(range(PARTS)))
def test_every_form_gives_the_same_in_float64(part, x64):
    cases = itertools.islice(ARRAYS, part, None, PARTS)
    found = [bad for name in cases for made in MADE for bad in checked(name, made, "float64")]
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("part", few(range(PARTS)))
def test_every_form_gives_the_same_in_float32(part):
    cases = itertools.islice(zip(ARRAYS, itertools.cycle(MADE), strict=False), part, None, PARTS)
    found = [bad for name, made in cases for bad in checked(name, made, "float32")]
    assert not found, "\n".join(map(str, found))


RELU = jax.nn.relu
MATRIX = np.sin(3.0 + np.arange(15)).reshape(3, 5)
# With infinities outside of what moves, and the same without.
ALIKE = {
    "softmax of log": (
        lambda w: jax.nn.softmax(jnp.log(RELU(w)), -1),
        lambda w: RELU(w) / jnp.sum(RELU(w), -1, keepdims=True),
    ),
    "mixed": (
        lambda w: jnp.exp(-(RELU(w) ** -0.5) @ np.abs(MATRIX).T),
        lambda w: jnp.zeros((*w.shape[:-1], 3)) * w[..., :3],
    ),
    "guarded": (
        lambda w: jnp.nan_to_num(RELU(w) / RELU(w), nan=0.3) * w**2,
        lambda w: jnp.where(w > 0, 1.0, 0.3) * w**2,
    ),
    "over all": (
        lambda w: (
            jnp.exp(jnp.log(RELU(w)) + jnp.sum(jnp.sin(w))) * jax.nn.sigmoid(jnp.sum(1 / RELU(w)))
        ),
        lambda w: RELU(w) * jnp.exp(jnp.sum(jnp.sin(w))),
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ALIKE)
def test_slopes_beside_infinities(name, dtype, x64):
    made, alike = ALIKE[name]
    w = jnp.array([[0.3, -0.7, 1.3, -0.2, 0.9], [-0.4, 0.8, -1.1, 0.6, -0.5]], dtype)
    weights = jnp.asarray(np.cos(np.arange(10.0)).reshape(2, 5), dtype)
    loss = lambda f: lambda w: jnp.sum((f(w) * weights[:, : f(w).shape[1]]).astype(dtype))
    found = jax.jit(dz.value_and_grad(loss(made), dz.cge(smoothing=1e-5)))(w)[1]
    exact = jax.grad(loss(alike))(w)
    assert relative_error(found, exact) < 1e-3 if np.any(exact) else not np.any(found)
