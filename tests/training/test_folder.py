"""Whose a run folder is, and what is left alone in it."""

import json
from contextlib import suppress

import pytest

from deepzero_jax.files import written_whole
from deepzero_jax.training import FORMAT, RunFolder, RunFolderError, differences, write_json


def test_folder_of_another_config_is_refused_naming_the_fields(tmp_path):
    with RunFolder(tmp_path, {"a": {"b": 1, "c": 2}}) as folder:
        folder.claim()
    with pytest.raises(RunFolderError, match=r"a\.c is 2 there, 3 here"):
        RunFolder(tmp_path, {"a": {"b": 1, "c": 3}})
    content = json.loads((tmp_path / "config.json").read_text())
    assert content == {"format": FORMAT, "a": {"b": 1, "c": 2}}
    assert differences({"x": 1}, {"y": 2}) == ["x is 1 there, null here", "y is null there, 2 here"]


def test_a_folder_of_an_earlier_format_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "config.json").write_text('{"a": {"b": 1}}')
    with pytest.raises(RunFolderError, match=r"format 1, this one has \d+"):
        RunFolder(tmp_path, {"a": {"b": 1}})
    assert (tmp_path / "config.json").read_text() == '{"a": {"b": 1}}'


def test_one_process_at_a_time(tmp_path):
    second = RunFolder(tmp_path, {})
    with RunFolder(tmp_path, {}), pytest.raises(RunFolderError, match="another process"):
        second.__enter__()
    with RunFolder(tmp_path, {}):
        pass


def test_a_folder_that_another_run_took_in_the_meantime_is_refused(tmp_path):
    # The second has read its data, say, while the first began.
    first, second = RunFolder(tmp_path, {"seed": 0}), RunFolder(tmp_path, {"seed": 1})
    with first:
        first.claim()
    with pytest.raises(RunFolderError, match="seed is 0 there, 1 here"):
        second.__enter__()
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0
    with RunFolder(tmp_path, {"seed": 0}):  # the lock was given back
        pass


def test_a_run_that_another_process_finished_in_the_meantime_is_not_done_again(tmp_path):
    first, second = RunFolder(tmp_path, {}), RunFolder(tmp_path, {})
    with first:
        first.claim()
        write_json(tmp_path / "summary.json", {"num_steps": 3})
    with pytest.raises(RunFolderError, match="another process has finished"):
        second.__enter__()
    with RunFolder(tmp_path, {}) as third:
        assert third.summary == {"num_steps": 3}


@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl", "checkpoints"])
def test_results_of_nobody_knows_which_run_are_refused_and_left(name, tmp_path):
    if name == "checkpoints":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text('{"step": 10, "my_loss": 1.0}\n')
    with pytest.raises(RunFolderError, match=f"holds {name} and no config.json"):
        RunFolder(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_only_what_a_kill_left_of_ones_own_files_is_removed(tmp_path):
    others = [tmp_path / "project/.notes.tmp", tmp_path / "run/.summary.json.unfinished"]
    for path in others:
        path.parent.mkdir()
        path.write_text("precious")
    write_json(tmp_path / "run/config.json", {})
    (tmp_path / ".x.tmp").mkdir()
    (tmp_path / ".y.unfinished").mkdir()
    stage = tmp_path / "stage"
    stage.mkdir()
    for place in (tmp_path, stage):
        with suppress(KeyboardInterrupt), written_whole(place / "a.json") as path:
            path.write_text("half")
            raise KeyboardInterrupt
    with RunFolder(tmp_path, {}) as folder:
        assert (tmp_path / ".a.json.unfinished").exists()  # of nobody knows which run
        folder.claim()
    with RunFolder(tmp_path, {}):
        pass
    assert not (tmp_path / ".a.json.unfinished").exists()
    assert not (stage / ".a.json.unfinished").exists()
    assert (tmp_path / ".x.tmp").is_dir() and (tmp_path / ".y.unfinished").is_dir()
    assert [path.read_text() for path in others] == ["precious"] * 2


def test_a_folder_older_than_a_field_has_its_default(tmp_path):
    old, new = {"a": {"b": 1}}, {"a": {"b": 1, "c": [2]}, "d": {"e": None}}
    defaults = {"a": {"b": 0, "c": (2,)}, "d": {"e": None}}
    with RunFolder(tmp_path, old) as folder:
        folder.claim()
    with pytest.raises(RunFolderError, match=r"a\.c is null there, \[2\] here"):
        RunFolder(tmp_path, new)  # nothing is known of it
    with pytest.raises(RunFolderError, match=r"a\.c is \[2\] there, \[3\] here"):
        RunFolder(tmp_path, {**new, "a": {"b": 1, "c": [3]}}, defaults)
    with RunFolder(tmp_path, new, defaults) as folder:
        folder.claim()
    RunFolder(tmp_path, new)
    # What the folder says is not the default's to say.
    with pytest.raises(RunFolderError, match=r"a\.b is 1 there, 0 here"):
        RunFolder(tmp_path, {**new, "a": {"b": 0, "c": [2]}}, defaults)
