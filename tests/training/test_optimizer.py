"""The schedule of the learning rate, and optimisers by name."""

import jax.numpy as jnp
import numpy as np
import pytest

from deepzero_jax.training import learning_rate_schedule, make_optimizer


def test_schedule_warms_up_and_decays_per_step():
    schedule = learning_rate_schedule("cosine", 0.1, 100, 10)
    rates = [float(schedule(step)) for step in range(100)]
    assert np.allclose(rates[:10], 0.1 * np.arange(1, 11) / 10, rtol=1e-5)
    assert rates[10] == pytest.approx(0.1)
    assert np.all(np.diff(rates[10:]) < 0)
    assert rates[55] == pytest.approx(0.05, rel=0.01)
    assert rates[-1] < 1e-4


def test_sgd_is_that_of_pytorch():
    tx = make_optimizer("sgd", lambda step: 0.1, momentum=0.9, weight_decay=0.01)
    params = jnp.array([1.0])
    state, buffer, expected = tx.init(params), 0.0, 1.0
    for grad in (0.5, -0.2, 0.3):
        updates, state = tx.update(jnp.array([grad]), state, params, mask=jnp.array([True]))
        params = params + updates
        buffer = 0.9 * buffer + grad + 0.01 * expected
        expected -= 0.1 * buffer
    assert float(params[0]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["optax:adam", "optax:sgd", "optax:lion"])
def test_an_optimiser_of_optax_learns_at_the_rates_of_the_schedule(name):
    def moved(rate):
        rule = make_optimizer(name, lambda step: rate * (step + 1), momentum=0.0, weight_decay=0.0)
        params, grads = jnp.zeros(2), jnp.array([1.0, -1.0])
        state = rule.init(params)
        _, state = rule.update(grads, state, params, mask=None)
        return rule.update(grads, state, params, mask=None)[0]

    assert np.allclose(moved(0.1), [-0.2, 0.2], rtol=1e-4)
    assert np.allclose(moved(0.3), [-0.6, 0.6], rtol=1e-4)
