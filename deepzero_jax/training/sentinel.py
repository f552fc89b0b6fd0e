"""Outlives a process of a run, and says which peer was lost if that is what ended it.

JAX aborts a process whose coordinator is gone, without running any Python. This program, started
by ``PeerWatch`` from its file, imports nothing but the standard library.
"""

import sys
import time
from pathlib import Path


def lost_message(index: int, count: int, silent: float) -> str:
    """What a person needs to know about process ``index``."""
    return (
        f"process {index} of {count} has been silent for {silent:.0f} s: it is lost. Give every "
        "process the same command again; the run goes on from its last checkpoint"
    )


def read_beat(folder: Path, index: int) -> str:
    """The last beat of a process, empty if it never beat."""
    try:
        return (folder / str(index)).read_text()
    except OSError:
        return ""


def main(folder: Path, index: int, count: int, patience: float) -> None:
    """Waits for the end of standard input, that is of the process; silence means it was cut off."""
    if sys.stdin.read():
        return
    before = [read_beat(folder, i) for i in range(count)]
    time.sleep(patience)
    for i in range(count):
        if i != index and read_beat(folder, i) == before[i] != "finished":
            print(f"train.py: {lost_message(i, count, patience)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
