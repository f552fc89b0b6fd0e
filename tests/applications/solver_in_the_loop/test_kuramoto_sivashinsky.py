import dataclasses

import jax
import numpy as np
import pytest

from deepzero_jax.applications.solver_in_the_loop import kuramoto_sivashinsky as ks

pytest.importorskip("exponax")

PROBLEM = ks.KuramotoSivashinsky()


@pytest.fixture(scope="module")
def states():
    return ks.fine_frames(jax.random.key(0), PROBLEM, 64, 0, refinement=2, warm_up=50.0)[:, 0]


def test_numpy_solver_and_twin_make_the_same_step(states):
    mine, theirs = ks.numpy_solver(PROBLEM)(states), np.asarray(ks.twin(PROBLEM)(states))
    assert np.max(np.abs(mine - states)) > 0.05
    assert np.max(np.abs(mine - theirs)) < 1e-5


@pytest.mark.usefixtures("x64")
def test_they_agree_to_rounding_in_float64(states):
    states = states.astype(np.float64)
    mine, theirs = ks.numpy_solver(PROBLEM)(states), np.asarray(ks.twin(PROBLEM)(states))
    np.testing.assert_allclose(mine, theirs, atol=1e-12)


def test_error_falls_with_the_square_of_the_time_step(states):
    def at_time_one(dt):
        solve, now = ks.numpy_solver(dataclasses.replace(PROBLEM, dt=dt)), states.astype(np.float64)
        for _ in range(round(1 / dt)):
            now = solve(now)
        return now

    exact = at_time_one(1 / 320)
    errors = [np.abs(at_time_one(dt) - exact).max() for dt in (1 / 20, 1 / 40)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.2)


def test_the_mean_is_conserved(states):
    solve, now = ks.numpy_solver(PROBLEM), states.astype(np.float64) + 0.3
    for _ in range(50):
        now = solve(now)
    np.testing.assert_allclose(now.mean(1), states.mean(1, dtype=np.float64) + 0.3, atol=1e-6)


def test_frames_are_one_coarse_step_apart():
    frames = ks.fine_frames(jax.random.key(1), PROBLEM, 3, 2, refinement=1, warm_up=10.0)
    assert frames.shape == (3, 3, 24, 1) and frames.dtype == np.float32
    assert np.abs(frames[:, 1] - frames[:, 0]).max() > 0.01
    for now, later in ((0, 1), (1, 2)):
        found = ks.numpy_solver(PROBLEM)(frames[:, now])
        np.testing.assert_allclose(found, frames[:, later], atol=1e-5)
