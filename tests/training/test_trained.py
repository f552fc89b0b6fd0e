import pytest

from deepzero_jax.training import RunFolderError, load_trained, tree_digest
from tests.runs import tiny_run
from tests.training.test_loop import truncate


def test_what_a_run_has_learnt_is_read_back(tmp_path):
    summary = tiny_run(tmp_path / "run")
    trained = load_trained(tmp_path / "run")
    assert tree_digest(trained.params) == summary["parameters_sha256"]
    assert trained.summary == summary
    assert list(trained.model_state) == ["batch_stats"]


def test_what_is_not_there_or_damaged_says_so_and_stays(tmp_path):
    with pytest.raises(RunFolderError, match=r"holds no finished run: it has no summary\.json"):
        load_trained(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    tiny_run(tmp_path / "run")
    newest = tmp_path / "run/checkpoints/8"
    truncate(max(newest.rglob("*"), key=lambda path: path.stat().st_size))
    with pytest.raises(RunFolderError, match=r"checkpoints/8 cannot be read \(.+\)"):
        load_trained(tmp_path / "run")
    assert newest.exists()


def test_a_folder_without_checkpoints_says_so(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(RunFolderError, match="checkpoints"):
        load_trained(tmp_path)
    assert not (tmp_path / "checkpoints").exists()
