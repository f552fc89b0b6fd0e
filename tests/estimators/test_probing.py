import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz

LADDER = np.logspace(-7, 0, 20)


def losses():
    """``{name: (loss in float64, exact gradient, params)}``."""
    rng = np.random.default_rng(0)
    scales = np.exp(rng.normal(size=40))
    start = rng.normal(size=40)
    found = {
        "quadratic": (
            lambda w: float(1 + scales @ (w - 0.3) ** 2),
            lambda w: 2 * scales * (w - 0.3),
            start,
        )
    }
    x, y = rng.normal(size=(32, 5)), rng.integers(0, 3, 32)
    first = rng.normal(size=(5, 8)) / 2

    def network(w):
        hidden = np.tanh(x @ (first + w[:40].reshape(5, 8)))
        logits = hidden @ w[40:].reshape(8, 3)
        top = logits.max(1, keepdims=True)
        return float(
            np.mean(np.log(np.exp(logits - top).sum(1)) + top[:, 0] - logits[np.arange(32), y])
        )

    def slopes(w):
        eye = np.eye(len(w)) * 1e-5
        return np.array([(network(w + e) - network(w - e)) / 2e-5 for e in eye])

    found["network"] = (network, slopes, rng.normal(size=64) / 2)
    return found


def forward_error(fun, params, exact, smoothing):
    base = fun(params)
    slopes = [(fun(params + e) - base) / smoothing for e in np.eye(len(params)) * smoothing]
    return np.linalg.norm(np.asarray(slopes) - exact)


def errors(chosen, error_of, seeds_of, smoothing_of):
    """At the probed smoothing and the best of the ladder, over losses, noises and seeds."""
    for fun, gradient, params in chosen.values():
        exact = gradient(params)
        for level in ("float32", 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7):
            for seed in range(seeds_of(level)):
                rng = np.random.default_rng(seed)
                noisy = (
                    (lambda w, fun=fun: float(np.float32(fun(w))))
                    if level == "float32"
                    else (lambda w, fun=fun, rng=rng, s=level: fun(w) + s * rng.normal())
                )
                probe = dz.probe_smoothing(noisy, params, jax.random.key(seed))
                assert probe.num_queries <= 60
                best = min(error_of(noisy, params, exact, step) for step in LADDER)
                yield error_of(noisy, params, exact, smoothing_of(probe)), best


def test_the_probed_smoothing_is_nearly_the_best_of_a_ladder():
    seeds_of = lambda level: 8 if level == "float32" else 7
    found = list(errors(losses(), forward_error, seeds_of, lambda probe: probe.smoothing))
    good = sum(error <= 3 * best for error, best in found)
    assert len(found) == 100
    assert good >= 90, good


def central_losses():
    """Those of ``losses``, and two with third derivatives of their own."""
    rng = np.random.default_rng(5)
    scales, start = np.exp(rng.normal(size=30)), rng.normal(size=30)
    quartic = lambda w: float(scales @ (w**2 / 2 + w**3 / 3 + w**4 / 4))
    return losses() | {
        "quartic": (quartic, lambda w: scales * (w + w**2 + w**3), start),
        "cubic": (lambda w: float(2 + scales @ w**3), lambda w: 3 * scales * w**2, start),
    }


def central_error(fun, params, exact, smoothing):
    steps = np.eye(len(params)) * smoothing
    slopes = [(fun(params + e) - fun(params - e)) / (2 * smoothing) for e in steps]
    return np.linalg.norm(np.asarray(slopes) - exact)


def test_the_probed_central_smoothing_is_nearly_the_best_of_a_ladder():
    central_of = lambda probe: probe.central_smoothing
    found = list(errors(central_losses(), central_error, lambda level: 2, central_of))
    good = sum(error <= 3 * best for error, best in found)
    assert good >= 0.9 * len(found), (good, len(found))


@pytest.mark.parametrize("level", [1e-2, 1e-4, 1e-6])
def test_the_noise_is_measured(level):
    fun, _, params = losses()["network"]
    ratios = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        probe = dz.probe_smoothing(
            lambda w, rng=rng: fun(w) + level * rng.normal(), params, jax.random.key(seed)
        )
        assert not probe.deterministic
        ratios.append(probe.noise / level)
    assert 0.5 < np.median(ratios) < 2


def test_a_table_is_printed():
    probe = dz.probe_smoothing(lambda w: jnp.sum(w**2), jnp.ones(10), jax.random.key(0))
    lines = str(probe).splitlines()
    assert "the same answer each time" in lines[0]
    assert [line.split()[0] for line in lines] == ["noise", "difference", "forward", "central"]
    assert probe.deterministic
    assert probe.flat_below is None


def test_flat_boxes_are_named_and_answered_with_steps_that_move_them():
    quantised = lambda w: float(np.round(np.sum(w**2) * 20) / 20)
    params = np.ones(10)
    probe = dz.probe_smoothing(quantised, params, jax.random.key(0))
    assert probe.flat_below is not None
    assert "piecewise constant" in str(probe)
    assert quantised(params + probe.smoothing * np.eye(10)[0]) != quantised(params)


def test_what_cannot_be_probed_is_refused():
    with pytest.raises(ValueError, match="finite at params, got nan"):
        dz.probe_smoothing(lambda w: np.nan, jnp.ones(2), jax.random.key(0))
    with pytest.raises(TypeError, match="floating-point"):
        dz.probe_smoothing(lambda w: 0.0, jnp.ones(2, int), jax.random.key(0))


@pytest.mark.parametrize("step", [0.3, 0.7, 3.0])
def test_flat_losses_are_probed_within_the_budget_and_no_further_than_1(step):
    quantised = lambda w: float(np.floor(np.sum(w) / step)) * step
    for seed in range(8):
        probe = dz.probe_smoothing(quantised, np.ones(5) * 0.31, jax.random.key(seed))
        assert probe.num_queries <= 60
        assert probe.smoothing <= 1
        assert probe.central_smoothing <= 1


@pytest.mark.parametrize("loss", [lambda w: 1.0, lambda w: float(np.mean(np.sign(w) > 0))])
def test_a_loss_that_answers_nothing_is_refused(loss):
    with pytest.raises(ValueError, match="answers no step up to 1 of all parameters"):
        dz.probe_smoothing(loss, 5 * np.ones(3), jax.random.key(0))
