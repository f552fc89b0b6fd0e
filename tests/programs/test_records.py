import json
from typing import get_origin

import pytest

import train
from deepzero_jax.applications import PROGRAMS
from deepzero_jax.applications.classification import (
    build,
    experiment,
    prepare_run,
    train_prepared,
)
from deepzero_jax.applications.classification.config import (
    Config,
    Data,
    Model,
    Optimizer,
    Pruning,
    Sampling,
    parse_budget,
)
from deepzero_jax.fields import check_fields, fields_of, value_at
from deepzero_jax.programs import check_record, load_record, override
from deepzero_jax.programs.records import run_folder
from deepzero_jax.training import RunFolderError
from tests.conftest import ROOT
from tests.marks import thorough

CONFIGS = [
    path for path in sorted((ROOT / "configs").glob("*.py")) if "def get_config" in path.read_text()
]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_its_fields_are_right(path):
    check_record(load_record(path, PROGRAMS))


# ResNet-20 takes more than a minute to compile.
MARKS = {"quickstart": (), "resnet20_cifar10": pytest.mark.slow}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=MARKS.get(path.stem, thorough))
        for path in CONFIGS
        if "-> Config:" in path.read_text()
    ],
    ids=lambda path: path.stem,
)
def test_a_shrunken_copy_of_every_config_trains_one_step(path, tmp_path):
    config = load_record(path, PROGRAMS)
    small = {
        "data.name": "digits",
        "data.batch_size": "4",
        "model.width": "2",
        "pruning.num_directions": "2",
        "pruning.samples_per_class": "1",
        "training.num_steps": "1",
    }
    if path.stem == "resnet20_cifar10_paper":
        small["model.name"] = "cnn1"  # the same network as in resnet20_cifar10, a minute to compile
    elif config.model.name.startswith("resnet"):
        small |= {"pruning.sparsity": "0.99", "pruning.scores": "random"}
    for name, value in small.items():
        config = override(config, name, value)
    prepared = prepare_run(build(config), tmp_path)
    summary = train_prepared(prepared, tmp_path, "small", log=[].append)
    assert summary["num_steps"] == 1


@pytest.mark.parametrize("schema", PROGRAMS, ids=lambda schema: schema.__name__)
def test_every_field_can_be_overridden(schema):
    for item in fields_of(schema):
        kind = next(k for k in item.kinds if k is not type(None))
        text = {int: "3", float: "0.5", bool: "true"}.get(kind, "1, 2")
        value = value_at(override(schema(), item.path, text), item.path)
        expected = {tuple: tuple, None: kind}.get(get_origin(kind), str)
        assert isinstance(value, expected), item.path


def test_none_and_numbers_are_told_apart():
    config = override(Config(), "training.num_steps", "7")
    assert config.training.num_steps == 7
    assert override(config, "training.num_steps", "none").training.num_steps is None
    assert override(config, "estimator.chunk_size", "auto").estimator.chunk_size == "auto"
    assert override(config, "estimator.chunk_size", "8").estimator.chunk_size == 8
    assert override(config, "optimizer.learning_rate", "1e-3").optimizer.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("10 %", (0.1, "fraction")),
        ("2.5%", (0.025, "fraction")),
        ("3e6 multiply-adds", (3e6, "multiply-adds")),
        ("0.5 s", (0.5, "seconds")),
        ("layer ratios", (1.0, "layer ratios")),
    ],
)
def test_budgets_are_read(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "10", "-1 s", "0 %", "1.2.3 s", "ten s"])
def test_other_budgets_are_refused(text):
    with pytest.raises(ValueError, match="must read like"):
        parse_budget(text)


