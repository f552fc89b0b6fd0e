import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import pytest

import prune
import train
from tests.conftest import ROOT
from tests.marks import thorough
from tests.records.tiny import get_config
from tests.runs import TINY
from tests.runs import call as call_program


def call(main, *arguments):
    """Runs a program, with the tiny record unless another is named; its exit status."""
    return call_program(main, *([] if "--config" in arguments else TINY), *arguments)


BAD = {
    "no such file": (["--config", "configs/resnet20_cifar.py"], "configs/resnet20_cifar10.py"),
    "no config": (["--workdir", "x", "--config"], "expected one argument"),
    "unknown key": (["--config.estimator.smothing=1"], "did you mean 'estimator.smoothing'"),
    "unknown section": (["--config.estimatr.smoothing=1"], "did you mean 'estimator.smoothing'"),
    "section for field": (["--config.model=cnn1"], "is a section; give one of its fields"),
    "field for section": (["--config.seed.x=1"], "no field 'seed.x'"),
    "ill-typed number": (["--config.seed=many"], "seed must be an integer, got 'many'"),
    "ill-typed flag": (["--config.data.augment=1"], "data.augment must be true or false"),
    "unknown flag": (["--wrokdir=x"], "did you mean '--workdir'"),
    "field without --config.": (
        ["training.num_epochs=2"],
        "did you mean '--config.training.num_epochs=2'?",
    ),
    "field as a flag": (["--seed", "3"], "did you mean '--config.seed=…'?"),
    "field without its section": (["+num_epochs=2"], "'--config.training.num_epochs=2'?"),
    "end of a field": (["--epochs=2"], " or '--config.training.num_epochs=2'?"),
    "misspelt field without --config.": (
        ["training.num_epoch=2"],
        "did you mean '--config.training.num_epochs=2'?",
    ),
    "several fields of a name": (
        ["name=x"],
        "'--config.data.name=x' or '--config.estimator.name=x'",
    ),
    "neither field nor flag": (["frobnicate=1"], "known: --config, "),
    "no value": (["--config.seed"], "--config.seed needs a value"),
    "unknown model": (["--config.model.name=resnet21"], "resnet20, resnet32"),
    "unknown estimator": (["--config.estimator.name=cg"], "cge, rge, first_order"),
    "unknown optimiser": (["--config.optimizer.name=lion"], "known: sgd, adam, adamw"),
    "unknown data set": (["--config.data.name=mnist"], "cifar10, digits"),
    "unknown scores": (["--config.pruning.scores=snip"], "grasp, random, zo_grasp"),
    "unknown reuse": (
        ["--config.estimator.reuse=all"],
        "reuse must be 'difference' or ",
    ),
    "sparsity": (["--config.pruning.sparsity=1.0"], "pruning.sparsity must lie in [0, 1)"),
    "smoothing": (["--config.estimator.smoothing=0"], "smoothing must be a positive number"),
    "learning rate": (["--config.optimizer.learning_rate=-1"], "learning_rate must be positive"),
    "batch": (["--config.data.batch_size=2000"], "1437 training images, got 2000"),
    "interval": (["--config.pruning.mask_interval=often"], "must read like"),
    "epochs": (["--config.training.num_epochs=0"], "training.num_epochs must be positive"),
    "unwritable": (["--workdir=/proc/nothing"], "cannot write to the run folder"),
    "unknown sampling": (["--config.sampling.name=greedy"], "layer_ratios, price_aware"),
    "budget": (["--config.sampling.budget=much"], 'must read like "10 %"'),
    "decay": (["--config.sampling.decay=1.0"], "sampling.decay must lie in [0, 1)"),
    "budget of no ratios": (
        ["--config.sampling.name=price_aware", "--config.pruning.sparsity=0"],
        "needs a pruning.sparsity above 0",
    ),
    "rates for random directions": (
        ["--config.sampling.name=price_aware", "--config.estimator.name=rge"],
        "price_aware needs estimator cge",
    ),
    "an option of another sampler": (["--config.sampling.num_blocks=4"], "is not for sampler"),
    "chunks": (["--config.estimator.chunk_size=some"], "chunk_size must be 'auto' or an integer"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_2(case, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    arguments, words = BAD[case]
    assert call(train.main, *arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1, output.err
    assert output.err.startswith("train.py: error: ")
    assert words in output.err
    assert not list(tmp_path.glob("runs/*/summary.json"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("def get_config():\n    return Confg()\n", "is broken: NameError: name 'Confg'"),
        ("def get_config(:\n", "is broken: SyntaxError"),
        ("x = 1\n", "is broken: AttributeError"),
        (
            "def get_config():\n    return 3\n",
            "must return a Config or DefenseConfig or SolverConfig, got int",
        ),
        (
            "from deepzero_jax.applications.classification.config import *\n"
            "def get_config():\n    return Config(seed='a')\n",
            "seed must be of type int, got 'a'",
        ),
    ],
)
def test_broken_config_files(content, words, capsys, tmp_path):
    path = tmp_path / "broken.py"
    path.write_text(content)
    assert call(train.main, "--config", str(path)) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_missing_data_set_is_one_line(capsys, tmp_path):
    config = str(ROOT / "configs/cnn_cifar10.py")
    arguments = ["--config", config, f"--config.data.dir={tmp_path}", f"--workdir={tmp_path}/run"]
    assert call(train.main, *arguments) == 2
    error = capsys.readouterr().err
    assert "Three ways out" in error
    assert error.count("\n") == 1


def test_ratios_of_another_model_and_of_another_config_are_refused(capsys, tmp_path):
    workdir = f"--workdir={tmp_path}"
    assert call(prune.main, workdir) == 0
    output = capsys.readouterr().out
    assert "block1_conv/kernel" in output
    assert {"ratios.json", "ratios.png", "mask.npz"} <= {p.name for p in tmp_path.iterdir()}
    before = (tmp_path / "ratios.json").read_bytes()
    assert call(prune.main, workdir, "--config.pruning.sparsity=0.9") == 2
    assert "pruning.sparsity is 0.5 there, 0.9 here" in capsys.readouterr().err
    assert call(train.main, workdir, "--config.model.name=cnn2") == 2
    assert "ratios.json was made by another config" in capsys.readouterr().err
    content = json.loads(before)
    content["ratios"]["stem_conv/kernel"] = 0.5
    (tmp_path / "other").mkdir()
    (tmp_path / "other/ratios.json").write_text(json.dumps(content))
    assert call(train.main, f"--workdir={tmp_path}/other") == 2
    assert "belong to another model" in capsys.readouterr().err
    assert (tmp_path / "ratios.json").read_bytes() == before


def test_a_budget_below_the_base_pass_is_refused(capsys, tmp_path):
    arguments = ["--config.sampling.name=price_aware", "--config.sampling.budget=0.000001 s"]
    assert call(train.main, *arguments, f"--workdir={tmp_path}/run") == 2
    assert "used up by the base pass" in capsys.readouterr().err


def test_prune_without_sparsity_says_what_to_give(capsys, tmp_path):
    assert call(prune.main, f"--workdir={tmp_path}", "--config.pruning.sparsity=0") == 2
    assert "--config.pruning.sparsity=0.9" in capsys.readouterr().err


def test_a_finished_run_says_so_and_another_config_is_refused(capsys, tmp_path):
    arguments = [f"--workdir={tmp_path}", "--config.training.num_steps=3"]
    assert call(train.main, *arguments) == 0
    capsys.readouterr()
    before = (tmp_path / "summary.json").read_bytes()
    assert call(train.main, *arguments) == 0
    assert capsys.readouterr().out.startswith("already finished: test accuracy")
    assert call(train.main, f"--workdir={tmp_path}", "--config.training.num_steps=5") == 2
    assert "training.num_steps is 3 there, 5 here" in capsys.readouterr().err
    assert (tmp_path / "summary.json").read_bytes() == before


@pytest.mark.parametrize("mask", ["gradient", "update", "weights"])
def test_masks_do_what_they_say(mask, tmp_path, capsys):
    arguments = [
        f"--workdir={tmp_path}",
        f"--config.pruning.mask={mask}",
        "--config.pruning.scores=grasp",
        "--config.training.num_steps=3",
        "--config.estimator.name=first_order",
    ]
    assert call(train.main, *arguments) == 0


def test_out_of_memory_halves_the_chunks_and_says_so(tmp_path, capsys, monkeypatch):
    from deepzero_jax.applications.classification import program

    real, calls = program.train, []

    def short_of_memory(step, *rest, **options):
        calls.append(step.step.estimator)
        if len(calls) < 3:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return real(step, *rest, **options)

    monkeypatch.setattr(program, "train", short_of_memory)
    assert call(train.main, f"--workdir={tmp_path}", "--config.training.num_steps=2") == 0
    assert len(calls) == 3
    error = capsys.readouterr().err
    assert "auto/2" in error
    assert "auto/4" in error


def spawn(folder, **options):
    command = [sys.executable, "train.py", *TINY, "--workdir", str(folder)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


@thorough
def test_kill_9_at_any_moment_and_restart_gives_the_same_bits(tmp_path):
    whole = spawn(tmp_path / "whole")
    output, error = whole.communicate(timeout=300)
    assert whole.returncode == 0, error
    assert "finished: test accuracy" in output
    rng = random.Random(0)
    metrics = tmp_path / "parts/metrics.jsonl"
    # Killed while it starts, then twice in the first and twice in the second half of its steps.
    moments = [
        0,
        *(rng.randrange(1, 200) for _ in range(2)),
        *(rng.randrange(200, 395) for _ in "ab"),
    ]
    went_on = 0
    for lines in moments:
        process = spawn(tmp_path / "parts")
        while lines and not (metrics.exists() and metrics.read_text().count("\n") >= lines):
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        time.sleep(0.0 if lines else rng.uniform(0.5, 3.0))
        process.kill()
        output, error = process.communicate()
        went_on += "going on from step" in output
        assert "Traceback" not in error, error
    last = spawn(tmp_path / "parts")
    output, error = last.communicate(timeout=300)
    assert last.returncode == 0, error
    assert went_on + ("going on from step" in output) >= 2
    whole, parts = (
        json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "parts")
    )
    for field in ("parameters_sha256", "num_queries", "test_accuracy", "best_test_accuracy"):
        assert whole[field] == parts[field], field


@thorough
def test_sigterm_saves_and_leaves(tmp_path):
    process = spawn(tmp_path, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    deadline = time.monotonic() + 120
    while not (tmp_path / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "same command goes on from there" in error
    assert "Traceback" not in error
    assert any(p.name.isdigit() for p in (tmp_path / "checkpoints").iterdir())


def test_tiny_config_is_what_the_tests_think():
    assert get_config().training.num_steps == 400


def test_a_log_file_shows_each_line_at_once(tmp_path):
    program = (
        "import os; from deepzero_jax.applications import PROGRAMS; "
        "from deepzero_jax.programs import parse_command_line; "
        f"parse_command_line('train.py', 'Train.', PROGRAMS, {TINY!r}); "
        "print('a line'); os._exit(0)"
    )
    with (tmp_path / "log").open("w") as log:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
        command = [sys.executable, "-c", program]
        subprocess.run(command, cwd=ROOT, env=environment, stdout=log, check=True)
    assert (tmp_path / "log").read_text() == "a line\n"
