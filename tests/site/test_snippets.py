"""Every block of code on a page is run, or is marked as output or as a command."""

import logging
import re
import shlex
import warnings
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import jax
import pytest

from deepzero_jax.fields import fields_of
from tests.conftest import ROOT

# Pages that are files of elsewhere, or made by a study.
OTHERS = ("docs/tutorials", "docs/results.md", "docs/benchmarks.md", "docs/changelog.md")
FENCE = re.compile(
    r"(?:^<!-- needs: (?P<needs>[^>]*?) -->\n)?"
    r"^(?P<mark>```+)(?P<info>[^\n]*)\n(?P<body>.*?)^(?P=mark)$",
    re.DOTALL | re.MULTILINE,
)
# "text" is output, or the shape of a message; "bash" holds commands.
LANGUAGES = {"python", "bash", "text", "bibtex"}


@dataclass(frozen=True)
class Block:
    """A block between fences."""

    info: str
    body: str
    needs: tuple[str, ...]

    @property
    def language(self) -> str:
        return self.info.split(" ")[0]

    @property
    def file(self) -> str | None:
        found = re.search(r'title="([^"]+)"', self.info)
        return found and found[1]


def blocks(page: Path) -> list[Block]:
    return [
        Block(found["info"], found["body"], tuple((found["needs"] or "").split()))
        for found in FENCE.finditer(page.read_text())
    ]


def is_own(page: Path) -> bool:
    return not str(page.relative_to(ROOT)).startswith(OTHERS)


PAGES = [ROOT / "README.md", *sorted(filter(is_own, (ROOT / "docs").rglob("*.md")))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
WITH_CODE = [name for name in NAMES if any(b.language == "python" for b in blocks(ROOT / name))]


@pytest.mark.parametrize("name", NAMES)
def test_every_block_says_what_it_is(name):
    page = ROOT / name
    assert page.read_text().count("\n```") == 2 * len(blocks(page))
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{name}: {block.info!r}\n{block.body}"


@pytest.mark.parametrize("name", WITH_CODE)
@pytest.mark.filterwarnings("ignore")
def test_every_snippet_runs(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names = {"__name__": "__main__"}
    for block in blocks(ROOT / name):
        if block.language != "python" or not all(map(is_installed, block.needs)):
            continue
        if block.file is not None:
            Path(block.file).write_text(block.body)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(block.body, name, "exec"), names)


@pytest.mark.parametrize(
    "number", range(sum(block.language == "python" for block in blocks(PAGES[0])))
)
@pytest.mark.filterwarnings("ignore")
def test_every_snippet_of_the_readme_runs_alone_and_warns_of_nothing(number, caplog):
    block = [block for block in blocks(PAGES[0]) if block.language == "python"][number]
    with caplog.at_level(logging.WARNING, "deepzero_jax"):
        exec(compile(block.body, "README.md", "exec"), {"__name__": "__main__"})
        jax.effects_barrier()
    assert not [record for record in caplog.records if record.name == "deepzero_jax"]


def is_installed(module: str) -> bool:
    return find_spec(module.split(".")[0]) is not None and find_spec(module) is not None


@pytest.mark.parametrize("name", NAMES)
def test_commands_name_files_and_fields_that_exist(name):
    for block in blocks(ROOT / name):
        if block.language != "bash":
            continue
        for line in block.body.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for word in words:
                if re.fullmatch(r"(configs|examples|benchmarks|docs)/\S+|(train|prune)\.py", word):
                    assert (ROOT / word).exists(), line
            check_fields_of(words, line)


def check_fields_of(words: list[str], line: str) -> None:
    records = [word for word in words if word.startswith("configs/")]
    if records:
        known = {
            field.path
            for field in fields_of(
                type(import_module(records[0][:-3].replace("/", ".")).get_config())
            )
        }
        given = {word[9:].split("=")[0] for word in words if word.startswith("--config.")}
        assert given <= known, line
