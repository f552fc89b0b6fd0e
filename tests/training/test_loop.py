import errno
import json
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tensorboardX.proto.event_pb2 import Event

import deepzero_jax as dz
from deepzero_jax.sampling import dense_sampler, layer_ratio_sampler
from deepzero_jax.training import (
    Checkpointer,
    InterruptedRunError,
    MetricsLog,
    NonFiniteError,
    RunFolderError,
    format_seconds,
    read_metrics,
    tree_digest,
)
from deepzero_jax.training.checkpoint import load_newest
from tests.marks import few, long
from tests.runs import send_sigterm_after, tiny_run


def test_a_run_leaves_its_records(tmp_path):
    lines = []
    summary = tiny_run(tmp_path / "run", lines=lines)
    folder = tmp_path / "run"
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert summary["num_steps"] == 8
    # 9 of 18 kernel weights, 2 biases, 4 of batch norm, 6 + 3 of the classifier; and the base.
    assert summary["num_queries"] == 8 * (9 + 2 + 4 + 9 + 1)
    assert summary["wall_seconds"] > 0
    assert 0 <= summary["test_accuracy"] <= 1
    assert (folder / "learning_curve.png").stat().st_size > 5_000
    assert list((folder / "tensorboard").glob("events*"))
    records = read_metrics(folder / "metrics.jsonl")
    assert [r["step"] for r in records if "loss" in r] == list(range(1, 9))
    assert [r["step"] for r in records if "test_accuracy" in r] == [4, 8]
    assert any("coordinates" in line and "ETA" in line for line in lines)


def test_seconds_of_a_step_are_those_of_its_median(tmp_path):
    summary = tiny_run(tmp_path, num_steps=5)
    seconds = [r["seconds"] for r in read_metrics(tmp_path / "metrics.jsonl") if "loss" in r]
    assert summary["seconds_per_step"] == pytest.approx(sorted(seconds)[2], abs=1e-6)


@pytest.mark.parametrize("name", ["num_steps", "evaluation_interval"])
def test_a_run_of_no_steps_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"^{name} must be an integer of at least 1, got 0"):
        tiny_run(tmp_path, **{name: 0})


def test_a_run_that_has_done_more_steps_is_refused(tmp_path):
    tiny_run(tmp_path, num_steps=3)
    with pytest.raises(RunFolderError, match="holds 3 steps, and num_steps is 2: give at least 3"):
        tiny_run(tmp_path, num_steps=2)
    assert tiny_run(tmp_path, num_steps=3)["num_steps"] == 3


def test_plan_only_leaves_nothing(tmp_path):
    planned = tiny_run(tmp_path / "run", plan_only=True)
    assert not (tmp_path / "run").exists()
    assert "queries       25 a step × 8 steps = 200" in planned


@pytest.mark.parametrize(
    "estimator",
    few([dz.cge(smoothing=1e-3, reuse="split"), dz.rge(smoothing=1e-3, num_directions=5)]),
    ids=["cge", "rge"],
)
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, estimator):
    whole = tiny_run(tmp_path / "whole", estimator)
    stopped = []
    metrics = tmp_path / "parts/metrics.jsonl"
    for lines in (1, 4):
        killer = threading.Thread(target=send_sigterm_after, args=(metrics, lines))
        killer.start()
        try:
            tiny_run(tmp_path / "parts", estimator)
        except InterruptedRunError as error:
            stopped.append((error.signum, str(error)))
        killer.join()
    assert [signum for signum, _ in stopped] == [signal.SIGTERM] * 2
    assert "same command goes on" in stopped[0][1]
    parts = tiny_run(tmp_path / "parts", estimator)
    assert parts["parameters_sha256"] == whole["parameters_sha256"]
    assert parts["num_queries"] == whole["num_queries"]
    assert parts["best_test_accuracy"] == whole["best_test_accuracy"]
    steps = [r["step"] for r in read_metrics(tmp_path / "parts/metrics.jsonl") if "loss" in r]
    assert steps == list(range(1, 9))


