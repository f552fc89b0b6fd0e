"""Computes layer-wise pruning ratios.

python prune.py --config configs/resnet20_cifar10.py
"""

import signal
import sys
from collections.abc import Sequence

if __name__ == "__main__":  # until the program listens, Ctrl-C ends it without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from deepzero_jax.applications import prune


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads a record, scores its parameters, writes the ratios, prints a table; the exit status."""
    return prune(arguments, name="prune.py")


if __name__ == "__main__":
    sys.exit(main())
