"""The graph of imports, as shared by everybody who reads the layout: they point down only."""

import ast

import pytest

from tests.conftest import ROOT

LEVELS = {
    "types": 0,
    "registry": 0,
    "platform": 1,
    "pictures": 1,
    "coordinates": 1,
    "cost": 1,
    "difference": 1,
    "split": 1,
    "sampling": 1,
    "blackbox": 1,
    "sharding": 1,
    "models": 1,
    "data": 1,
    "estimators": 2,
    "pruning": 3,
    "training": 4,
    "applications": 5,
    "configs": 6,
}
# Within level 1 these stand on their own.
ALONE = {("models", "data"), ("data", "models"), ("split", "models"), ("coordinates", "cost")}
MODULES = sorted([*ROOT.glob("deepzero_jax/**/*.py"), *ROOT.glob("configs/*.py")])


def component(parts):
    if parts[0] == "configs":
        return "configs"
    return parts[1] if parts[0] == "deepzero_jax" and len(parts) > 1 else None


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    own = component(parts)
    if own in (None, "__init__"):
        return
    for target in imported(path):
        other = component(target)
        if other is None or other == own:
            continue
        assert LEVELS[other] <= LEVELS[own], f"{path} imports {'.'.join(target)}"
        if LEVELS[other] == LEVELS[own]:
            assert LEVELS[own] == 1
            assert (own, other) not in ALONE, f"{path} imports {'.'.join(target)}"
            assert "models" not in (own, other) or other in ("split",), path
            assert "data" not in (own, other), path


def test_applications_do_not_import_each_other():
    for path in ROOT.glob("deepzero_jax/applications/*/*.py"):
        for target in imported(path):
            if target[:2] == ["deepzero_jax", "applications"]:
                assert target[2] == path.parent.name


def test_estimators_know_no_network_no_data_and_no_config():
    for path in ROOT.glob("deepzero_jax/estimators/*.py"):
        named = {component(target) for target in imported(path)}
        assert not named & {"models", "data", "configs", "training"}


def test_no_module_is_called_after_nothing():
    names = {path.stem for path in MODULES}
    assert not names & {"utils", "util", "common", "helpers", "misc"}
