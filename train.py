"""Trains a network from forward evaluations.

python train.py --config configs/quickstart.py
"""

import sys
from collections.abc import Sequence

from deepzero_jax.applications import train


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads a record, trains or goes on training, reports; the exit status."""
    return train(arguments, name="train.py")


if __name__ == "__main__":
    sys.exit(main())
