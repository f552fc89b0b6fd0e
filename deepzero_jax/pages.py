"""Where the documentation explains an error."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

# Of the site; mkdocs.yml and pyproject.toml have the same address.
SITE = "https://deepzero-jax.readthedocs.io/en/stable/"
_ERRORS = "explanation/errors/"

Section = Literal[
    "nnx", "numpy", "not-arrays", "integer-leaves", "key", "mesh", "flat", "no-derivative"
]


def see(section: Section) -> str:
    """The end of a message: the section of the page "Common errors".

    Example:
      >>> see("key")
      ' (see https://deepzero-jax.readthedocs.io/en/stable/explanation/errors/#key)'
    """
    return f" (see {SITE}{_ERRORS}#{section})"


# By the names of errors, which Flax is not loaded for and JAX keeps to itself.
_BOX = (
    "what needs numbers in place of traced arrays (NumPy, PyTorch, float(), anything outside of "
    f"JAX) is a black box: dz.black_box(function, shape of its answer){see('numpy')}"
)
_NOTES = {
    "TraceContextError": f"split the model outside the loss, merge a copy inside{see('nnx')}",
    "TracerArrayConversionError": _BOX,
    "TracerBoolConversionError": "what depends on the value of a traced array takes jnp.where or "
    f"jax.lax.cond in place of if and while; {_BOX}",
    "TracerIntegerConversionError": _BOX,
    "ConcretizationTypeError": _BOX,
    "ShardingTypeError": "an array that is split over explicit mesh axes must reach the loss as "
    "an argument, value_and_grad(loss, …)(params, array), and not from outside",
}

# What other libraries say of a traced array, and JAX of what they return.
_FOREIGN = {
    "AttributeError": re.compile(r"Tracer\b.* attribute '?__"),
    "TypeError": re.compile(r"Tracer\b|not a valid JAX type"),
}


def _note(error: Exception) -> str | None:
    names = [kind.__name__ for kind in type(error).__mro__]  # its own first
    note = next((_NOTES[name] for name in names if name in _NOTES), None)
    foreign = _FOREIGN.get(names[0])
    return _BOX if note is None and foreign and foreign.search(str(error)) else note


@contextmanager
def explained() -> Iterator[None]:
    """Adds a note to what is raised of a function that JAX cannot trace."""
    try:
        yield
    except Exception as error:
        note = _note(error)
        if note and note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        raise
