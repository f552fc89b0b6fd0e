"""Structures, bases, counts, failures, and what is refused in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import deepzero_jax as dz
from deepzero_jax.blackbox import BlackBoxError

RNG = np.random.default_rng(0)
X = jax.random.normal(jax.random.key(1), (4, 12))
EXACT = dz.cge(smoothing=1e-5, central=True)


def stencil(x, xp=np):
    """Every output of three neighbours on a circle."""
    return xp.sin(x) * xp.roll(x, 1, axis=1) + xp.roll(x, -1, axis=1) ** 2


def gradient(f, x=None):
    x = jnp.asarray(X, float) if x is None else x
    return jax.jit(jax.grad(lambda x: jnp.sum(f(x) ** 2)))(x)


STRUCTURES = {
    "dense": dz.windows((12,), 1, boundary="periodic").toarray(),
    "sparse": scipy.sparse.coo_array(dz.windows((12,), 1, boundary="periodic")),
    "windows": dz.windows((12,), 1, boundary="periodic"),
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_inputs_that_share_no_output_move_together(x64, structure):
    exact = gradient(lambda x: stencil(x, jnp))
    box = dz.black_box(stencil, (12,), dtype="float64")
    for fun in (box, lambda x: stencil(x, jnp)):
        f = dz.differentiable(fun, EXACT, structure=STRUCTURES[structure], check=fun is box)
        np.testing.assert_allclose(gradient(f), exact, atol=1e-6)
        assert f.num_queries(X) == 1 + 2 * 3 + 2 * (fun is box)
    assert box.num_samples == 4 * (1 + 2 * 3 + 2)


def test_windows_of_a_grid_with_channels_need_as_many_calls_as_a_window_has_numbers(x64):
    kernel = RNG.normal(size=(3, 3, 2, 2))

    def fun(x):
        return jax.lax.conv_general_dilated(
            jnp.sin(x), kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    x = jax.random.normal(jax.random.key(0), (2, 6, 9, 2))
    pattern = dz.windows((6, 9), 1, num_inputs=2, num_outputs=2)
    f = dz.differentiable(fun, EXACT, structure=pattern)
    np.testing.assert_allclose(gradient(f, x), gradient(fun, x), rtol=1e-6, atol=1e-6)
    assert f.num_queries(x) == 1 + 2 * 18


def test_elementwise_is_one_call():
    box = dz.black_box(np.tanh, (12,), dtype="float64")
    f = dz.differentiable(box, dz.cge(smoothing=1e-6), structure="elementwise")
    np.testing.assert_allclose(gradient(f), gradient(jnp.tanh), atol=1e-4)
    assert box.num_samples == 8


def test_a_wrong_pattern_is_noticed():
    box = dz.black_box(stencil, (12,), dtype="float64")
    f = dz.differentiable(box, dz.cge(smoothing=1e-5), structure="elementwise", check=True)
    with pytest.raises(BlackBoxError, match="pattern misses"):
        jax.grad(lambda x: jnp.sum(f(x)))(X)
    pattern = np.eye(12, dtype=bool)
    for wrong, words in (
        (pattern[:5], r"\(12, 12\), got shape \(5, 12\)"),
        ("rows", "elementwise"),
    ):
        f = dz.differentiable(box, EXACT, structure=wrong)
        with pytest.raises(ValueError, match=words):
            jax.grad(lambda x, f=f: jnp.sum(f(x)))(X)


@pytest.mark.parametrize("central", [False, True])
def test_a_wrong_pattern_is_noticed_in_a_small_output(central):
    box = dz.black_box(
        lambda x: np.stack([1e5 * x[:, 0] ** 2, x[:, 1] + 5 * x[:, 0]], 1), (2,), dtype="float64"
    )
    estimator = dz.cge(smoothing=1e-4, central=central)
    f = dz.differentiable(box, estimator, structure="elementwise", check=True)
    with pytest.raises(BlackBoxError, match="pattern misses"):
        jax.grad(lambda x: jnp.sum(f(x)[:, 1]))(jnp.ones((2, 2)))


RIGHT = {
    "at extrema": (lambda x: x**2, "float64", 1e-4),
    "at extrema of float32": (lambda x: np.cos(x - 1), "float32", 1e-2),
    "of many sizes": (lambda x: np.tanh(x) * 10.0 ** np.linspace(-25, 25, 120), "float64", 1e-4),
    "noisy": (lambda x: np.sin(x) + 1e-5 * RNG.normal(size=x.shape), "float64", 1e-3),
    "noisy and at rest": (
        lambda x: np.where(np.arange(120) % 4 == 0, 1e3 * x, 1e-5 * RNG.normal(size=x.shape)),
        "float64",
        1e-3,
    ),
}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("central", [False, True])
def test_a_right_pattern_is_not_doubted(name, central):
    host, dtype, smoothing = RIGHT[name]
    box = dz.black_box(host, (120,), dtype=dtype)
    estimator = dz.cge(smoothing=smoothing, central=central)
    f = dz.differentiable(box, estimator, structure="elementwise", check=True)
    jax.grad(lambda x: jnp.sum(f(x)))(jnp.linspace(-2, 3, 120).at[60].set(0)[None])


def test_an_input_that_reaches_nothing_is_never_asked():
    pattern = np.zeros((1, 12), bool)
    pattern[0, [2, 7]] = True
    box = dz.black_box(lambda x: x[:, 2:3] * x[:, 7:8], (1,), dtype="float64")
    f = dz.differentiable(box, dz.cge(smoothing=1e-6), structure=pattern)
    exact = gradient(lambda x: x[:, 2:3] * x[:, 7:8])
    np.testing.assert_allclose(gradient(f), exact, atol=1e-4)
    assert box.num_samples == 4 * 3


def test_a_basis_gives_the_projected_gradient(x64):
    box = dz.black_box(stencil, (12,), dtype="float64")
    exact = gradient(lambda x: stencil(x, jnp))
    for basis in (dz.cosine_basis((12,), 5), RNG.normal(size=(4, 12))):
        f = dz.differentiable(box, EXACT, basis=basis)
        asked = box.num_samples
        projector = np.linalg.pinv(basis) @ basis
        np.testing.assert_allclose(gradient(f), exact @ projector, atol=1e-6)
        assert box.num_samples - asked == 4 * (1 + 2 * len(basis))


def test_nothing_is_asked_for_a_cotangent_of_zero():
    box = dz.black_box(lambda x: {"used": x, "idle": 2 * x}, {"used": (12,), "idle": (12,)})
    f = dz.differentiable(box, dz.cge(smoothing=1e-2))
    slopes = jax.grad(lambda x: jnp.sum(x**2) + 0.0 * jnp.sum(jax.lax.stop_gradient(f(x)["used"])))(
        X
    )
    assert jnp.all(slopes == 2 * X) and box.num_samples == 4


def test_counters_are_right_under_retries_and_dropped_samples_leave_zero():
    calls = [0]

    def often_fails(x):
        calls[0] += len(x)
        if (np.abs(x[:, 3] - 0.5) > 1e-12).any() and len(x) > 1:
            raise FloatingPointError("diverged")
        if abs(x[0, 3] - 0.5) > 1e-12:
            raise FloatingPointError("diverged")
        return x**2

    box = dz.black_box(
        often_fails, (12,), dtype="float64", on_failure="nan", retries=1, backoff=0.0
    )
    x = X.at[:, 3].set(0.5)
    found = jax.grad(lambda x: jnp.sum(dz.differentiable(box, dz.cge(smoothing=1e-5))(x)))(x)
    np.testing.assert_allclose(found, (2 * x).at[:, 3].set(0), rtol=1e-3, atol=1e-3)
    assert box.num_samples == calls[0] and box.num_dropped == 4
    assert box.num_answered == 4 * (1 + 11)


def test_the_boxes_of_a_traced_step_and_their_samples_are_seen():
    box = dz.black_box(stencil, (12,), dtype="float64")
    f = dz.differentiable(box, EXACT)
    jaxpr = jax.make_jaxpr(jax.grad(lambda x: jnp.sum(f(x))))(X)
    assert dz.blackbox.boxes_asked(jaxpr.eqns) == {box: 4 * (1 + 2 * 12)}
    assert box.num_samples == 0


def test_memory_bounds_the_samples_of_a_call(monkeypatch):
    from deepzero_jax.estimators.boundary import host

    sizes = []
    box = dz.black_box(lambda x: (sizes.append(len(x)), stencil(x))[1], (12,), dtype="float64")
    whole = gradient(dz.differentiable(box, EXACT))
    monkeypatch.setattr(host, "_MEMORY", 16 * 4 * 24 * 5)
    assert jnp.all(gradient(dz.differentiable(box, EXACT)) == whole)
    assert max(sizes[3:]) == 4 * 5 and sum(sizes[3:]) == 4 * 25


def test_devices_ask_for_their_own_samples(x64):
    box = dz.black_box(stencil, (12,), dtype="float64", thread_safe=True)
    f = dz.differentiable(box, EXACT)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")
    of_shard = jax.shard_map(
        jax.grad(lambda x: jnp.sum(f(x) ** 2)), mesh=mesh, in_specs=spec, out_specs=spec
    )
    np.testing.assert_allclose(
        jax.jit(of_shard)(jnp.asarray(X, float)), gradient(lambda x: stencil(x, jnp)), atol=1e-6
    )


def test_second_derivatives_are_one_line():
    box = dz.black_box(stencil, (12,))
    for fun in (box, lambda x: stencil(x, jnp)):
        f = dz.differentiable(fun, dz.cge(smoothing=1e-2))
        slope = lambda x, f=f: jnp.sum(jax.grad(lambda x: jnp.sum(f(x)))(x))
        with pytest.raises(ValueError, match="first derivatives only") as caught:
            jax.grad(slope)(X)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"dz\.differentiable"):
        jax.grad(lambda x: jnp.sum(box(x)))(X)


REFUSED = {
    "takes an estimator from cge": lambda box: dz.differentiable(box, dz.first_order()),
    "batched=False": lambda box: dz.differentiable(
        dz.black_box(stencil, (), batched=False), dz.cge()
    ),
    "goes with cge": lambda box: dz.differentiable(box, dz.rge(), structure="elementwise"),
    "check=True is of a structure": lambda box: dz.differentiable(box, dz.cge(), check=True),
    "asks a black box twice more": lambda box: dz.differentiable(
        stencil, dz.cge(), structure="elementwise", check=True
    ),
    "cotangents must be like the outputs": lambda box: dz.differentiable(box, dz.cge()).estimate(
        X.T, X
    ),
    "there is nothing to move": lambda box: dz.differentiable(box, dz.cge()).estimate(
        X, X.astype(int)
    ),
    "num_directions": lambda box: dz.differentiable(box, dz.rge(), num_coordinates=3),
    "at least 1, got 0": lambda box: dz.differentiable(box, dz.cge(), num_coordinates=0),
    "finite numbers": lambda box: dz.differentiable(box, dz.cge(), basis=np.full((2, 12), np.nan)),
    "are cut": lambda box: dz.differentiable(box, dz.cge(reuse="split")),
    "key=jax.random.key": lambda box: dz.differentiable(box, dz.rge())(X),
    r"basis must be \[k, 12\]": lambda box: gradient(
        dz.differentiable(box, dz.cge(), basis=np.eye(5))
    ),
    "first axis of samples": lambda box: dz.differentiable(box, dz.cge())(jnp.ones(())),
    "the same number of samples": lambda box: dz.differentiable(lambda a, b: a, dz.cge())(X, X[:2]),
    "an input is of type complex64": lambda box: gradient(
        lambda x: dz.differentiable(box, dz.cge())(x + 1j)
    ),
    "an output is of type complex64": lambda box: gradient(
        lambda x: jnp.abs(dz.differentiable(lambda x: x * 1j, dz.cge())(x))
    ),
    "two inputs": lambda box: dz.differentiable(box, dz.cge()).estimate(X, X + 1j),
    "two outputs": lambda box: dz.differentiable(lambda x: x * 1j, dz.cge()).estimate(X, X),
    "every output needs a first axis": lambda box: dz.differentiable(jnp.sum, dz.cge())(X),
    "below the resolution": lambda box: gradient(
        dz.differentiable(dz.black_box(stencil, (12,)), dz.cge(smoothing=1e-9))
    ),
    "the surrogate must return": lambda box: jax.grad(
        lambda x: jnp.sum(
            dz.differentiable(box, dz.rge(), surrogate=lambda x: x[:, :3])(x, key=jax.random.key(0))
        )
    )(X),
    "one smoothing": lambda box: gradient(
        lambda x: dz.differentiable(
            lambda a, b: a * b, dz.cge(smoothing={"0": 0.1, "1": 0.2}), basis=np.eye(24)
        )(x, x)
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(words):
    box = dz.black_box(stencil, (12,), dtype="float64")
    with pytest.raises((TypeError, ValueError), match=words) as caught:
        REFUSED[words](box)
    assert "\n" not in str(caught.value)


def test_a_step_for_each_input():
    box = dz.black_box(lambda a, b: a * b, (12,), dtype="float64")
    f = dz.differentiable(box, dz.cge(smoothing={"0": 1e-5, "1": 1e-2}, central=True))
    found = jax.grad(lambda x: jnp.sum(f(x, x)))(X)
    np.testing.assert_allclose(found, 2 * X, rtol=1e-4)


def test_smoothing_may_be_a_schedule():
    box = dz.black_box(stencil, (12,), dtype="float64")

    @jax.jit
    def of(x, smoothing):
        return gradient(dz.differentiable(box, dz.cge(smoothing=smoothing, central=True)), x)

    np.testing.assert_allclose(of(X, 1e-4), gradient(lambda x: stencil(x, jnp)), atol=1e-3)


def test_zeros_that_a_sparse_pattern_holds_are_no_entries():
    """Two patterns on the same indices are two patterns."""
    whole = scipy.sparse.csc_array(np.ones((2, 2), bool))
    data = np.array([True, False, False, True])
    diagonal = scipy.sparse.csc_array((data, whole.indices, whole.indptr), shape=(2, 2))
    mix = np.array([[1.0, 20.0], [40.0, 3.0]])
    box = dz.black_box(lambda x: x @ mix.T, (2,), dtype="float64")

    def slopes(pattern):
        f = dz.differentiable(box, dz.cge(), structure=pattern)
        return jax.grad(lambda x: jnp.sum(f(x)))(jnp.ones((1, 2)))

    # On the diagonal both move at once, and each has all that its own output does.
    np.testing.assert_allclose(slopes(diagonal)[0], [21, 43], rtol=1e-3)
    np.testing.assert_allclose(slopes(whole)[0], [41, 23], rtol=1e-3)
    assert diagonal.nnz == 4


@pytest.mark.parametrize("bend", [np.square, lambda x: np.maximum(x, 0)])
def test_a_right_pattern_is_not_doubted_where_everything_bends(bend):
    box = dz.black_box(bend, (3,), dtype="float64")
    f = dz.differentiable(box, dz.cge(smoothing=1e-3), structure="elementwise", check=True)
    assert np.isfinite(gradient(f, jnp.zeros((2, 3)))).all()


def test_a_key_is_an_input_too():
    noisy = lambda x, key: x * jax.random.normal(key, x.shape)
    f = dz.differentiable(noisy, dz.cge(), samples=False)
    key = jax.random.key(0)
    slopes = jax.grad(lambda x: jnp.sum(f(x, key)))(jnp.ones(3))
    np.testing.assert_allclose(slopes, jax.random.normal(key, (3,)), rtol=1e-3)
