import re

import pytest

from tests.conftest import ROOT


@pytest.mark.filterwarnings("ignore")
def test_every_snippet_of_the_page_runs():
    page = (ROOT / "docs/blackbox.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(snippets) >= 10
    names = {}
    for snippet in snippets:
        exec(compile(snippet, "docs/blackbox.md", "exec"), names)
