import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from deepzero_jax.programs import check_record
from studies import applications, cge_vs_rge, pruning, recipe, sparsity, spending, trajectory
from studies.curves import stage_curves
from studies.price_aware import ARMS, PARTS
from studies.report import cge_vs_rge_section, pruning_section, report
from studies.report.committed import mean_and_spread
from studies.report.figures import plot_pruning
from studies.report.sparsity_table import plot_sparsity, recipe_section, sparsity_section
from studies.runner import (
    Cell,
    Measurement,
    configured,
    keep_result,
    run_and_forward_signals,
    run_measurements,
    run_study,
)
from tests.conftest import ROOT
from tests.marks import long


def test_the_results_page_is_what_the_committed_summaries_give():
    assert (ROOT / "docs/results.md").read_text() == report()


def test_what_was_not_run_says_so():
    assert mean_and_spread([]) == "not run"
    assert mean_and_spread([0.5]) == "50.00 (1)"
    assert mean_and_spread([0.5, 0.6]) == "55.00 ± 7.07 (2)"


@long
def test_finished_cells_are_skipped_and_missing_ones_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("studies.runner.RESULTS", tmp_path / "results")
    changes = {"training.num_steps": 2, "model.width": 2, "training.evaluation_epochs": 1}
    cell = Cell("tiny", "quickstart", changes, {"part": "tiny"})
    run_study("trial", [cell], tmp_path / "runs")
    content = (tmp_path / "results/trial/tiny.json").read_text()
    assert '"num_steps": 2' in content
    assert "python train.py --config configs/quickstart.py" in content
    [point] = json.loads(content)["learning_curve"]
    accuracy = json.loads(content)["summary"]["test_accuracy"]
    assert point["accuracy"] == pytest.approx(accuracy, abs=1e-4)
    assert point["seconds"] > 0
    run_study("trial", [cell], tmp_path / "runs")
    assert "trial/tiny: done" in capsys.readouterr().out


def test_a_stopped_study_waits_for_its_run_to_save(tmp_path):
    program = "import signal, sys, time; signal.signal(15, lambda *_: (time.sleep(0.5), "
    program += f"open({str(tmp_path / 'saved')!r}, 'w'), sys.exit(143))); "
    program += f"open({str(tmp_path / 'ready')!r}, 'w'); time.sleep(60)"

    def stop():
        while not (tmp_path / "ready").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    assert run_and_forward_signals([sys.executable, "-c", program]) == 143
    thread.join()
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    ("status", "words"),
    [(-signal.SIGTERM, "stopped"), (128 + signal.SIGINT, "stopped"), (3, "failed with status 3")],
)
def test_a_stop_is_told_from_a_failure(status, words, tmp_path, monkeypatch):
    monkeypatch.setattr("studies.runner.RESULTS", tmp_path)
    monkeypatch.setattr("studies.runner.run_and_forward_signals", lambda call: status)
    with pytest.raises(SystemExit, match=f"trial/tiny {words}"):
        run_study("trial", [Cell("tiny", "quickstart", {}, {})], tmp_path)


def test_estimators_are_compared_at_equal_epochs_and_at_equal_time():
    def run(method, minutes_an_epoch, accuracies):
        curve = [
            {"epoch": n, "seconds": 60.0 * n * minutes_an_epoch, "accuracy": accuracy}
            for n, accuracy in enumerate(accuracies, 1)
        ]
        labels = {"depth": 1, "method": method, "epochs": len(curve), "seed": 0}
        summary = {"test_accuracy": accuracies[-1], "wall_seconds": curve[-1]["seconds"]}
        return {"labels": labels, "summary": summary, "hardware": "x", "learning_curve": curve}

    found = [
        run("cge", 1, [0.1, 0.2, 0.3, 0.4]),
        run("first_order", 0.1, [0.1, 0.2, 0.3, 0.41]),
        run("rge_192", 2, [0.05, 0.15, 0.25]),
    ]
    lines = cge_vs_rge_section(found).splitlines()
    title = "- 730 parameters, 4 epochs: CGE"
    directions = "RGE with 192 directions (of 3 epochs)"
    assert f"{title} -1.00 points from first-order (paper: -0.44)." in lines
    assert f"{title} 30.00 after 3 epochs, {directions} 25.00, seed 0." in lines
    assert f"{title} 40.00 after 4 min, {directions} 15.00, seed 0." in lines


