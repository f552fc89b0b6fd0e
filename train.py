"""Trains a network from forward evaluations.

python train.py --config configs/quickstart.py
"""

import signal
import sys
from collections.abc import Sequence

if __name__ == "__main__":  # until the program listens, Ctrl-C ends it without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from deepzero_jax.applications import train


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads a record, trains or goes on training, reports; the exit status."""
    return train(arguments, name="train.py")


if __name__ == "__main__":
    sys.exit(main())