@thorough
def test_a_shrunken_defense_trains_certifies_and_is_finished(tmp_path, capsys):
    small = {
        "classifier.width": "2",
        "classifier.num_epochs": "1",
        "denoiser.depth": "2",
        "denoiser.width": "2",
        "denoiser.pretraining_steps": "2",
        "autoencoder.width": "2",
        "autoencoder.pretraining_steps": "2",
        "training.num_queries": "40",
        "training.num_directions": "16",
        "training.boundary_directions": "16",
        "training.first_order_steps": "2",
        "certification.num_samples": "200",
        "certification.num_images": "3",
        "certification.radii": "0, 0.25",
    }
    command = ["--config", str(ROOT / "configs/defense_digits.py"), f"--workdir={tmp_path}/run"]
    command += [f"--config.{name}={value}" for name, value in small.items()]
    assert train.main(command) == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    methods = ["deepzero", "zo_ae_ds", "zo_ds", "fo_ds", "none", "zo_boundary"]
    assert list(summary["certified_accuracy"]) == methods
    for accuracies in summary["certified_accuracy"].values():
        assert set(accuracies) == {"0", "0.25"}
    queries = summary["num_queries"]
    assert queries["none"] == queries["fo_ds"] == 0
    assert all(0 < queries[name] <= 40 for name in set(methods) - {"none", "fo_ds"})
    assert (tmp_path / "run/certified_accuracy.png").exists()
    assert len((tmp_path / "run/none/certificates.jsonl").read_text().splitlines()) == 3
    capsys.readouterr()
    assert train.main(command) == 0
    assert "already finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("certification.num_samples=1000", "cannot certify radius 0.75"),
        ("training.methods=deepzero,zo", "unknown method 'zo'"),
        ("certification.radii=a", "certification.radii must read like"),
        ("training.fraction=0", r"training.fraction must lie in (0, 1]"),
        ("classifier.modle=cnn1", "classifier.model"),
    ],
)
def test_bad_fields_of_a_defense_are_one_line(change, message, tmp_path, capsys):
    arguments = ["--config", str(ROOT / "configs/defense_digits.py"), f"--workdir={tmp_path}/run"]
    try:
        status = train.main([*arguments, f"--config.{change}"])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    captured = capsys.readouterr().err
    assert message in captured
    assert captured.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_section_of_another_type_is_named():
    with pytest.raises(ValueError, match=r"optimizer must be of type Optimizer, got \[1\]"):
        check_fields(Config(optimizer=[1]))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (Config(seed=10**400), r"seed must be below 4,294,967,296, got an integer of 1,329 bits"),
        (Config(seed=10**5000), r"seed must be below 4,294,967,296, got an integer of 16,610 bits"),
        (Config(optimizer=Optimizer(learning_rate=10**400)), "learning_rate must be finite, got"),
    ],
)
def test_numbers_beyond_every_float_are_one_short_line(config, words):
    with pytest.raises(ValueError, match=words) as caught:
        check_fields(config)
    assert len(str(caught.value)) < 400


def test_drawn_by_rate_and_fixed_do_not_go_together():
    config = Config(pruning=Pruning(sparsity=0.5, mask="weights"), sampling=Sampling(unbiased=True))
    with pytest.raises(ValueError, match=r"sampling\.unbiased divides .* pruning\.mask=weights"):
        check_fields(config)


def test_more_steps_than_can_be_counted_are_refused(monkeypatch):
    record = Config(data=Data(name="digits"), model=Model(name="cnn1"))
    steps = build(record).num_steps
    monkeypatch.setattr(experiment, "MAX_STEPS", steps - 1)
    with pytest.raises(ValueError, match=rf"training.num_epochs 50 comes to {steps:,} steps"):
        build(record)


def test_a_run_begun_before_a_field_came_goes_on(tmp_path):
    record = load_record(ROOT / "configs" / "quickstart.py", PROGRAMS)
    with run_folder(record, tmp_path) as folder:
        folder.claim()
    written = (tmp_path / "config.json").read_text()

    def without(section, name):
        content = json.loads(written)
        del content[section][name]
        (tmp_path / "config.json").write_text(json.dumps(content))

    without("estimator", "ranked")
    run_folder(record, tmp_path)
    with pytest.raises(RunFolderError, match=r"estimator\.ranked is false there, true here"):
        run_folder(override(record, "estimator.ranked", "True"), tmp_path)
    without("data", "name")  # the record differs from the default
    with pytest.raises(RunFolderError, match=r"data\.name is \"cifar10\" there, \"digits\" here"):
        run_folder(record, tmp_path)
