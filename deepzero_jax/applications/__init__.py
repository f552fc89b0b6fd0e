"""Problems with their fields, their program and their parts; the commands that run them."""

from deepzero_jax.applications.commands import PROGRAMS, prune, train

__all__ = ["PROGRAMS", "prune", "train"]
