"""What the site is given at build time: mathematics without scripts, and pages kept elsewhere."""

import html
import os
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

_MATH = re.compile(
    r'<(span|div) class="arithmatex">(?:\\\((?P<inline>.*?)\\\)|\\\[(?P<block>.*?)\\\])</\1>',
    re.DOTALL,
)
# Notebook pages come with a MathJax of their own, from a host that nobody here needs.
_MATHJAX = re.compile(r"<script[^>]*mathjax.*?</script>", re.DOTALL | re.IGNORECASE)


def on_startup(command: str, dirty: bool) -> None:
    """Lets the tutorials, which run in processes of their own, import what lies beside them."""
    del command, dirty
    examples = str(Path(__file__).parents[2] / "examples")
    paths = [examples, os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Turns the LaTeX of a page into MathML, which browsers show by themselves."""
    del page, config
    return _MATH.sub(_as_mathml, _MATHJAX.sub("", output))


def _as_mathml(found: re.Match[str]) -> str:
    inline = found["inline"] is not None
    latex = html.unescape(found["inline"] if inline else found["block"]).strip()
    return convert(latex, display="inline" if inline else "block")
