"""What the compiler must be told before it starts."""

import os
import re

import jaxlib

_FLAG = "--xla_cpu_experimental_ynn_fusion_type="


def avoid_wrong_cpu_fusions() -> None:
    """Turns off a CPU fusion of jaxlib 0.10 that computes wrong numbers.

    Its sums of products over more than 128 rows of a batch are wrong from row 128 on:
    ``jnp.sum(a * jnp.expm1(x), 2)`` under jit, ``a`` [256, 10], ``x`` [180, 256, 10]. jaxlib
    0.11 is right. The flag is left alone where XLA_FLAGS names it already, and has no
    effect in a process that has computed before this package is imported.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    affected = re.match(r"0\.10\.", jaxlib.__version__) is not None
    if affected and "xla_cpu_experimental_ynn_fusion_type" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}".strip()
