"""Lengths of a run, and what a task gives the loop."""

import jax.numpy as jnp
import numpy as np
import pytest

from deepzero_jax.training import plan
from tests.training.test_own_parts import loss, prepared, run


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("num_steps", 2.5, "must be an integer of at least 1, got 2.5"),
        ("num_steps", 3.0, "must be an integer of at least 1, got 3.0"),
        ("num_steps", True, "must be an integer of at least 1, got True"),
        ("evaluation_interval", 1.5, "must be an integer of at least 1, got 1.5"),
        ("initial_queries", 0.5, "must be an integer of at least 0, got 0.5"),
        ("initial_queries", -5, "must be an integer of at least 0, got -5"),
    ],
)
def test_a_length_that_is_no_whole_number_is_refused_by_the_plan_too(name, value, words, tmp_path):
    with pytest.raises(ValueError, match=f"^{name} {words}"):
        run(tmp_path, lengths={name: value})
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=f"^{name} {words}"):
        plan(*prepared(), **{"num_steps": 2, name: value})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"checkpoint_seconds": float("nan")}, "checkpoint_seconds must be .*, got nan"),
        ({"checkpoint_seconds": -1}, "checkpoint_seconds must be .* of at least 0, got -1"),
        ({"initial_samples": {"pruning": 2.5}}, r"initial_samples\['pruning'\] must be an integer"),
        ({"initial_samples": {"prunning": 2}}, "initial_samples: unknown purpose 'prunning'"),
    ],
)
def test_other_numbers_of_a_run_are_checked(given, words, tmp_path):
    with pytest.raises(ValueError, match=f"^{words}"):
        run(tmp_path, lengths=given)
    assert not list(tmp_path.iterdir())


def test_an_epoch_of_a_broken_number_of_steps_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^Task.steps_per_epoch must be an integer .* got 2.625"):
        run(tmp_path, steps_per_epoch=21 / 8)


def test_numpys_integers_and_a_folder_in_words_are_taken(tmp_path):
    lengths = {
        "num_steps": np.int32(4),
        "evaluation_interval": np.uint8(3),
        "initial_queries": np.int64(7),
        "initial_samples": {"pruning": np.int64(5)},
        "checkpoint_seconds": np.float32(0),
    }
    evaluated = []
    evaluate = lambda params, state, data: evaluated.append(1) or {"test_loss": 1.0}
    found = run(str(tmp_path), lengths=lengths, evaluate=evaluate, steps_per_epoch=np.int64(8))
    assert (found["num_queries"], len(evaluated)) == (7 + 4 * 7, 2)
    assert found["box_samples"]["pruning"] == 5


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (
            {"batch": lambda data, key, step: data[:8]},
            r"Task.batch must give a tuple .* \(batch,\)",
        ),
        ({"batch": lambda data, key, step: {"x": data[:8]}}, "Task.batch must give .* got dict"),
        ({"loss": lambda *args: (loss(*args)[0], ({}, None))}, r"metrics .* got NoneType: .* \{\}"),
        ({"loss": lambda *args: (loss(*args)[0], {})}, r"\(model_state, metrics\), got dict"),
        (
            {"loss": lambda *args: (loss(*args)[0], ({"n": jnp.zeros(2)}, {}))},
            r"model_state as it was: .* 'n'",
        ),
    ],
)
def test_what_a_task_gives_is_checked_by_name(parts, words, tmp_path):
    with pytest.raises((TypeError, ValueError), match=words):
        run(tmp_path, **parts)


def test_a_model_state_that_changes_its_type_is_named(tmp_path):
    counting = lambda params, state, x: (loss(params, {}, x)[0], ({"n": state["n"] + 1.5}, {}))
    with pytest.raises(ValueError, match=r"'n' was int32\[\] and is float32\[\]"):
        run(tmp_path, loss=counting, model_state={"n": jnp.int32(0)})
