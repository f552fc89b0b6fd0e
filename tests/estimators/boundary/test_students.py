"""A student fitted to what a box was asked anyway."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import deepzero_jax as dz

MIX = np.random.default_rng(0).normal(size=(6, 6)) / 2
X = jax.random.normal(jax.random.key(1), (16, 6))


def test_every_query_teaches_the_student():
    box = dz.black_box(lambda x: np.tanh(x @ MIX), (6,), dtype="float64")
    student, record = lambda w, x: jnp.tanh(x @ w), dz.Record(capacity=200)
    params, state, key = jnp.zeros((6, 6)), None, jax.random.key(0)
    spreads, optimizer = [], optax.adam(0.02)
    for _ in range(4):
        key, own, batches = jax.random.split(key, 3)
        f = dz.differentiable(
            box,
            dz.rge(smoothing=1e-5, num_directions=4),
            surrogate=lambda x, w=params: student(w, x),
            record=record,
        )
        spreads.append(float(f.estimate(jnp.ones_like(X), X, key=own).spread))
        asked = box.num_samples
        fitted = dz.fit_surrogate(
            student, params, record, batches, optimizer=optimizer, opt_state=state, num_steps=150
        )
        params, state = fitted.params, fitted.opt_state
        assert box.num_samples == asked
    np.testing.assert_allclose(params, MIX, atol=0.02)
    assert spreads[-1] < 0.1 * spreads[0] and float(fitted.loss) < 1e-3
    assert len(record) == 200  # the newest of 4 × 64


def test_what_has_nothing_to_learn_from_is_refused():
    with pytest.raises(ValueError, match="the record is empty"):
        dz.fit_surrogate(lambda w, x: w * x, jnp.ones(()), dz.Record(), jax.random.key(0))
    with pytest.raises(ValueError, match="capacity must be an integer of at least 1"):
        dz.Record(0)
    with pytest.raises(ValueError, match="a record is of a black box"):
        dz.differentiable(jnp.tanh, dz.cge(), record=dz.Record())


def test_a_record_takes_rows_of_one_function():
    record = dz.Record(8)
    gradient = lambda box, x: jax.grad(
        lambda x: jnp.sum(dz.differentiable(box, dz.cge(), record=record)(x))
    )(x)
    gradient(dz.black_box(np.sin, (2,)), jnp.ones((2, 2)))
    with pytest.raises(dz.BlackBoxError, match="rows of one function"):
        gradient(dz.black_box(np.sin, (1,)), jnp.ones((2, 1)))


def test_an_output_that_stays_and_an_infinite_input_leave_the_fit_finite():
    box = dz.black_box(
        lambda x: {"y": 3 * np.minimum(x[:, 0], x[:, 1]), "valid": np.ones(len(x))},
        {"y": (), "valid": ()},
        dtype="float64",
    )
    record = dz.Record()
    f = dz.differentiable(box, dz.cge(smoothing=1e-3), record=record)
    x = jnp.stack([jnp.linspace(0.1, 1, 8), jnp.linspace(2, 3, 8)], 1).at[0, 1].set(jnp.inf)
    jax.grad(lambda x: jnp.sum(f(x)["y"]))(x)
    assert len(record) == 14  # of 16, two are of the sample without a limit

    def student(params, x):
        return {"y": x @ params["w"], "valid": jnp.tanh(x @ params["v"])}

    params = {"w": jnp.zeros(2), "v": jnp.full(2, 0.1)}
    fitted = dz.fit_surrogate(
        student, params, record, jax.random.key(1), num_steps=300, optimizer=optax.adam(0.1)
    )
    np.testing.assert_allclose(fitted.params["w"], (3, 0), atol=0.05)
    assert fitted.loss < 1e-2
