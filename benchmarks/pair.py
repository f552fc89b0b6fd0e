"""Times CGE on CPU in two checkouts by turns, leaf by leaf: what a change did to the speed.

git worktree add --detach ../before HEAD~1
python -m benchmarks.pair --before ../before --models cnn1,cnn2

A process for each checkout compiles the step; then they are asked in turn, so that the pace of a
shared machine, which drifts by more than a leaf costs, is the same for both. Of each leaf the
median of the ratios now/before is printed, with the smallest and the largest.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Self

import numpy as np

HERE = Path(__file__).parent.parent
# Of any version of the package: only what has been there from the start is used.
_WORKER = """
import sys, time
import jax, jax.numpy as jnp
import deepzero_jax as dz
from benchmarks.engine import problem
from deepzero_jax.coordinates import first_coordinates, leaf_paths
name, most = sys.argv[1], int(sys.argv[2])
fun, params, args = problem(name)
key = jax.random.key(0)
chosen = jax.tree.map(
    lambda leaf: jax.random.randint(key, (most,), 0, leaf.size, dtype=jnp.int32), params
)
vg = jax.jit(dz.value_and_grad(fun, dz.cge(smoothing=1e-4), has_aux=True))
step = vg.lower(params, *args, coordinates=chosen).compile()
sizes = [leaf.size for leaf in jax.tree.leaves(params)]
print(*[f"{path} {size}" for path, size in zip(leaf_paths(params), sizes)], flush=True)
for line in sys.stdin:
    position, count = map(int, line.split())
    counts = [count if n == position else 0 for n in range(len(sizes))]
    part = first_coordinates(params, chosen, counts)
    jax.block_until_ready(part)
    start = time.perf_counter()
    jax.block_until_ready(step(params, *args, coordinates=part))
    print(time.perf_counter() - start, flush=True)
"""
# Coordinates of a leaf are drawn, with replacement, until they cost so many base passes.
_BASE_PASSES = 4
_MOST = 4096


class Checkout:
    """A process that times steps of one checkout."""

    def __init__(self, folder: Path, model: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, model, str(_MOST)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        words = self._line().split()
        self.leaves = {path: int(size) for path, size in zip(*[iter(words)] * 2, strict=True)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise SystemExit(f"a process ended with {self._process.wait()}; see above")
        return line

    def seconds(self, position: int, count: int) -> float:
        """Of a step with so many coordinates of one leaf and none of the others."""
        assert self._process.stdin is not None
        print(position, count, file=self._process.stdin, flush=True)
        return float(self._line())

    def count(self, position: int) -> int:
        """How many coordinates of a leaf take as long as some base passes."""
        base = min(self.seconds(0, 0) for _ in range(5))
        count = 16
        while count < _MOST and self.seconds(position, count) < (1 + _BASE_PASSES) * base:
            count *= 2
        return count


def compare(before: Path, model: str, every: int, repeats: int) -> None:
    """Prints the ratios leaf by leaf, and that of a dense step of these leaves."""
    print(f"{model}: seconds now / before")
    found, dense = [], np.zeros(2)
    with Checkout(before, model) as old, Checkout(HERE, model) as new:
        both = lambda place, count: np.array([c.seconds(place, count) for c in (new, old)])
        for position, (path, size) in list(enumerate(old.leaves.items()))[::every]:
            count = old.count(position)
            both(position, count)
            # What the leaf adds to the base pass.
            times = [both(position, count) - both(0, 0) for _ in range(repeats)]
            ratios = np.array([now / then for now, then in times])
            found.append(float(np.median(ratios)))
            each = np.median(times, axis=0) / count
            dense += size * each
            line = f"{found[-1]:6.3f}  ({ratios.min():.3f} to {ratios.max():.3f})"
            print(
                f"{path:<30} {line}  {1e3 * each[1]:9.3f} ms a coordinate before, {count}",
                flush=True,
            )
    print(f"dense step {dense[0] / dense[1]:.3f}, median of the leaves {np.median(found):.3f}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, required=True, help="another checkout")
    parser.add_argument("--models", default="cnn1,cnn2,cnn5,resnet20")
    parser.add_argument("--every", type=int, default=1, help="which leaves: every so many")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for model in options.models.split(","):
        compare(options.before.resolve(), model, options.every, options.repeats)


if __name__ == "__main__":
    main()