@pytest.mark.parametrize("do", few(["save", "wait", "close"]))
def test_what_orbax_cannot_write_is_an_error_of_the_system(tmp_path, monkeypatch, do):
    checkpoints = Checkpointer(tmp_path / "checkpoints", print)
    name = "save" if do == "save" else "wait_until_finished"

    def fail(*arguments, **options):
        raise ValueError("NOT_FOUND: no such directory [tensorstore_spec='{...}']\nand so on")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints._manager, name, fail)
        call = {
            "save": lambda: checkpoints.save(1, {"a": np.ones(2)}, {}),
            "wait": checkpoints.wait,
            "close": checkpoints.close,
        }[do]
        with pytest.raises(OSError, match=r"written to .*checkpoints \(NOT_FOUND: .* directory\)$"):
            call()
    checkpoints.close()


def truncate(path):
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("how", few(["largest", "all", "digest"]))
def test_a_damaged_newest_checkpoint_falls_back_and_says_so(tmp_path, how):
    whole = tiny_run(tmp_path / "whole")
    tiny_run(tmp_path / "run", num_steps=8)
    folder = tmp_path / "run"
    (folder / "summary.json").unlink()
    newest = folder / "checkpoints" / "8"
    files = sorted((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    if how == "largest":
        truncate(files[-1])
    elif how == "all":
        for path in files:
            truncate(path)
    else:
        progress = next(newest.rglob("progress/metadata"))
        content = json.loads(progress.read_text())
        content["digest"] = "0" * 64
        progress.write_text(json.dumps(content))
    lines = []
    summary = tiny_run(folder, lines=lines)
    assert any("checkpoint 8 is damaged" in line for line in lines), lines
    assert any("going on from step 7" in line for line in lines), lines
    assert (folder / "checkpoints_damaged").is_dir()
    assert summary["parameters_sha256"] == whole["parameters_sha256"]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path):
    with pytest.raises(NonFiniteError, match="not finite") as caught:
        tiny_run(tmp_path / "run", num_steps=60, learning_rate=1e30)
    assert "step" in str(caught.value)
    saved = [int(p.name) for p in (tmp_path / "run/checkpoints").iterdir() if p.name.isdigit()]
    restored = Checkpointer(tmp_path / "run/checkpoints", print)
    assert f"state after step {max(saved)}" in str(caught.value)
    restored.close()
    assert not (tmp_path / "run/summary.json").exists()


def test_a_parameter_that_its_step_does_not_move_asks_for_a_longer_one(tmp_path):
    far = lambda state: state._replace(params=jax.tree.map(lambda leaf: leaf + 1e6, state.params))
    with pytest.raises(NonFiniteError, match="or raise it where parameters are too large to move"):
        tiny_run(tmp_path / "run", dz.cge(smoothing=1e-3, reuse="none"), begin=far)


def test_masks_are_kept_for_the_interval_and_then_redrawn():
    params = {"w": jnp.zeros((10, 10)), "b": jnp.zeros(3)}
    sampler = layer_ratio_sampler(params, {"w": 0.9}, interval=3)
    state = sampler.init(jax.random.key(0))
    draw = jax.jit(lambda step: sampler.sample(state, step).coordinates)
    drawn = [np.asarray(draw(jnp.int32(step))["w"]).tolist() for step in range(7)]
    assert drawn[0] == drawn[1] == drawn[2]
    assert drawn[3] == drawn[4] == drawn[5]
    assert drawn[0] != drawn[3] != drawn[6]
    assert draw(jnp.int32(5))["b"].tolist() == [0, 1, 2]
    assert dense_sampler(params).sample((), jnp.int32(0)).coordinates["w"].shape == (100,)


def test_checkpoints_keep_every_dtype_and_bit(tmp_path):
    state = {
        "f": jnp.array([1.0, -0.0, 3e-42], jnp.float32),
        "h": jnp.array([1.5], jnp.bfloat16),
        "i": jnp.int32(7),
        "k": jax.random.key_data(jax.random.key(3)),
        "typed": jax.random.split(jax.random.key(4), 3),
        "other": jax.random.key(5, impl="rbg"),
        "empty": jnp.zeros((0, 3)),
        "no_key": jax.random.split(jax.random.key(4), 0),
    }
    checkpointer = Checkpointer(tmp_path / "c", print)
    checkpointer.save(1, state, {"num_queries": 2**40})
    checkpointer.wait()
    restored = checkpointer.restore(state)
    checkpointer.close()
    assert restored is not None
    assert tree_digest(restored[0]) == tree_digest(state)
    assert restored[1] == {"num_queries": 2**40}
    assert load_newest(tmp_path / "c")["empty"].shape == (0, 3)
    assert jax.tree.map(jnp.result_type, restored[0]) == jax.tree.map(jnp.result_type, state)


@long
def test_a_folder_of_another_state_is_refused_and_left_as_it_is(tmp_path):
    tiny_run(tmp_path, num_steps=2, optimizer=optax.adam(0.1))
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with pytest.raises(RunFolderError, match=r"another state \(opt_state/.* and .*give another"):
        tiny_run(tmp_path, num_steps=4)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    assert tiny_run(tmp_path, num_steps=2, optimizer=optax.adam(0.1))["num_steps"] == 2


@long
def test_an_optimiser_with_a_key_of_its_own_goes_on_to_the_same_bits(tmp_path):
    optimizer = optax.noisy_sgd(0.1, key=jax.random.key(7))
    whole = tiny_run(tmp_path / "whole", num_steps=4, optimizer=optimizer)
    tiny_run(tmp_path / "parts", num_steps=2, optimizer=optimizer)
    parts = tiny_run(tmp_path / "parts", num_steps=4, optimizer=optimizer)
    assert parts["parameters_sha256"] == whole["parameters_sha256"]


def test_metrics_cut_off_what_is_done_again(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in range(1, 6):
        log.write(step, {"loss": float(step)})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    log = MetricsLog(tmp_path, 3)
    log.write(4, {"loss": 40.0})
    log.close()
    assert [r["loss"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1.0, 2.0, 3.0, 40.0]


def test_metrics_raise_where_the_disk_is_full_and_leave_no_thread(tmp_path, monkeypatch):
    def write(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = set(threading.enumerate())
    log = MetricsLog(tmp_path, 0)
    log.write(1, {"loss": 1.0})
    with monkeypatch.context() as full:
        full.setattr("tensorboardX.record_writer.RecordWriter.write", write)
        with pytest.raises(OSError, match="No space left"):
            log.write(2, {"loss": 1.0})
    assert set(threading.enumerate()) == before
    log.close()


def test_events_are_what_was_written(tmp_path):
    log = MetricsLog(tmp_path, 3)
    log.write(4, {"loss": 2.5, "accuracy": 0.5})
    log.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    events, data = [], path.read_bytes()
    while data:
        length = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    assert [(event.step, event.session_log.status) for event in events[1:]] == [(4, 1), (4, 0)]
    found = {value.tag: value.simple_value for value in events[2].summary.value}
    assert found == {"loss": 2.5, "accuracy": 0.5}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0321, "32.1 ms"),
        (41.0, "41 s"),
        (112, "1 min 52 s"),
        (6_000, "1 h 40 min"),
        (400_000, "4.6 days"),
    ],
)
def test_seconds_in_words(seconds, words):
    assert format_seconds(seconds) == words


def test_what_a_run_begins_with_is_done_where_there_is_no_checkpoint(tmp_path):
    begun = []

    def begin(state):
        begun.append(int(state.step))
        return state._replace(params=jax.tree.map(jnp.zeros_like, state.params))

    first = tiny_run(tmp_path / "run", num_steps=2, begin=begin)
    assert begun == [0]
    again = tiny_run(tmp_path / "run", num_steps=4, begin=begin)
    assert begun == [0] and again["num_steps"] == 4
    other = tiny_run(tmp_path / "other", num_steps=2)
    assert first["parameters_sha256"] != other["parameters_sha256"]
