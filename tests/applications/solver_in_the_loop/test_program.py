import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train
from deepzero_jax.applications.solver_in_the_loop import (
    CorrectionNet,
    methods,
    rollout,
    train_corrections,
    windows,
)
from deepzero_jax.applications.solver_in_the_loop import kuramoto_sivashinsky as ks
from deepzero_jax.applications.solver_in_the_loop.config import (
    Correction,
    Simulation,
    SolverConfig,
    Training,
)
from deepzero_jax.estimators import value_and_grad
from deepzero_jax.training import StepFailedError
from tests.conftest import ROOT
from tests.marks import long
from tests.problems import flatten, relative_error
from tests.runs import correction_of

pytest.importorskip("exponax")

TINY = SolverConfig(
    simulation=Simulation(
        num_points=16,
        refinement=2,
        num_train_runs=2,
        num_train_frames=12,
        num_validation_runs=2,
        num_test_runs=3,
        num_test_frames=5,
    ),
    correction=Correction(width=3, depth=2, kernel=3),
    training=Training(num_seeds=1, num_steps=6, unroll=2, batch_size=4),
)


# Learning through it.


@pytest.fixture(scope="module")
def correction(tmp_path_factory):
    return correction_of(TINY, tmp_path_factory.mktemp("correction"))


def task_of(name, correction):
    return methods.make_method(name, correction, methods.default_estimator(name, 1e-3, 64)).task


@pytest.fixture(scope="module")
def problem(correction):
    tasks = {name: task_of(name, correction) for name in ("zo_sol", "fo_sol", "non")}
    params, _ = tasks["zo_sol"].init(jax.random.key(0))
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape), params)
    return tasks, jax.tree.map(jnp.float32, moved)


def gradient(tasks, name, params, estimator):
    task = tasks[name]
    batch = task.batch(task.data, jax.random.key(3), jnp.int32(0))
    vg = jax.jit(value_and_grad(task.loss, estimator, has_aux=True))
    (loss, _), grads = vg(params, {}, *batch)
    return float(loss), grads


def test_the_black_solver_cannot_be_differentiated(problem):
    tasks, params = problem
    with pytest.raises(ValueError, match=r"[Cc]allbacks do not support JVP"):
        gradient(tasks, "zo_sol", params, methods.default_estimator("fo_sol", 1e-3, 8))


@pytest.mark.parametrize("chunk", [1, 64])
def test_gradients_by_queries_agree_with_autodiff_through_the_twin(problem, chunk):
    tasks, params = problem
    by_queries, exact = (
        gradient(tasks, name, params, methods.default_estimator(name, 1e-3, chunk))
        for name in ("zo_sol", "fo_sol")
    )
    assert by_queries[0] == pytest.approx(exact[0], rel=1e-4)
    assert np.linalg.norm(flatten(exact[1])) > 0.1
    assert relative_error(by_queries[1], exact[1]) < 0.01


def test_at_the_boundary_as_many_calls_as_a_state_has_numbers(correction):
    of = {}
    for name, smoothing in (("zo_sol_boundary", 1e-6), ("fo_sol", 1e-3)):
        estimator = methods.default_estimator(name, smoothing, 64)
        method = methods.make_method(name, correction, estimator)
        params, _ = method.task.init(jax.random.key(0))
        params = jax.tree.map(lambda leaf: leaf + 0.05, params)
        batch = method.task.batch(method.task.data, jax.random.key(3), jnp.int32(0))
        vg = jax.jit(value_and_grad(method.task.loss, method.estimator, has_aux=True))
        asked = correction.box.num_samples
        of[name] = flatten(vg(params, {}, *batch)[1])
        asked = correction.box.num_samples - asked
        # Four windows of two steps; before the first step stands data, which has no derivative.
        assert asked == (4 * 2 + 4 * 16 if name == "zo_sol_boundary" else 0)
        assert method.estimator.num_queries(0) == (17 if name == "zo_sol_boundary" else 1)
    assert np.linalg.norm(of["fo_sol"]) > 0.1
    assert relative_error(of["zo_sol_boundary"], of["fo_sol"]) < 1e-4


