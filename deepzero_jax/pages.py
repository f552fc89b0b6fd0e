"""Where the documentation explains an error."""

from typing import Literal

# Of the site; mkdocs.yml and pyproject.toml have the same address.
SITE = "https://deepzero-jax.readthedocs.io/en/stable/"
_ERRORS = "explanation/errors/"

Section = Literal["nnx", "not-arrays", "integer-leaves", "key", "mesh", "flat", "no-derivative"]


def see(section: Section) -> str:
    """The end of a message: the section of the page "Common errors".

    Example:
      >>> see("key")
      ' (see https://deepzero-jax.readthedocs.io/en/stable/explanation/errors/#key)'
    """
    return f" (see {SITE}{_ERRORS}#{section})"
