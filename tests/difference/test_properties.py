"""Any shape, axis and step: drawn, not listed."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import deepzero_jax as dz

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True, database=None)
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
STEPS = st.sampled_from([0.5, 1e-2, 1e-4, 1e-6])
REDUCTIONS = {
    "sum": jnp.sum,
    "max": jnp.max,
    "logsumexp": jax.nn.logsumexp,
    "softmax": jax.nn.softmax,
    "cumsum": jnp.cumsum,
    "flip": jnp.flip,
    "variance": jnp.var,
}
BINARY = [jnp.add, jnp.subtract, jnp.multiply, jnp.divide, jnp.maximum, jnp.logaddexp, jnp.matmul]
BINARY += [lambda a, b: jnp.where(a > b, a * b, b), lambda a, b: jnp.exp(a) ** b]


def compare(fun, arguments, steps):
    _, got = dz.difference(fun, arguments, steps)
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(a, np.float64)) for a in arguments]
        moved = [w + np.asarray(s, np.float64) for w, s in zip(wide, steps, strict=True)]
        exact = np.asarray(fun(*moved) - fun(*wide))
    scale = max(float(np.max(np.abs(s))) for s in steps)
    np.testing.assert_allclose(got, exact, 1e-4, 2e-5 * scale)


@SETTINGS
@given(st.sampled_from(sorted(REDUCTIONS)), SHAPES, st.integers(0, 2), STEPS, st.integers(0, 9))
def test_reductions_of_any_shape(name, shape, axis, size, seed):
    rng = np.random.default_rng(seed)
    x, step = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    fun = lambda v: REDUCTIONS[name](v, axis=axis % len(shape))
    compare(fun, (x,), (np.float32(size) * step,))


@SETTINGS
@given(
    st.sampled_from(range(len(BINARY))),
    st.integers(1, 4),
    st.tuples(st.booleans(), st.booleans()),
    STEPS,
    st.integers(0, 9),
)
def test_two_operands_that_broadcast(number, width, single, size, seed):
    rng = np.random.default_rng(seed)
    matmul = BINARY[number] is jnp.matmul
    shapes = [(1 if one and not matmul else width, width) for one in single]
    a, b = (rng.uniform(0.5, 2, shape).astype(np.float32) for shape in shapes)
    steps = [np.float32(size * 0.3) * rng.standard_normal(s).astype(np.float32) for s in shapes]
    compare(BINARY[number], (a, b), [s.astype(np.float32) for s in steps])