def test_layer_ratios_are_shown_by_layer_as_means_over_seeds(tmp_path):
    def run(name, seed, kept):
        return {"labels": {"ratios_from": name, "seed": seed}, "summary": {"kept": kept}}

    found = [
        run("grasp", 0, {"stem/kernel": 0.5, "head/kernel": 0.1}),
        run("grasp", 1, {"stem/kernel": 0.3, "head/kernel": 0.2}),
        run("random", 0, {"stem/kernel": 0.1, "head/kernel": 0.1}),
    ]
    lines = pruning_section(found).splitlines()
    assert "| layer | grasp (2) | random (1) |" in lines
    assert "| stem | 40.0 | 10.0 |" in lines
    assert "| head | 15.0 | 10.0 |" in lines
    plot_pruning(found, tmp_path / "pruning.png")
    assert (tmp_path / "pruning.png").stat().st_size > 10_000


def test_accuracies_stand_under_their_sparsity_with_their_length(tmp_path):
    def run(method, value, accuracy, epochs, network="resnet20"):
        labels = {"network": network, "method": method, "sparsity": value, "epochs": epochs}
        return {"labels": labels, "summary": {"test_accuracy": accuracy}}

    found = [
        run("first_order_gradient", 0.9, 0.8, 15),
        run("first_order_gradient", 0.9, 0.85, 50),
        run("first_order_dense", 0.0, 0.87, 15),
        run("deepzero", 0.99, 0.3, 30, "resnet8"),
    ]
    lines = sparsity_section(found).splitlines()
    title = "first-order, sparse gradient, measured"
    both = "80.00 (1), 15 epochs; 85.00 (1), 50 epochs"
    assert f"| {title} | not run | {both} | not run | not run |" in lines
    assert "Dense first-order, measured: 87.00 (1), 15 epochs; paper: 92.85." in lines
    title = "DeepZero, smoothing 1e-4, measured"
    assert f"| {title} | not run | not run | not run | 30.00 (1), 30 epochs |" in lines
    assert "Dense first-order, measured: not run." in lines
    plot_sparsity(found, tmp_path / "sparsity.png")
    assert (tmp_path / "sparsity.png").stat().st_size > 10_000


def test_shorter_runs_of_the_recipe_stand_by_their_masks():
    def run(accuracy, epochs, **labels):
        labels = {"method": "first_order_gradient", "sparsity": 0.99, "epochs": epochs, **labels}
        return {"labels": labels, "summary": {"test_accuracy": accuracy}}

    full = run(0.7145, 50, precision="bfloat16")
    short = [run(0.5, 10, masks="as_published"), run(0.6, 10, masks="each_epoch")]
    lines = recipe_section([full, *short]).splitlines()
    (row,) = [line for line in lines if line.startswith("| first-order, sparse gradient, 99 % |")]
    assert "71.45 (1), 50 epochs" in row and "10 epochs" not in row
    assert "| masks | 10 epochs | 50 epochs |" in lines
    assert "| ratios by ZO-GraSP, drawn every 5 epochs | 50.00 (1) | 71.45 (1) |" in lines
    assert "| ratios by ZO-GraSP, drawn every epoch | 60.00 (1) | not run |" in lines
    assert "| ratios as in the paper's code, drawn every 5 epochs | not run | not run |" in lines
    drawn = run(0.7, 10, masks="as_published")
    drawn["labels"] = {**drawn["labels"], "method": "first_order_price_aware"}
    lines = recipe_section([full, *short, drawn]).splitlines()
    assert "| price-aware rates at the price of the first | 70.00 (1) | not run |" in lines


def test_the_recipe_at_another_batch_has_a_row_of_its_own(tmp_path):
    (cell,) = recipe.cells(("first_order_dense",), (0.0,), batches=(128,), runs=tmp_path)
    assert cell.name == "resnet20-first_order_dense-0-50-0-bfloat16-batch128"
    summary = {"test_accuracy": 0.9}
    other = {"labels": {"epochs": 50, "precision": "bfloat16", **cell.labels}, "summary": summary}
    paper = {
        "labels": {key: value for key, value in other["labels"].items() if key != "batch"},
        "summary": {"test_accuracy": 0.8},
    }
    lines = recipe_section([other, paper]).splitlines()
    assert any(line.startswith("| first-order, dense | 92.85 | 80.00 (1), 50 ") for line in lines)
    assert any(
        line.startswith("| first-order, dense, batches of 128 | 92.85 | 90.00 (1), 50 ")
        for line in lines
    )


