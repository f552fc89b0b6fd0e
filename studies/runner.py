"""Runs the cells of a study through train.py, and keeps what each left in its summary."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "studies" / "results"


class Cell(NamedTuple):
    """One run of a study.

    Attributes:
      name: unique in its study; the name of its files.
      config: a file of configs/, without its ending.
      overrides: ``{dotted field: value}``.
      labels: what the table says of it, besides its scores.
    """

    name: str
    config: str
    overrides: dict[str, Any]
    labels: dict[str, Any]

    def arguments(self) -> list[str]:
        """What train.py is called with, the run folder left out."""
        fields = [f"--config.{name}={value}" for name, value in self.overrides.items()]
        return ["--config", f"configs/{self.config}.py", *fields]


def run_study(study: str, cells: Iterable[Cell], runs: Path) -> None:
    """Runs what is missing, one cell after the other; finished ones are skipped.

    An interrupted cell goes on where it was. Each result is a small JSON file in
    ``studies/results/<study>/``: the summary, the command, the commit and the hardware.

    Raises:
      SystemExit: a cell failed; its message is on stderr.
    """
    for cell in cells:
        path = result_path(study, cell)
        if path.exists():
            print(f"{study}/{cell.name}: done", flush=True)
            continue
        workdir = runs / study / cell.name
        print(f"{study}/{cell.name}: python train.py {' '.join(cell.arguments())}", flush=True)
        call = [sys.executable, "train.py", *cell.arguments(), "--workdir", str(workdir)]
        status = subprocess.run(call, cwd=ROOT, check=False).returncode
        if status != 0:
            raise SystemExit(f"{study}/{cell.name} failed with status {status}; see above")
        keep_result(study, cell, json.loads((workdir / "summary.json").read_text()))


def keep_result(study: str, cell: Cell, summary: dict[str, Any]) -> None:
    """Writes the result file of a finished cell."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    content = {
        "labels": cell.labels,
        "command": " ".join(["python train.py", *map(_quoted, cell.arguments())]),
        "commit": commit.stdout.strip() or "unknown",
        "hardware": f"{summary['num_devices']} × {summary['device']}, {os.cpu_count()} cores, "
        f"{platform.machine()}",
        "summary": summary,
    }
    path = result_path(study, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def _quoted(argument: str) -> str:
    return f"'{argument}'" if " " in argument else argument


def result_path(study: str, cell: Cell) -> Path:
    """Where the result of a cell lies."""
    return RESULTS / study / f"{cell.name}.json"


def results(study: str) -> list[dict[str, Any]]:
    """Every result of a study, by name."""
    return [
        {"name": path.stem, **json.loads(path.read_text())}
        for path in sorted((RESULTS / study).glob("*.json"))
    ]


def mean_and_spread(values: list[float]) -> str:
    """Percentages as ``"57.1 ± 0.4 (3)"``: mean, standard deviation, number of runs."""
    if not values:
        return "not run"
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{100 * mean:.2f} (1)"
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return f"{100 * mean:.2f} ± {100 * variance**0.5:.2f} ({len(values)})"
