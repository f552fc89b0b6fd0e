"""Answers in the host's float64, where JAX has float32 alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from tests.marks import few


def offset(x):
    assert x.dtype == np.float64
    return 1000 + np.sum(x**2, axis=-1)


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_slopes_under_a_large_offset_keep_their_digits(central, batch_size):
    w = jnp.array([0.3, -0.7, 1.1, 0.05, 2.0])
    box = dz.black_box(offset, (), dtype="float64")
    fun = lambda w: jnp.mean(box(jnp.array([[1.0], [2.0]]) * w))
    estimator = dz.cge(smoothing=1e-4, central=central, batch_size=batch_size)
    value, grads = jax.jit(dz.value_and_grad(fun, estimator))(w)
    assert grads.dtype == jnp.float32
    bias = 0 if central else 2.5e-4
    np.testing.assert_allclose(grads, 5 * w + bias, rtol=2e-5, atol=2e-6)
    assert float(value) == pytest.approx(1000 + 2.5 * float(jnp.sum(w**2)), rel=1e-6)
    assert box.num_samples == 2 * dz.num_queries(estimator, w)


def test_directions_keep_them_too():
    w = jnp.array([0.3, -0.7, 1.1])
    box = dz.black_box(offset, (), dtype="float64", batched=False)
    rge = dz.rge(smoothing=1e-4, num_directions=5)
    got = dz.value_and_grad(box, rge)(w, key=jax.random.key(0))[1]
    exact = dz.value_and_grad(lambda w: jnp.sum(w**2), rge)(w, key=jax.random.key(0))[1]
    np.testing.assert_allclose(got, exact, rtol=1e-4)
    assert box.num_samples == 6


def test_trees_and_inputs_that_do_not_move():
    def host(x, more):
        assert more["scale"].dtype == np.float64
        assert more["token"].dtype == np.int32
        return {"y": 1e4 + x * more["scale"], "z": (x.sum(1) > 0).astype(np.int32)}

    output = {"y": jax.ShapeDtypeStruct((2,), np.float64), "z": jax.ShapeDtypeStruct((), np.int32)}
    box = dz.black_box(host, output)
    more = {"scale": jnp.full((3, 2), 0.5), "token": jnp.arange(3)}
    fun = lambda w: jnp.sum(box(jnp.ones((3, 2)) * w, more)["y"])
    # An integer answer may move: such a box is evaluated and subtracted in float32.
    _, grads = dz.value_and_grad(fun, dz.cge(smoothing=1.0))(jnp.ones(2))
    np.testing.assert_allclose(grads, [1.5, 1.5], rtol=1e-2)


def test_with_x64_the_answers_are_float64(x64):
    box = dz.black_box(offset, (), dtype="float64")
    assert box(jnp.ones((2, 2))).dtype == jnp.float64
    fun = lambda w: box(w[None])[0]
    _, grads = dz.value_and_grad(fun, dz.cge(smoothing=1e-6))(jnp.array([0.3, 0.4]))
    np.testing.assert_allclose(grads, [0.6, 0.8], rtol=1e-5)


SHAPES = {
    "stack": lambda y: jnp.stack([y, 2 * y]),
    "stack last, with what does not move": lambda y: jnp.stack([jnp.zeros(2), y], axis=-1),
    "concatenate": lambda y: jnp.concatenate([y, jnp.ones(3), y]),
    "reshape": lambda y: y.reshape(2, 1, 1),
    "transpose": lambda y: jnp.outer(y, jnp.array([1.0, 2.0])).T,
    "take": lambda y: y[jnp.array([1, 0, 1])],
    "dynamic slice": lambda y: jax.lax.dynamic_slice(y, (0,), (1,)),
    "pad": lambda y: jnp.pad(y, (1, 2)),
    "where": lambda y: jnp.where(jnp.array([True, False]), y, 0),
    "cumsum": jnp.cumsum,
    "scan": lambda y: jax.lax.scan(lambda c, x: (c + x, c), 0.0, y)[1],
}


@pytest.mark.parametrize("name", SHAPES)
def test_linear_steps_behind_the_box_lose_nothing(name):
    w, smoothing = jnp.array([0.3, -0.7, 1.1]), 1e-4
    box = dz.black_box(offset, (), dtype="float64")
    behind = lambda y: jnp.sum(SHAPES[name](y) * 0.5)
    fun = lambda w: behind(box(jnp.array([[1.0], [2.0]]) * w))
    _, grads = jax.jit(dz.value_and_grad(fun, dz.cge(smoothing=smoothing)))(w)
    rows = np.array([1.0, 2.0])[:, None]
    slopes = rows**2 * (2 * np.asarray(w, np.float64) + smoothing)
    # All of them are linear: what they make of the answers they make of the slopes.
    zero = behind(jnp.zeros(2))
    exact = [float(behind(jnp.float32(column)) - zero) for column in slopes.T]
    np.testing.assert_allclose(grads, exact, rtol=2e-5, atol=2e-6)


ESTIMATORS = {
    "cge": dz.cge(),
    "cge central": dz.cge(central=True),
    "cge subtracting": dz.cge(reuse="none"),
    "rge": dz.rge(num_directions=2, distribution="rademacher"),
    "rge subtracting": dz.rge(num_directions=2, distribution="rademacher", reuse="none"),
}


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("w", few([1000.0, 1.0]))  # at 1,000 a step of 1e-4 is rounded to 1.22e-4
def test_the_step_that_float32_took_divides(name, w):
    estimator, key = ESTIMATORS[name], jax.random.key(0)
    box = dz.black_box(lambda x: x[:, 0], ())
    fun, at = lambda w: box(jnp.stack([w, w]))[0], jnp.array([w])
    vg = dz.value_and_grad(fun, estimator)
    points, tell = dz.ask(estimator, at, key=key)
    boundary = dz.differentiable(box, estimator)
    traced = dz.differentiable(lambda x: x[:, 0], estimator)
    slopes = {
        "eager": vg(at, key=key)[1],
        "jit": jax.jit(vg)(at, key=key)[1],
        "vmap": jax.vmap(lambda at: vg(at, key=key)[1])(at[None]),
        "ask": tell([float(point[0]) for point in points])[1],
        "boundary": jax.grad(lambda x: boundary(x, key=key)[0])(at[None]),
        "boundary of a function": jax.grad(lambda x: traced(x, key=key)[0])(at[None]),
    }
    for way, slope in slopes.items():
        np.testing.assert_allclose(slope, np.ones_like(slope), rtol=2e-5, err_msg=way)


def test_a_step_that_is_rounded_in_several_numbers_comes_back_in_the_mean():
    # Nearer than the differences along the ways that were gone.
    mix = jax.random.normal(jax.random.key(0), (64,))
    w = 100 * jax.random.normal(jax.random.key(1), (64,))
    box = dz.black_box(lambda x: x @ np.asarray(mix, np.float64), (), dtype="float32")
    fun = lambda s: box((w * (1 + s))[None])[0]
    _, slope = dz.value_and_grad(fun, dz.cge(smoothing=1e-4))(jnp.zeros(()))
    np.testing.assert_allclose(slope, jnp.vdot(mix, w), rtol=2e-2)


def test_with_x64_and_parameters_of_float32_nothing_is_rounded(x64):
    box = dz.black_box(lambda x: x[:, 0], (), dtype="float64")
    _, slope = dz.value_and_grad(lambda w: box(w[None])[0], dz.cge(smoothing=1e-7))(
        jnp.ones(1, jnp.float32)
    )
    np.testing.assert_allclose(slope, [1.0], rtol=1e-6)


def test_x64_of_a_context_holds_for_the_callback():
    with jax.enable_x64():
        box = dz.black_box(offset, (), dtype="float64")
        vg = dz.value_and_grad(lambda w: box(w[None])[0], dz.cge(smoothing=1e-7))
        value, slopes = jax.jit(vg)(jnp.array([0.3, 0.2]))
    assert value.dtype == slopes.dtype == np.float64
    np.testing.assert_allclose(slopes, [0.6, 0.4], rtol=1e-5)


def test_steps_that_rounding_swallows_are_told(caplog):
    box = dz.black_box(lambda x: x[:, 0], ())
    fun, far = lambda w: box(w[None])[0], jnp.array([5000.0])
    _, slope = dz.value_and_grad(fun, dz.cge())(far)
    assert float(slope[0]) == 0
    assert "do not move the inputs of a black box, in float32 (1 of the 1" in caplog.text
    before = box.num_samples
    with pytest.raises(dz.BlackBoxError, match=r"0\.0001 does not move an input of 5e\+03"):
        jax.grad(lambda x: dz.differentiable(box, dz.cge())(x)[0])(far[None])
    assert box.num_samples == before + 1  # the base alone
    for refused in (
        lambda: dz.ask(dz.cge(), far),
        lambda: dz.value_and_grad(fun, dz.cge(reuse="none"))(far),
        lambda: dz.value_and_grad(fun, dz.rge(reuse="none"))(far, key=jax.random.key(0)),
    ):
        with pytest.raises(ValueError, match=r"does not move params.*at least 0\.0006"):
            refused()


@pytest.mark.parametrize("options", [{}, {"central": True}, {"batch_size": 1}])
@pytest.mark.parametrize("batched", [True, False])
def test_one_parameter_whose_steps_are_all_swallowed_is_told(caplog, options, batched):
    box = dz.black_box(lambda u: u @ np.arange(1.0, 4.0), (), batched=batched)
    ask = box if batched else jax.vmap(box)
    fun, x = lambda w: jnp.mean(ask(x * w)), jnp.ones((4, 3))
    vg = dz.value_and_grad(fun, dz.cge(smoothing=1e-3, **options))
    vg(jnp.array([1.0, 1.0, 2.0]))
    assert not caplog.messages
    vg(jnp.array([1.0, 1.0, 1e5]))
    assert "do not move the inputs of a black box, in float32" in caplog.text


def test_a_sample_whose_steps_are_swallowed_is_not_told(caplog):
    box = dz.black_box(lambda u: u.sum(), (), batched=False)
    x = jnp.ones((4, 3)).at[0, 1].set(1e5)
    fun = lambda w: jnp.mean(jax.vmap(box)(x * (1 + w)))
    dz.value_and_grad(fun, dz.cge(smoothing=1e-3))(jnp.zeros(3))
    assert not caplog.messages


def test_answers_of_other_kinds_come_whole():
    output = {
        "y": jax.ShapeDtypeStruct((), np.float64),
        "sound": jax.ShapeDtypeStruct((), bool),
        "number": jax.ShapeDtypeStruct((), np.int64),
    }
    host = lambda x: {"y": x.sum(1), "sound": x.sum(1) > 0, "number": np.full(len(x), 5)}
    box = dz.black_box(host, output)
    answers = box(jnp.ones((2, 3)))
    assert answers["sound"].tolist() == [True, True]
    assert answers["number"].tolist() == [5, 5]

    def fun(w):
        answer = jax.tree.map(lambda a: a[0], box(w[None]))
        return jnp.where(answer["sound"], answer["y"] * answer["number"], 0)

    _, slopes = jax.jit(dz.value_and_grad(fun, dz.cge()))(jnp.array([0.3, 0.2]))
    np.testing.assert_allclose(slopes, [5, 5], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_complex_input_moves_in_both_of_its_parts(name, dtype):
    box = dz.black_box(lambda z: np.abs(z) ** 2, (), dtype=dtype)
    twin = lambda z: jnp.abs(z) ** 2
    loss = lambda ask: lambda w: jnp.sum(ask(w * (1 + 2j)))
    w, key = jnp.array([1.0, 2.0]), jax.random.key(0)
    found, expected = (
        dz.value_and_grad(loss(ask), ESTIMATORS[name])(w, key=key)[1] for ask in (box, twin)
    )
    is_exact = dtype == "float64" and "subtracting" not in name
    np.testing.assert_allclose(found, expected, rtol=1e-5 if is_exact else 1e-2)


def test_a_complex_input_that_does_not_move_is_taken_as_it_is():
    f = dz.differentiable(lambda x, z: x * jnp.abs(z), dz.cge(smoothing=1e-3))
    found = jax.grad(lambda x: jnp.sum(f(x, jnp.full(2, 3 + 4j))))(jnp.ones(2))
    np.testing.assert_allclose(found, [5, 5], rtol=1e-4)


def test_an_integer_input_moves_too():
    box = dz.black_box(lambda x, times: x.sum(1) * times, (), dtype="float64")
    fun = lambda w: box(w[None], jnp.floor(w[:1] * 10).astype(jnp.int32))[0]
    w = jnp.array([0.35, 0.2])
    _, slopes = dz.value_and_grad(fun, dz.cge(smoothing=0.1))(w)
    np.testing.assert_allclose(slopes, [(4 * 0.65 - 3 * 0.55) / 0.1, 3], rtol=1e-5)


def test_whole_numbers_that_jax_would_wrap_are_not_asked():
    box = dz.black_box(lambda i: i, (), dtype="float64")
    f = dz.differentiable(lambda x, i: x + i, dz.cge())
    for far in (
        np.array([2**40 + 7, 5]),
        np.array([2**32 + 1, 5], np.uint64),
        -np.array([2**31 + 1]),
    ):
        for ask in (box, lambda i: f(jnp.ones(len(i)), i)):
            with pytest.raises(ValueError, match=r"is beyond u?int32.*jax_enable_x64"):
                ask(far)
    assert box.num_samples == 0
    assert box(np.array([2**31 - 1, -(2**31)])).shape == (2,)
    assert box(np.array([[True], [False]])[:, 0]).tolist() == [1, 0]


def test_float64_answers_beyond_float32_are_refused():
    box = dz.black_box(lambda x: 1e39 * x[:, 0], (), dtype="float64")
    f = dz.differentiable(box, dz.cge())
    for ask in (box, jax.jit(box), jax.grad(lambda x: jnp.sum(f(x)))):
        with dz.blackbox.box_errors(), pytest.raises(Exception, match=r"beyond float32.*scale the"):
            jax.block_until_ready(ask(jnp.ones((2, 1))))
    assert np.isfinite(box(jnp.full((2, 1), 0.1))).all()
    with jax.enable_x64():
        np.testing.assert_allclose(box(jnp.ones((2, 1))), [1e39, 1e39])


def test_float64_answers_beyond_float32_are_counted_where_samples_may_go_without():
    """Of two answers for each of 3 × 4 samples, 12 lie beyond: in 9 samples, that became NaN."""
    outputs = jax.ShapeDtypeStruct((), "float32"), jax.ShapeDtypeStruct((2,), np.dtype("float64"))
    box = dz.black_box(lambda x: (x[:, 0], 1e38 * x), outputs, on_failure="nan")
    x = jnp.asarray([[[1, 9], [9, 9], [1, 1], [5, 1]]] * 3, jnp.float32)
    before = dz.blackbox.samples_unanswered()
    first, second = jax.jit(jax.vmap(box))(x)
    assert not np.isnan(first).any() and np.isnan(second).sum() == 12
    assert (box.num_dropped, box.num_answered, box.num_samples) == (9, 3, 12)
    assert dz.blackbox.samples_unanswered() - before == 9
    one = dz.black_box(lambda x: 1e39 * x, (), batched=False, dtype="float64", on_failure="nan")
    assert np.isnan(one(jnp.float32(1.0))) and one.num_dropped == 1


@pytest.mark.parametrize("scale", [1e-26, 1e-33, 1e-60])
def test_float64_answers_that_float32_holds_no_digits_of_are_told(caplog, scale):
    box = dz.black_box(lambda x: scale * x[:, 0] ** 2, (), dtype="float64")
    for _ in range(2):
        box(jnp.ones((2, 1)))
    assert len(caplog.messages) == 1 and "so small" in caplog.text
    others = dz.black_box(
        lambda x: np.stack([x[:, 0], 1e-60 * x[:, 0], 0 * x[:, 0]], 1), (3,), dtype="float64"
    )
    others(jnp.ones((2, 1)))
    dz.black_box(lambda x: 0 * x[:, 0], (), dtype="float64")(jnp.ones((2, 1)))
    with jax.enable_x64():
        dz.black_box(lambda x: scale * x[:, 0], (), dtype="float64")(jnp.ones((2, 1)))
    assert len(caplog.messages) == 1


def test_whole_numbers_beyond_int32_are_refused():
    box = dz.black_box(lambda x: np.full(len(x), 2**40), (), dtype="int64")
    with pytest.raises(dz.BlackBoxError, match="1099511627776, is beyond int32"):
        box(jnp.ones((2, 3)))


@pytest.mark.parametrize("reuse", ["difference", "none"])
@pytest.mark.parametrize("central", [False, True])
def test_slopes_of_a_box_inside_a_loss_that_moves(central, reuse):
    """An inner step divides by 1e-6 what an outer one has moved by 1e-3."""
    box = dz.black_box(lambda u: np.sum(u**2, axis=1), (), dtype="float64")
    inner = dz.differentiable(box, dz.cge(smoothing=1e-6))

    def adapted(f):
        step = lambda u: 0.1 * jax.grad(lambda y: jnp.sum(f(y)))(u)
        return lambda w, x: jnp.sum(f(x * w - step(x * w)))

    w, x = jnp.ones(3), jnp.ones((4, 3)) * jnp.arange(1.0, 4)
    outer = dz.cge(smoothing=1e-3, central=central, reuse=reuse)
    asked = box.num_samples
    _, grads = dz.value_and_grad(adapted(inner), outer)(w, x)
    exact = jax.grad(adapted(lambda u: jnp.sum(u**2, axis=1)))(w, x)
    np.testing.assert_allclose(grads, exact, rtol=1e-3)
    # A forward pass at both places, and a slope in each number of one.
    assert box.num_samples - asked == (7 if central else 4) * 4 * (1 + 3 + 1)