def test_an_untrained_correction_leaves_the_solver_as_it_is(correction):
    params, _ = task_of("zo_sol", correction).init(jax.random.key(0))
    first = correction.frames.test[:, 0]
    alone, both = (rollout(methods.corrected(correction, p), first, 4) for p in (None, params))
    np.testing.assert_array_equal(alone, both)


@pytest.mark.parametrize("grid", [(12,), (10, 7)])
def test_a_periodic_correction_moves_with_the_grid(grid):
    network = CorrectionNet(num_outputs=2, width=3, depth=3, kernel=5)
    states = jax.random.normal(jax.random.key(0), (4, *grid, 1))
    params = network.init(jax.random.key(1), states)
    assert not np.any(network.apply(params, states))  # the last layer starts at zero
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    moved = network.apply(params, jnp.roll(states, 3, axis=1))
    expected = network.apply(params, states)
    assert expected.shape == (4, *grid, 2)
    np.testing.assert_allclose(moved, jnp.roll(expected, 3, axis=1), atol=1e-5)


def test_loss_of_the_solver_alone_is_about_one(correction):
    task = task_of("fo_sol", correction)
    params, _ = task.init(jax.random.key(0))
    batch = task.batch(task.data, jax.random.key(3), jnp.int32(0))
    assert 0.2 < float(task.loss(params, {}, *batch)[0]) < 5


def test_pairs_of_non_are_the_solvers_answer_and_the_next_frame(correction):
    task = task_of("non", correction)
    (pairs,) = task.batch(task.data, jax.random.key(3), jnp.int32(0))
    frames = correction.frames.train
    answers = np.asarray(jax.jit(correction.solver)(frames[:, :-1].reshape(-1, 16, 1)))
    later = frames[:, 1:].reshape(-1, 16, 1)
    for answer, frame in pairs:
        (place,) = np.flatnonzero((answers == np.asarray(answer)).all((1, 2)))
        np.testing.assert_array_equal(frame, later[place])


def test_windows_cover_every_run_and_stay_inside():
    runs, firsts = windows(np.zeros((3, 7, 2, 1)), 5)
    assert sorted(zip(runs.tolist(), firsts.tolist(), strict=True)) == [
        (run, first) for run in range(3) for first in range(3)
    ]


def test_what_is_too_short_is_named(tmp_path):
    short = dataclasses.replace(
        TINY, training=dataclasses.replace(TINY.training, unroll=20, batch_size=4)
    )
    with pytest.raises(ValueError, match=r"training\.unroll 20 needs runs of at least 21 frames"):
        correction_of(short, tmp_path)
    large = dataclasses.replace(TINY, training=dataclasses.replace(TINY.training, batch_size=99))
    with pytest.raises(ValueError, match=r"fewer than training\.batch_size 99"):
        task_of("zo_sol", correction_of(large, tmp_path))


# The whole.


def run(workdir, config, host=None):
    return train_corrections(config, workdir, log=lambda line: None, host=host)


def losses_of(workdir, stage="zo_sol_0"):
    lines = (workdir / stage / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


@long
def test_a_shrunken_comparison_leaves_its_summary_and_pictures(tmp_path, capsys):
    command = ["--config", str(ROOT / "configs/sol_ks.py"), f"--workdir={tmp_path}"]
    for section in ("simulation", "correction", "training"):
        default, own = getattr(SolverConfig(), section), getattr(TINY, section)
        changed = vars(own).items() - vars(default).items()
        command += [f"--config.{section}.{name}={value}" for name, value in changed]
    assert train.main(command) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["mae"]) == ["src", "non", "zo_sol", "zo_sol_boundary", "fo_sol"]
    assert all(0 < value < 1 for value in summary["mae"].values())
    assert {len(values) for values in summary["mae_of_seeds"].values()} == {1}
    assert len(summary["mae_of_test_runs"]["src"]) == 3
    assert summary["num_queries"]["zo_sol"] == 6 * (1 + summary["num_parameters"])
    # The methods of a seed start alike and see the same windows: their paths stay together.
    np.testing.assert_allclose(losses_of(tmp_path), losses_of(tmp_path, "fo_sol_0"), rtol=1e-2)
    at_boundary = losses_of(tmp_path, "zo_sol_boundary_0")
    np.testing.assert_allclose(at_boundary, losses_of(tmp_path, "fo_sol_0"), rtol=1e-4)
    for picture in ("error_against_time.png", "states.png"):
        assert (tmp_path / picture).read_bytes()[:4] == b"\x89PNG"
    capsys.readouterr()
    assert train.main(command) == 0
    assert "already finished" in capsys.readouterr().out


