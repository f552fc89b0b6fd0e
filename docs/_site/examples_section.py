"""Reads ``Example:`` in a docstring as griffe reads ``Examples:``, with its doctest highlighted."""

import re
from typing import Any

import griffe


class ExamplesSection(griffe.Extension):
    """Renames the section before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called once for every module, class, function and attribute."""
        del kwargs
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )
