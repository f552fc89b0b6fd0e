"""Times imports in fresh processes, in turn: ``python -m benchmarks.imports``.

Each line of the table is the median of seven processes; the programs' part is what the lazy
subpackages add.
"""

import statistics
import subprocess
import sys
from pathlib import Path

STATEMENTS = (
    "import jax",
    "import jax, flax, optax",
    "import deepzero_jax",
    "import deepzero_jax, deepzero_jax.models, deepzero_jax.data",
    "import deepzero_jax, deepzero_jax.training",
    "import deepzero_jax, deepzero_jax.applications",
)
# What a user of the library alone has no need of; a column says whether it is loaded.
HEAVY = ("flax", "optax", "orbax", "scipy", "sklearn", "matplotlib", "tensorboardX", "chex")
REPEATS = 7


def measure(statement: str) -> tuple[float, list[str]]:
    """Seconds of an import in a fresh process, and which heavy packages it has loaded."""
    program = (
        "import time, sys; start = time.perf_counter()\n"
        f"{statement}\n"
        f"print(time.perf_counter() - start, *[n for n in {HEAVY} if n in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    ).stdout.split()
    return float(output[0]), output[1:]


def main() -> None:
    """Prints the table."""
    runs: dict[str, list[tuple[float, list[str]]]] = {name: [] for name in STATEMENTS}
    for statement in STATEMENTS:  # byte code and file caches
        measure(statement)
    for _ in range(REPEATS):
        for statement in STATEMENTS:
            runs[statement].append(measure(statement))
    print("| statement | seconds, median of 7 | fastest, slowest | loads |")
    print("|---|---|---|---|")
    for statement, found in runs.items():
        seconds = [run[0] for run in found]
        loaded = ", ".join(found[0][1]) or "–"
        print(
            f"| `{statement}` | {statistics.median(seconds):.2f} "
            f"| {min(seconds):.2f}, {max(seconds):.2f} | {loaded} |"
        )


if __name__ == "__main__":
    main()
