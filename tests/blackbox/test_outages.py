"""Samples that have no answer, told from a box that gives none any more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.blackbox import BlackBoxError
from tests.blackbox.test_box import squares


@pytest.mark.parametrize("options", [{}, {"workers": 3}, {"workers": 3, "max_batch": 1}])
def test_an_outage_costs_few_calls(options):
    def host(samples):
        raise ConnectionError("nobody there")

    box = dz.black_box(host, (1,), backoff=0.0, **options)
    with pytest.raises(BlackBoxError, match="3 times in a row; the last time: ConnectionError: no"):
        box(jnp.ones((400, 2)))
    # Each worker may have one on its way when a round ends.
    assert box.num_calls <= 9 + (15 if options else 0)


@pytest.mark.parametrize("first", [0, 12, 30])
@pytest.mark.parametrize(
    "options", [{}, {"batched": False}, {"max_batch": 1, "workers": 3}, {"retries": 0}]
)
def test_samples_that_diverge_in_a_row_take_no_other_with_them(first, options):
    """Ten in a row look like an outage, also where they come before all others."""

    def host(samples):
        if (samples[..., 0] > 0).any():
            raise FloatingPointError("diverged")
        return (samples**2).sum(-1, keepdims=True)

    x = np.zeros((40, 3), np.float32)
    x[first : first + 10, 0] = 1
    size = {"max_batch": 2} if options == {"retries": 0} else {}
    given = {"retries": 1, **options, **size}
    box = dz.black_box(host, (1,), on_failure="nan", backoff=0.0, **given)
    ask = box if given.get("batched", True) else jax.vmap(box)
    answers = np.asarray(ask(x))
    assert np.flatnonzero(np.isnan(answers[:, 0])).tolist() == list(range(first, first + 10))
    assert (box.num_dropped, box.num_answered) == (10, 30)


def test_an_outage_is_one_also_where_failures_are_dropped():
    box = dz.black_box(lambda samples: 1 / 0, (1,), on_failure="nan", backoff=0.0)
    assert np.isnan(box(jnp.ones((400, 2)))).all()
    assert box.num_calls <= 13


@pytest.mark.parametrize("max_batch", [None, 1, 32])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.5])
def test_samples_that_diverge_here_and_there_take_no_other_with_them(share, max_batch):
    def host(samples):
        if (samples[:, 0] > 0).any():
            raise FloatingPointError("diverged")
        return squares(samples)

    for seed in range(5):
        x = np.zeros((400, 3), np.float32)
        x[:, 0] = np.random.default_rng(seed).random(400) < share
        box = dz.black_box(host, (1,), on_failure="nan", backoff=0.0, max_batch=max_batch)
        np.testing.assert_array_equal(np.isnan(np.asarray(box(x))[:, 0]), x[:, 0] > 0)


def test_failures_that_raise_do_not_pay_for_all_others_first():
    def host(samples):
        if (samples[:, 0] < 4).any():
            raise FloatingPointError("diverged")
        return squares(samples)

    box = dz.black_box(host, (1,), max_batch=1, backoff=0.0)
    with pytest.raises(BlackBoxError, match="diverged"):
        box(jnp.arange(2000.0)[:, None])
    assert box.num_calls <= 9
