"""What an estimate through a black box warns of, once."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.estimators import Probe
from deepzero_jax.programs import warnings_in

ESTIMATORS = {"cge": dz.cge, "rge": lambda **options: dz.rge(num_directions=4, **options)}


@pytest.fixture(params=ESTIMATORS)
def make(request):
    return ESTIMATORS[request.param]


def warned(caplog, host, estimator, params, times=2):
    box = dz.black_box(host, ())
    vg = jax.jit(dz.value_and_grad(lambda w: jnp.mean(box(w[None])), estimator))
    caplog.clear()
    with caplog.at_level(logging.WARNING, "deepzero_jax"):
        for seed in range(times):
            jax.block_until_ready(vg(params, key=jax.random.key(seed)))
        jax.effects_barrier()
    assert box.num_samples == times * dz.num_queries(estimator, params)
    return [record.getMessage() for record in caplog.records]


def test_slopes_that_are_all_zero(caplog, make):
    stairs = lambda x: np.round(np.sum(x, axis=1))
    (words,) = warned(caplog, stairs, make(smoothing=1e-4), jnp.full(3, 0.1))
    assert "are exactly 0" in words
    assert "dz.probe_smoothing" in words
    assert not warned(caplog, lambda x: np.sum(x, axis=1), make(smoothing=1e-2), jnp.ones(3))


def test_slopes_that_are_no_numbers_are_not_told_to_be_zero(caplog):
    def vg(w):
        return dz.value_and_grad(lambda w: jnp.sum(jnp.sqrt(box(w[None]))), dz.cge())(w)

    box = dz.black_box(lambda x: np.where(x[:, 0] > 1, -1.0, 1.0), ())
    assert np.isnan(vg(jnp.ones(1))[1]).all()
    jax.effects_barrier()
    assert not caplog.messages


def test_slopes_that_are_zero_at_a_minimum(caplog, make):
    bowl = lambda x: np.sum(np.square(x), axis=1)
    (words,) = warned(caplog, bowl, make(smoothing=0.25, central=True), jnp.zeros(3))
    assert "as at a minimum" in words
    assert not warned(caplog, bowl, make(smoothing=0.25), jnp.zeros(3))


def probe(**known):
    return Probe(1e-3, 1.0, 1e-2, 0.2, 1e-1, 0.02, 9, True, None)._replace(**known)


def test_slopes_below_the_noise(caplog, make):
    weak, strong = (lambda x, k=k: k * np.sum(x, axis=1) for k in (0.05, 5.0))
    (words,) = warned(caplog, weak, make(smoothing=probe()), jnp.ones(5))
    assert "below the error that is expected of them, 0.2" in words
    assert not warned(caplog, strong, make(smoothing=probe()), jnp.ones(5))
    # At central differences less is expected.
    assert not warned(caplog, weak, make(smoothing=probe(), central=True), jnp.ones(5))


def test_answers_that_are_not_the_same_each_time(caplog, make):
    noisy = make(smoothing=probe(deterministic=False))
    (words,) = warned(caplog, lambda x: 5 * np.sum(x, axis=1), noisy, jnp.ones(3))
    assert "another answer each time" in words


def test_what_asks_no_box_or_nothing_is_not_doubted(caplog):
    with caplog.at_level(logging.WARNING, "deepzero_jax"):
        dz.value_and_grad(lambda w: jnp.sum(w * 0), dz.cge())(jnp.ones(2))
        box = dz.black_box(lambda x: np.sum(x, axis=1), ())
        vg = dz.value_and_grad(lambda w: jnp.mean(box(w[None])), dz.cge())
        vg(jnp.ones(2), coordinates=jnp.zeros(0, jnp.int32))
        jax.effects_barrier()
    assert not caplog.records


def test_a_probe_is_a_smoothing():
    found = probe()
    assert "smoothing=0.01" in repr(dz.cge(smoothing=found))
    assert "smoothing=0.1," in repr(dz.rge(smoothing=found, central=True))
    assert dz.cge(smoothing=found).probe is found


def test_the_log_of_a_program_shows_it(caplog):
    lines = []
    with warnings_in(lines.append):
        warned(caplog, lambda x: np.zeros(len(x)), dz.cge(), jnp.ones(2), times=1)
    assert len(lines) == 1
    assert lines[0].startswith("warning: all slopes of an estimate")
