"""Every example runs as it stands behind the marker, and with few steps by default."""

import ast
import warnings

import matplotlib
import pytest

from tests.conftest import ROOT
from tests.marks import few

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# What the default tests run, and with which constants; compiling the others takes too long.
SMALL = {
    "analog_layers": {},
    "endpoint": {"NUM_STEPS": 2, "BATCH": 8},
    "equinox_model": {"NUM_STEPS": 2, "BATCH": 8},
    "first_gradient": {"NUM_STEPS": 2, "steps": (1e-3,)},
    "flax_linen": {"NUM_STEPS": 2, "BATCH": 8},
    "flax_nnx": {"NUM_STEPS": 2, "BATCH": 8},
    "policy_search": {"NUM_STEPS": 1, "STARTS": 1, "HORIZON": 3},
    "simulator_in_a_loss": {"NUM_STEPS": 2, "BATCH": 4},
}
LONG = {"parallel_simulator", "pruned_resnet", "transformer_block"}
# What the others need beside, and what an example promises when it is run as it stands.
NEEDS = {
    "endpoint": ("fastapi", "uvicorn", "httpx"),
    "equinox_model": ("equinox",),
    "policy_search": ("gymnasium",),
    "parallel_simulator": ("dask.distributed", "loky"),
}
PARTS = ("slow_simulator",)  # imported by an example


def run(name, monkeypatch, capsys, **constants):
    """Runs an example as a program, some of its constants replaced; what it printed."""
    for module in NEEDS.get(name, ()):
        pytest.importorskip(module)
    monkeypatch.syspath_prepend(ROOT / "examples")
    path = ROOT / "examples" / f"{name}.py"
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign):
            replace(node, constants)
    assert not constants, f"{path} has no constants {sorted(constants)}"
    matplotlib.use("agg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(ast.fix_missing_locations(tree), str(path), "exec"), {"__name__": "__main__"})
    return capsys.readouterr().out


def replace(assignment, constants):
    """Puts the constants in their places, and takes them off the list."""
    target, value = assignment.targets[0], assignment.value
    if isinstance(target, ast.Name) and target.id in constants:
        assignment.value = ast.Constant(constants.pop(target.id))
    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for position, name in enumerate(target.elts):
            if isinstance(name, ast.Name) and name.id in constants:
                value.elts[position] = ast.Constant(constants.pop(name.id))


def last_number(output, line):
    """The last number before a per cent sign in the last line that begins so."""
    found = [text for text in output.splitlines() if text.startswith(line)][-1]
    return float(found.split("%")[-2].split()[-1])


def test_every_example_is_run():
    names = {path.stem for path in EXAMPLES if path.stem not in ("__init__", *PARTS)}
    assert names == SMALL.keys() | LONG


# The tutorials among them are run with the site.
@pytest.mark.parametrize(
    "name", few(["first_gradient", *sorted(SMALL.keys() - {"analog_layers", "first_gradient"})])
)
def test_runs_with_few_steps(name, monkeypatch, capsys):
    assert run(name, monkeypatch, capsys, **SMALL[name])


def test_analog_layers_train_through_the_device(capsys):
    from examples import analog_layers

    found = analog_layers.main(num_steps=3)
    assert all(0 <= value <= 1 for value in found.values())
    # Two for each input of a column, as its text says, and one for the product.
    assert "one gradient of the first matrix: 128 calls and one" in capsys.readouterr().out
    assert "# twice that, 128" in (ROOT / "examples/analog_layers.py").read_text()


def test_a_worker_that_imports_the_parallel_simulator_prints_nothing(monkeypatch, capsys):
    for module in NEEDS["parallel_simulator"]:
        pytest.importorskip(module)
    monkeypatch.syspath_prepend(ROOT / "examples")
    path = ROOT / "examples/parallel_simulator.py"
    exec(compile(path.read_text(), str(path), "exec"), {"__name__": "parallel_simulator"})
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "line", "least"),
    [
        ("equinox_model", "test accuracy", 95),
        ("flax_linen", "test accuracy", 95),
        ("flax_nnx", "test accuracy", 88),
        ("pruned_resnet", "test accuracy", 80),
        ("endpoint", "accuracy in the end", 85),
        ("transformer_block", "", 95),
    ],
)
def test_reaches_its_accuracy(name, line, least, monkeypatch, capsys):
    assert last_number(run(name, monkeypatch, capsys), line) >= least


@pytest.mark.slow
@pytest.mark.parametrize("name", ["first_gradient", "policy_search", "simulator_in_a_loss"])
def test_runs_as_it_stands(name, monkeypatch, capsys):
    assert run(name, monkeypatch, capsys)


@pytest.mark.slow
def test_workers_give_the_same_gradient(monkeypatch, capsys):
    output = run("parallel_simulator", monkeypatch, capsys)
    assert "the gradients are the same to the bit" in output


@pytest.mark.slow
def test_analog_layers_reach_floating_point():
    from examples import analog_layers

    found = analog_layers.main()
    exact, moved, trained = found.values()
    assert trained > exact - 0.01
    assert trained > moved + 0.03
