import dataclasses
import json
import re
from dataclasses import replace
from typing import get_args

import jax
import numpy as np
import pytest

import train
from deepzero_jax.applications.solver_in_the_loop import Advection, methods, wake
from deepzero_jax.applications.solver_in_the_loop.cases import read_frames
from deepzero_jax.applications.solver_in_the_loop.config import (
    Channel,
    Correction,
    Simulation,
    SolverConfig,
    Training,
)
from deepzero_jax.estimators import value_and_grad
from deepzero_jax.fields import check_fields
from deepzero_jax.training import RunFolderError
from tests.conftest import ROOT
from tests.marks import thorough
from tests.problems import relative_error
from tests.runs import correction_of

PROBLEM = wake.Wake(advection="maccormack")
REYNOLDS = np.array([100.0, 300.0, 1200.0])
SMALL_CHANNEL = {
    "num_along": 16,
    "num_across": 8,
    "refinement": 2,
    "warm_up": 5,
    "num_frames": 6,
    "train_reynolds": (100.0, 200.0),
    "validation_reynolds": (150.0,),
    "test_reynolds": (120.0, 180.0),
}


def after(problem, reynolds, steps, dtype=np.float32):
    solve, states = wake.numpy_solver(problem), wake.resting_start(problem, reynolds).astype(dtype)
    for _ in range(steps):
        states = solve(states)
    return states


@pytest.fixture(scope="module")
def states():
    return after(PROBLEM, REYNOLDS, 150)


def test_flow_has_no_divergence_and_does_not_enter_the_cylinder(states):
    assert np.all(np.isfinite(states))
    assert np.abs(wake.divergence(PROBLEM, states)).max() < 1e-5
    solid = PROBLEM.solid
    assert solid.sum() * PROBLEM.cell**2 == pytest.approx(np.pi * PROBLEM.radius**2, rel=0.1)
    assert not np.any(states[:, solid, :2])
    assert not np.any(states[:, :, -1, 1])
    # What comes in leaves.
    np.testing.assert_allclose(states[:, -1, :, 0].mean(-1), 1, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_divergence_falls_to_rounding_in_float64():
    states = after(PROBLEM, REYNOLDS[:1], 5, np.float64)
    assert np.abs(wake.divergence(PROBLEM, states)).max() < 1e-12


def test_sparse_and_dense_pressures_agree():
    fine = wake.Wake(num_along=128, num_across=64)
    dense = wake.Wake(num_along=64, num_across=32)
    assert np.abs(wake.divergence(fine, after(fine, REYNOLDS[:1], 3))).max() < 1e-5
    assert np.abs(wake.divergence(dense, after(dense, REYNOLDS[:1], 3))).max() < 1e-5


def test_uniform_flow_past_nothing_stays():
    empty = wake.Wake(radius=1.0)  # smaller than half a cell: no cell's centre lies in it
    assert not empty.solid.any()
    states = wake.resting_start(empty, REYNOLDS)
    states[..., 1] = 0
    np.testing.assert_allclose(wake.numpy_solver(empty)(states), states, atol=1e-6)


@pytest.mark.parametrize("advection", get_args(Advection))
def test_twin_makes_the_same_step(states, advection):
    problem = dataclasses.replace(PROBLEM, advection=advection)
    mine, theirs = (
        wake.numpy_solver(problem)(states),
        np.asarray(jax.jit(wake.twin(problem))(states)),
    )
    assert np.max(np.abs(mine - states)) > 0.01
    np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_the_cheaper_advection_loses_more_energy(states):
    energy = [
        np.sum(
            wake.numpy_solver(dataclasses.replace(PROBLEM, advection=advection))(states)[..., :2]
            ** 2
        )
        for advection in ("semi_lagrangian", "maccormack")
    ]
    assert energy[0] < energy[1] < 1.01 * np.sum(states[..., :2] ** 2)


def test_states_of_a_batch_do_not_mix(states):
    solve = wake.numpy_solver(PROBLEM, chunk=2)
    together, alone = solve(states), [solve(states[i : i + 1]) for i in range(3)]
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)


def test_a_coarsened_flow_has_no_divergence_either():
    fine = wake.Wake(num_along=128, num_across=64)
    coarse = wake.coarsened(after(fine, REYNOLDS, 20), 2)
    assert coarse.shape == (3, 64, 32, 3)
    found = wake.divergence(PROBLEM, coarse)
    # Coarse cells that the fine cylinder's edge cuts are solid in part.
    away = ~PROBLEM.solid & (np.abs(found).max(0) < 1)
    assert np.abs(found[:, away]).max() < 1e-5
    np.testing.assert_array_equal(coarse[:, 0, 0, 2], np.float32(REYNOLDS / 1000))


