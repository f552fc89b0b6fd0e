"""What the programs keep between runs, and can make again."""

import os
from pathlib import Path

import jax


def cache_folder() -> Path:
    """Where it lies: ``~/.cache/deepzero_jax``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepzero_jax"


def use_compilation_cache(folder: Path | None = None) -> None:
    """Keeps compiled programs between runs, unless JAX is already told where to.

    Args:
      folder: where to; None: ``cache_folder()``.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(folder or cache_folder()))
        # A run compiles many small programs, which add up to seconds.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
