"""The reference holds every public name, the site's address stands in few places."""

import re
import tomllib
from importlib import import_module
from types import ModuleType

import pytest

import deepzero_jax as dz
from deepzero_jax.pages import SITE, Section, see
from tests.conftest import ROOT

REFERENCE = "\n".join(page.read_text() for page in (ROOT / "docs/reference").glob("*.md"))
DIRECTIVES = re.findall(r"^::: (\S+)$", REFERENCE, re.MULTILINE)
PACKAGES = (
    "applications",
    "applications.blackbox_defense",
    "applications.classification",
    "applications.solver_in_the_loop",
    "blackbox",
    "data",
    "difference",
    "estimators",
    "models",
    "programs",
    "pruning",
    "sampling",
    "training",
)
# Names that a reader meets under another path.
ELSEWHERE = {"dz": {"blackbox", "pruning", "sampling"}}


def resolved(path):
    """What a directive names: a module, or an attribute of one."""
    module, _, name = path.rpartition(".")
    try:
        return import_module(path)
    except ModuleNotFoundError:
        return getattr(import_module(module), name)


FOUND = [resolved(path) for path in DIRECTIVES]


def stands(package, name):
    """Whether a name, or the same object under another path, stands in the reference."""
    path, value = f"{package.__name__}.{name}", getattr(package, name)
    identified = callable(value) or isinstance(value, ModuleType)
    return path in DIRECTIVES or (identified and any(value is other for other in FOUND))


def test_every_directive_names_something_once():
    assert len(DIRECTIVES) == len(set(DIRECTIVES)) > 200


@pytest.mark.parametrize("package", ["", *PACKAGES])
def test_every_public_name_stands_in_the_reference(package):
    module = import_module(f"deepzero_jax.{package}".rstrip("."))
    names = set(module.__all__) - (ELSEWHERE["dz"] if module is dz else set())
    assert not {name for name in names if not stands(module, name)}


def test_no_package_is_forgotten():
    found = {
        ".".join(path.parent.relative_to(ROOT / "deepzero_jax").parts)
        for path in (ROOT / "deepzero_jax").glob("**/__init__.py")
    }
    assert found - {"", "estimators.boundary"} == set(PACKAGES)


def test_the_address_of_the_site_is_one():
    assert f"site_url: {SITE}\n" in (ROOT / "mkdocs.yml").read_text()
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    assert urls["Documentation"] == SITE
    assert all(url.startswith(SITE) for name, url in urls.items() if name != "Paper")


def test_errors_name_sections_that_exist():
    page = (ROOT / "docs/explanation/errors.md").read_text()
    anchors = re.findall(r"\{ #([\w-]+) \}", page)
    assert sorted(anchors) == sorted(Section.__args__)
    assert see("key").endswith("/explanation/errors/#key)")
