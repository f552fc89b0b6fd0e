"""Samples without an answer, steps that rounding swallows, boxes that do not answer to a step."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz

MIX = np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 1.0, -1.0, 2.0]])
ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
SKEW = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])


@pytest.mark.parametrize("basis", [None, ROTATION])
@pytest.mark.parametrize("of", ["all", "drawn", "directions"])
@pytest.mark.parametrize("vmapped", [False, True])
def test_what_is_lost_corrects_no_surrogate(basis, of, vmapped):
    """The surrogate is exact: every correction is 0, whether it was answered or not."""

    def host(x):
        if (x[:, 0] > 1.00001).any():
            raise FloatingPointError("diverged")
        return x @ MIX.T

    estimator = dz.rge(smoothing=1e-4, num_directions=8) if of == "directions" else dz.cge()
    box = dz.black_box(host, (2,), dtype="float64", on_failure="nan", backoff=0.0)
    f = dz.differentiable(
        box,
        estimator,
        surrogate=lambda x: x @ jnp.asarray(MIX.T, jnp.float32),
        num_coordinates=2 if of == "drawn" else None,
        basis=basis,
    )
    slopes = jax.grad(lambda x: jnp.sum(f(x, key=jax.random.key(0))))
    point = jnp.ones((1, 6, 4)) if vmapped else jnp.ones((6, 4))
    found = (jax.jit(jax.vmap(slopes)) if vmapped else slopes)(point)
    assert box.num_dropped > 0
    np.testing.assert_allclose(found, np.broadcast_to([1, 3, 2, 6], found.shape), rtol=1e-4)


@pytest.mark.parametrize("smoothing", [1e-3, 3e-3])
@pytest.mark.parametrize(
    "options",
    [
        {"estimator": dz.rge, "num_directions": 40},
        {"estimator": dz.rge, "num_directions": 40, "distribution": "sphere"},
        {"estimator": dz.rge, "num_directions": 40, "distribution": "tensor_sphere"},
        {"estimator": dz.rge, "num_directions": 40, "distribution": "rademacher"},
        {"estimator": dz.rge, "num_directions": 40, "basis": SKEW},
        {"estimator": dz.cge, "basis": SKEW},
        {"estimator": dz.cge, "basis": SKEW, "num_coordinates": 2},
    ],
)
def test_a_number_that_no_direction_moves_is_told(options, smoothing):
    """One large number among small ones, as a pressure in Pa."""
    options = dict(options)
    settings = {k: options.pop(k) for k in ("num_directions", "distribution") if k in options}
    estimator = options.pop("estimator")(smoothing=smoothing, **settings)
    weights, x = np.array([1.0, 1e-3, 1e-3], np.float32), jnp.array([[1e5, 1.0, 0.5]])
    slopes = lambda f: jax.grad(lambda x: jnp.sum(f(x, key=jax.random.key(1))))(x)
    host = lambda x: (x @ weights)[:, None]
    single, double = (dz.black_box(host, (1,), dtype=kind) for kind in ("float32", "float64"))
    with pytest.raises(dz.BlackBoxError, match=r"does not move an input of 1e\+05 in float32"):
        slopes(dz.differentiable(single, estimator, **options))
    assert single.num_samples == 1
    assert np.isfinite(slopes(dz.differentiable(double, estimator, **options))).all()


def test_steps_of_a_sphere_are_shorter_the_more_numbers_there_are():
    box = dz.black_box(lambda x: x.sum(1), ())
    sphere = dz.rge(smoothing=1e-4, num_directions=4, distribution="sphere")
    f = dz.differentiable(box, sphere)
    with pytest.raises(dz.BlackBoxError, match="does not move an input"):
        jax.grad(lambda x: jnp.sum(f(x, key=jax.random.key(0))))(jnp.full((4, 100), 500.0))


def test_a_draw_near_to_0_is_no_slope_that_is_no_number():
    estimator = dz.rge(smoothing=1e-3, num_directions=8)
    f = dz.differentiable(dz.black_box(lambda x: x.sum(1), ()), estimator)
    slopes = jax.grad(lambda x: jnp.sum(f(x, key=jax.random.key(0))))(jnp.full((64, 1), 1000.0))
    assert np.isfinite(slopes).all()
    assert float(jnp.mean(slopes)) == pytest.approx(1, rel=0.3)


def test_a_box_that_does_not_depend_on_what_was_drawn_is_not_doubted(caplog):
    f = dz.differentiable(dz.black_box(lambda x: x[:, 0], ()), dz.cge(), num_coordinates=1)
    for seed in range(4):
        key = jax.random.key(seed)
        jax.grad(lambda x, key=key: jnp.sum(f(x, key=key)))(jnp.ones((1, 10)))
    assert not caplog.messages


@pytest.mark.parametrize("structure", [None, np.eye(2, dtype=bool)])
def test_a_lost_number_has_the_slope_of_the_surrogate(structure):
    def host(x):
        if (x != 1).any():
            raise FloatingPointError("diverged")
        return 2 * x

    box = dz.black_box(host, (2,), dtype="float64", on_failure="nan", backoff=0.0)
    f = dz.differentiable(box, dz.cge(), surrogate=lambda x: 2 * x, structure=structure)
    assert jax.grad(lambda x: jnp.sum(f(x)))(jnp.ones((3, 2))).tolist() == [[2, 2]] * 3


def test_directions_in_a_loss_whose_numbers_do_not_move_are_told(caplog):
    weights, x = np.array([1.0, 1e-3, 1e-3], np.float32), jnp.array([[1e5, 1.0, 0.5]])
    box = dz.black_box(lambda x: x @ weights, ())
    loss = lambda x: jnp.sum(box(x))
    dz.value_and_grad(loss, dz.rge(smoothing=1e-3, num_directions=20))(x, key=jax.random.key(0))
    assert "do not move the inputs of a black box, in float32" in caplog.text


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("where", ["boundary", "loss"])
def test_a_box_that_does_not_answer_to_a_step_is_told(caplog, where, dtype):
    # 0.3 has no end in binary numbers: two float32 parts hold 48 bits of it.
    box = dz.black_box(lambda x: 0.3 * np.round(x, 2).sum(1), (), dtype=dtype)
    asked = dz.differentiable(box, dz.cge(smoothing=1e-4)) if where == "boundary" else box
    loss, x = (lambda x: jnp.sum(asked(x))), 0.123 * jnp.ones((2, 3))
    take = jax.grad(loss) if where == "boundary" else dz.value_and_grad(loss, dz.cge())
    with caplog.at_level(logging.WARNING, "deepzero_jax"):
        found = [take(x) for _ in range(3)]
        jax.effects_barrier()
    slopes = found[0] if where == "boundary" else found[0][1]
    assert not np.any(slopes)
    assert len(caplog.messages) == 1
    assert "all slopes of an estimate through a black box are exactly 0" in caplog.text


def test_a_spread_of_nothing_drawn_is_0():
    f = dz.differentiable(lambda x: x**2, dz.cge(smoothing=1e-3), num_coordinates=3)
    found = f.estimate(jnp.ones((2, 1)), jnp.ones((2, 1)), key=jax.random.key(0))
    assert found.spread == 0


def test_a_second_input_is_not_taken_for_coordinates():
    f = dz.differentiable(lambda x, y: jnp.sum(x, 1) + jnp.sum(y, 1), dz.cge())
    x, y = jnp.ones((4, 3)), jnp.ones((4, 5))
    assert f.num_queries(x, y) == 9
    with pytest.raises(TypeError, match=r"f\.num_queries\(x, y\)"):
        dz.num_queries(f, x, y)


def smallest(u, xp=np):
    return xp.minimum(u[:, 0] ** 2, u[:, 1])


WITHOUT_LIMIT = {
    "boundary": lambda f, e: jax.grad(lambda u: jnp.sum(dz.differentiable(f, e)(u))),
    "basis": lambda f, e: jax.grad(lambda u: jnp.sum(dz.differentiable(f, e, basis=np.eye(2))(u))),
    "structure": lambda f, e: jax.grad(
        lambda u: jnp.sum(dz.differentiable(f, e, structure=np.ones((1, 2), bool))(u))
    ),
    "loss": lambda f, e: lambda u: dz.value_and_grad(lambda u: jnp.sum(f(u)), e)(u)[1],
}


@pytest.mark.parametrize("way", WITHOUT_LIMIT)
@pytest.mark.parametrize("dtype", ["float32", "float64", None])
@pytest.mark.parametrize("reuse", ["difference", "none"])
def test_an_infinite_input_leaves_the_others_their_slopes(way, dtype, reuse):
    if way == "loss" and reuse == "none":
        return  # refused, see check_resolution
    fun = dz.black_box(smallest, (), dtype=dtype) if dtype else lambda u: smallest(u, jnp)
    u = jnp.array([[3.0, jnp.inf], [2.0, 1e3]])
    found = WITHOUT_LIMIT[way](fun, dz.cge(smoothing=1e-2, central=True, reuse=reuse))(u)
    np.testing.assert_allclose(found, [[6, 0], [4, 0]], rtol=1e-4)


@pytest.mark.parametrize("signs", [(1, 1), (-1, 1), (1, -1)])
def test_every_one_of_the_largest_numbers_is_looked_at(signs):
    with pytest.raises(ValueError, match=r"does not move params.*1\.02e\+03, in float32"):
        dz.ask(dz.cge(smoothing=4e-5), 1024.0 * jnp.array(signs, jnp.float32))