def strouhal(problem, reynolds, settle, steps):
    solve, states = wake.numpy_solver(problem), after(problem, np.array([reynolds]), settle)
    probe = []
    place = (round(80 / problem.cell), problem.num_across // 2)
    for _ in range(steps):
        states = solve(states)
        probe.append(float(states[0, place[0], place[1], 1]))
    signal = np.array(probe) - np.mean(probe)
    crossings = np.flatnonzero((signal[:-1] < 0) & (signal[1:] >= 0))
    period = problem.dt * np.diff(crossings).mean()
    return 2 * problem.radius / period, signal, states


@pytest.mark.slow
def test_shedding_has_the_strouhal_number_of_a_channel():
    problem = wake.Wake(num_along=256, num_across=128)
    number, signal, states = strouhal(problem, 150.0, 900, 500)
    assert 0.16 < number < 0.26
    assert np.abs(signal).max() > 0.2
    behind = wake.vorticity(problem, states)[0, problem.num_along // 2 :]
    assert behind.min() < -0.05 < 0.05 < behind.max()


@thorough
def test_a_shrunken_comparison_on_the_wake(tmp_path):
    small = {
        **{
            f"channel.{name}": ", ".join(map(str, value)) if isinstance(value, tuple) else value
            for name, value in SMALL_CHANNEL.items()
        },
        "correction.width": 2,
        "correction.kernel": 3,
        "training.num_steps": 2,
        "training.unroll": 2,
        "training.methods": "src, zo_sol",
    }
    command = ["--config", str(ROOT / "configs/sol_wake.py"), f"--workdir={tmp_path}"]
    command += [f"--config.{name}={value}" for name, value in small.items()]
    assert train.main(command) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["mae"]) == ["src", "zo_sol"]
    assert len(summary["mae_of_test_runs"]["src"]) == 2
    with np.load(tmp_path / "frames.npz") as kept:
        frames = kept["frames"]
    assert frames.shape == (5, 7, 16, 8, 3)
    assert (tmp_path / "vorticity.png").read_bytes()[:4] == b"\x89PNG"


def test_gradients_by_queries_agree_with_autodiff_through_the_twin(tmp_path):
    config = SolverConfig(
        case="wake",
        channel=Channel(**SMALL_CHANNEL),
        correction=Correction(width=2, depth=2, kernel=3),
        training=Training(unroll=3, batch_size=2),
    )
    correction = correction_of(config, tmp_path)
    smoothing = {"zo_sol": 1e-3, "zo_sol_boundary": 1e-5, "fo_sol": 1e-3}
    estimators = {name: methods.default_estimator(name, s, 64) for name, s in smoothing.items()}
    ways = {name: methods.make_method(name, correction, e) for name, e in estimators.items()}
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jax.numpy.float32(leaf + 0.1 * rng.normal(size=leaf.shape)),
        ways["zo_sol"].task.init(jax.random.key(0))[0],
    )
    grads, asked = {}, {}
    for name, (task, estimator) in ways.items():
        batch = task.batch(task.data, jax.random.key(3), jax.numpy.int32(0))
        vg = value_and_grad(task.loss, estimator, has_aux=True)
        before = correction.box.num_samples
        grads[name] = jax.jit(vg)(params, {}, *batch)[1]
        jax.block_until_ready(grads[name])
        asked[name] = correction.box.num_samples - before
    assert relative_error(grads["zo_sol"], grads["fo_sol"]) < 0.01
    # Numbers that describe the flow, as the Reynolds number does, are not moved; nor is what the
    # first correction has not reached.
    moving = 2 * np.prod(correction.frames.train.shape[2:4])
    assert ways["zo_sol_boundary"].estimator.num_queries(0) == 1 + moving
    assert asked["zo_sol_boundary"] == 2 * (3 + 2 * moving)
    assert relative_error(grads["zo_sol_boundary"], grads["fo_sol"]) < 1e-3


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"PK\x03\x04" + b"\x00" * 100,
        lambda content: bytes([*content[:-300], content[-300] ^ 1, *content[-299:]]),
    ],
    ids=["empty", "cut", "no archive", "a bit flipped"],
)
def test_damaged_fine_solutions_are_one_line_and_left(damage, tmp_path):
    path, shape = tmp_path / "frames.npz", (2, 3, 16, 8)
    np.savez(path, frames=np.random.default_rng(0).normal(size=(*shape, 3)).astype(np.float32))
    assert read_frames(path, shape).shape == (*shape, 3)
    with pytest.raises(RunFolderError, match=r"frames.npz cannot be read .* not \(3, 3, 16, 8\)"):
        read_frames(path, (3, *shape[1:]))
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(RunFolderError, match=r"frames.npz cannot be read .*remove it") as caught:
        read_frames(path, shape)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("name", ["ks", "wake"])
def test_a_window_longer_than_the_runs_is_refused_with_the_record(name):
    short = {"simulation": Simulation(num_train_frames=7), "channel": Channel(num_frames=7)}
    config = SolverConfig(case=name, **short)
    field = {"ks": "simulation.num_train_frames", "wake": "channel.num_frames"}[name]
    with pytest.raises(ValueError, match=f"unroll 8 needs a {field} of as much, got 7"):
        check_fields(config)
    check_fields(replace(config, training=Training(unroll=7)))


@pytest.mark.parametrize("radius", [1.0, 49.9, 60.0, 1e6])
def test_a_cylinder_that_is_none_or_closes_the_channel_is_refused_with_the_record(radius):
    config = SolverConfig(case="wake", channel=Channel(radius=radius))
    words = re.escape(f"channel.radius {radius:g}: the cylinder must cover")
    with pytest.raises(ValueError, match=words):
        check_fields(config)
    check_fields(replace(config, case="ks"))


def test_whether_a_cylinder_is_flowed_past_is_seen_in_its_cells():
    for radius in np.linspace(0.5, 60, 120):
        problem = wake.Wake(num_along=16, num_across=8, radius=radius)
        solid = problem.solid
        passes = not (solid[:, 0] | solid[:, -1]).any() and not solid[0].any()
        assert problem.is_flowed_past == (solid.any() and passes)