def test_what_seeds_share_is_asked_once(tmp_path):
    training = dataclasses.replace(TINY.training, methods=("non",), num_seeds=2, num_steps=1)
    summary = run(tmp_path, dataclasses.replace(TINY, training=training))
    # Two runs of 13 frames: six rollouts of two steps each, and twelve answers for the pairs.
    assert summary["box_samples"]["preparation"] == 2 * (6 * 2 + 12)


QUERIED = dataclasses.replace(
    TINY, training=dataclasses.replace(TINY.training, methods=("zo_sol",))
)


@pytest.fixture(scope="module")
def asked():
    return []


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, asked):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    sound = ks.numpy_solver(ks.KuramotoSivashinsky(num_points=16))
    host = lambda states: (asked.append(len(states)), sound(states))[1]
    return run(workdir, QUERIED, host), losses_of(workdir)


def test_what_the_solver_was_asked_is_told_apart(uninterrupted, asked):
    summary = uninterrupted[0]
    told = summary["box_samples"]
    assert sum(flatten(told)) == sum(asked)
    # Of twelve frames after the first: six rollouts of two steps in each of two runs. Then the
    # five frames of three test runs, and of the first of them again.
    assert told["preparation"] == 2 * 6 * 2
    assert told["test"] == 3 * 5 + 5
    # Windows of a batch, steps of the rollout; the first of them does not move with any number.
    assert told["zo_sol_0"]["training"] <= 4 * 2 * summary["num_queries"]["zo_sol"]
    assert told["zo_sol_0"]["evaluation"] == 6 * 2 * 5
    assert summary["num_samples"] == {"zo_sol": told["zo_sol_0"]["training"]}


def test_a_probed_smoothing_is_kept_and_asked_for_once(tmp_path):
    auto = dataclasses.replace(QUERIED.training, smoothing="auto", num_steps=2)
    config = dataclasses.replace(QUERIED, training=auto)
    sound, sizes, lines = ks.numpy_solver(ks.KuramotoSivashinsky(num_points=16)), [], []

    def host(states):
        sizes.append(len(states))
        if len(states) > 20 and not (tmp_path / "broken").exists():
            (tmp_path / "broken").touch()
            raise RuntimeError("gone")
        return sound(states)

    with pytest.raises(StepFailedError, match="step 1 failed"):
        train_corrections(config, tmp_path, lines.append, host)
    assert any("probing the smoothing, at most 60 queries, 480 samples" in line for line in lines)
    assert any("smoothing     " in line and "probed: noise" in line for line in lines)
    lines.clear()
    summary = train_corrections(config, tmp_path, lines.append, host)
    assert not any("probing" in line for line in lines)
    told = summary["box_samples"]
    assert 0 < told["zo_sol_0"]["probing"] <= 480
    assert sum(flatten(told)) == sum(sizes)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda states: 1 / 0, "division by zero"),
        pytest.param(
            lambda states: np.where(states > 1, np.nan, states),
            "are not finite",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda states: states[:, 1:],
            r"answers must have shape \(\d+, 16, 1\)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_failing_solver_stops_the_run_which_goes_on_to_the_same_bits(
    fault, words, uninterrupted, tmp_path
):
    sound = ks.numpy_solver(ks.KuramotoSivashinsky(num_points=16))
    sizes = []

    def host(states):
        sizes.append(len(states))
        # The two validation runs are rolled out after the first step; large calls are a step's.
        return fault(states) if 2 in sizes and len(states) > 20 else sound(states)

    with pytest.raises(StepFailedError, match=rf"step \d+ failed: .*{words}"):
        run(tmp_path, QUERIED, host)
    assert not (tmp_path / "summary.json").exists()
    assert run(tmp_path, QUERIED)["mae_of_seeds"] == uninterrupted[0]["mae_of_seeds"]
    assert losses_of(tmp_path) == uninterrupted[1]
    assert len(uninterrupted[1]) == 6
