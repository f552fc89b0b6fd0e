"""The graph of imports, as shared by everybody who reads the layout: they point down only."""

import ast

import pytest

from tests.conftest import ROOT

LEVELS = {
    "types": 1,
    "counts": 1,
    "registry": 1,
    "fields": 1,
    "platform": 1,
    "files": 1,
    "pages": 1,
    "pictures": 1,
    "bars": 1,
    "coordinates": 1,
    "keys": 1,
    "cost": 1,
    "varying": 1,
    "jaxprs": 1,
    "failures": 1,
    "callbacks": 1,
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
    "programs": 5,
    "applications": 6,
    "configs": 7,
}
# Within level 1 everything may use these; models may be cut, and nothing else uses models or data.
GROUND = (
    *("types", "counts", "registry", "fields", "coordinates", "keys", "pages", "files"),
    *("platform", "pictures", "bars", "cost", "varying", "jaxprs", "failures", "callbacks"),
)
BESIDE = {"models": ("split",), "sampling": (), "data": (), "blackbox": (), "sharding": ()}
MODULES = sorted(ROOT.glob("deepzero_jax/**/*.py"))
RECORDS = sorted(ROOT.glob("configs/*.py"))


def component(parts):
    if parts[0] == "configs":
        return "configs"
    return parts[1] if parts[0] == "deepzero_jax" and len(parts) > 1 else None


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "deepzero_jax":
                yield from (["deepzero_jax", alias.name] for alias in node.names)
            else:
                yield node.module.split(".")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    own = component(path.relative_to(ROOT).with_suffix("").parts)
    if own in (None, "__init__"):
        return
    for target in imported(path):
        other = component(target)
        if other is None or other == own:
            continue
        words = f"{path} imports {'.'.join(target)}"
        assert LEVELS[other] <= LEVELS[own], words
        if LEVELS[other] == LEVELS[own]:
            assert LEVELS[own] == 1, words
            assert other in GROUND or other in BESIDE.get(own, ()), words


def test_applications_do_not_import_each_other():
    for path in ROOT.glob("deepzero_jax/applications/*/*.py"):
        for target in imported(path):
            if target[:2] == ["deepzero_jax", "applications"]:
                assert target[2] == path.parent.name


def test_programs_and_training_know_no_application():
    for room in ("programs", "training"):
        for path in ROOT.glob(f"deepzero_jax/{room}/**/*.py"):
            assert "applications." not in path.read_text() or "deepzero_jax/applications/<" in (
                path.read_text()
            ), path


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_imports_the_fields_of_its_application_alone(path):
    for target in imported(path):
        assert target[:2] == ["deepzero_jax", "applications"], path
        assert target[3:] == ["config"], path