def test_masks_of_the_recipe_are_made_as_said(tmp_path):
    named = {
        cell.name: cell.labels["masks"]
        for cell in recipe.cells(
            ("first_order_gradient",), (0.99,), tuple(recipe.MASKS), epochs=10, runs=tmp_path
        )
    }
    name = "resnet20-first_order_gradient-0.99-10-0-bfloat16"
    assert named == {
        name: "as_published",
        f"{name}-as_released": "as_released",
        f"{name}-each_epoch": "each_epoch",
    }
    with pytest.raises(ValueError, match="unknown masks 'other'"):
        next(recipe.cells(masks=("other",)))


def test_every_part_has_a_config():
    assert ARMS
    for part in PARTS.values():
        assert (ROOT / f"configs/{part.config}.py").exists()


def test_every_cell_of_every_study_is_a_valid_command():
    every = [
        *cge_vs_rge.cells([1, 5], list(cge_vs_rge.METHODS), [0], 30),
        *sparsity.cells(tuple(sparsity.NETWORKS), sparsities=(0.8, 0.99)),
        *pruning.cells(list(pruning.SCORES), [0], 2),
        *trajectory.cells(5, 0.99),
        *spending.cells(("cnn3", "resnet20"), seeds=(0,)),
    ]
    assert len({cell.name for cell in every}) == len(every)
    for cell in every:
        check_record(configured(cell.config, cell.overrides))


def test_what_is_spent_is_the_same_in_every_run():
    cells = list(spending.cells(("cnn3",), seeds=(0,)))
    dense = [cell for cell in cells if cell.labels["fraction"] == 1]
    assert [cell.overrides["sampling.name"] for cell in dense] == ["layer_ratios"]
    for cell in cells:
        spent = cell.labels["fraction"] * cell.labels["batch"] * cell.labels["steps"]
        assert spent == pytest.approx(70 * 600)
    with pytest.raises(ValueError, match="unknown part 'cnn33'"):
        next(spending.cells(("cnn33",)))


def test_both_applications_have_a_config():
    every = (*applications.DEFENSES, *applications.SOLVERS, *applications.DEFENSE_VARIATIONS)
    for cell in applications.cells(list(every), [0]):
        configured(cell.config, cell.overrides)
    names = [cell.name for cell in applications.cells(["defense_digits", "sol_ks"], [0, 1])]
    assert names == ["defense_digits-0", "defense_digits-1", "sol_ks-0"]


def test_measurements_are_kept_and_not_made_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("studies.runner.RESULTS", tmp_path)
    made = []
    cell = Measurement("one", {"way": "a"}, lambda: made.append(1) or {"cosine": 0.5})
    run_measurements("trial", [cell])
    run_measurements("trial", [cell])
    assert made == [1]
    assert '"cosine": 0.5' in (tmp_path / "trial/one.json").read_text()
    assert "trial/one: done" in capsys.readouterr().out


def test_a_result_names_its_commit_and_says_where_code_differs(tmp_path, monkeypatch):
    monkeypatch.setattr("studies.runner.ROOT", tmp_path)
    monkeypatch.setattr("studies.runner.RESULTS", tmp_path / "studies/results")

    def commit_of_a_result(name):
        keep_result("trial", name, {}, "", {"num_devices": 1, "device": "cpu"})
        return json.loads((tmp_path / f"studies/results/trial/{name}.json").read_text())["commit"]

    assert commit_of_a_result("one") == "unknown"
    (tmp_path / "train.py").write_text("1")
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for call in (["init"], ["add", "."], [*author, "commit", "-m", "a"]):
        subprocess.run(["git", "-C", tmp_path, *call], check=True, capture_output=True)
    named = commit_of_a_result("two")
    (tmp_path / "studies/results/trial/one.json").unlink()
    assert commit_of_a_result("two") == named
    (tmp_path / "train.py").write_text("2")
    assert commit_of_a_result("two") == f"{named}-dirty"


def test_a_run_of_several_trainings_keeps_their_errors_by_samples_asked(tmp_path):
    lines = [
        {"step": 1, "epoch": 1.0, "loss": 2.0, "box_samples": 30},
        {"step": 2, "epoch": 2.0, "loss": 1.5, "box_samples": 34},
        {"step": 2, "epoch": 2.0, "validation_mae": 0.1234567, "box_samples": 480},
        {"step": 3, "epoch": 3.0, "loss": 1.0, "box_samples": 30},
        {"step": 3, "epoch": 3.0, "validation_mae": 0.1, "box_samples": 480},
    ]
    (tmp_path / "zo_0").mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "zo_0/metrics.jsonl").write_text(text)
    assert stage_curves(tmp_path) == {
        "zo_0": [
            {"step": 2, "samples": 64, "validation_mae": 0.12346},
            {"step": 3, "samples": 94, "validation_mae": 0.1},
        ]
    }
