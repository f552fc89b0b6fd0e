"""Outlives a process of a run, and says which peer was lost if that is what ended it.

JAX aborts a process whose coordinator is gone, without running any Python. This program, started
by ``PeerWatch`` from its file, imports nothing but the standard library.
"""

import sys
import time
from pathlib import Path

BEAT = 2.0  # seconds


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


def lost_first(folder: Path, before: list[str], index: int) -> list[int]:
    """Processes that have not beaten since ``before``; of several, those that fell silent first.

    JAX aborts the others soon after the coordinator is gone: they are not the cause.

    Args:
      folder: of the beats.
      before: beats some time ago.
      index: of the process that asks.
    """
    silent = {}
    for other, beat in enumerate(before):
        if other != index and read_beat(folder, other) == beat != "finished":
            path = folder / str(other)
            silent[other] = path.stat().st_mtime if path.exists() else 0.0
    earliest = min(silent.values(), default=0.0)
    return [other for other, since in silent.items() if since < earliest + BEAT]


def main(folder: Path, index: int, count: int, patience: float) -> None:
    """Waits for the end of standard input, that is of the process; silence means it was cut off."""
    if sys.stdin.read():
        return
    before = [read_beat(folder, i) for i in range(count)]
    time.sleep(patience)
    for i in lost_first(folder, before, index):
        print(f"train.py: {lost_message(i, count, patience)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
