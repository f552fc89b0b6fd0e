"""Runs the cells of a study through train.py, or computes them, and keeps what each found.

A study is a module with generators of cells: ``Cell`` to be trained, ``Measurement`` to be
computed. Its ``main()`` is ``runner.main(study, generators, description)``: the arguments of the
generators are the options of the command line.
"""

import argparse
import hashlib
import inspect
import json
import platform
import signal
import subprocess
import sys
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from deepzero_jax.applications import PROGRAMS
from deepzero_jax.platform import num_cores
from deepzero_jax.programs import load_record, override
from deepzero_jax.training import Json
from studies.curves import learning_curve, stage_curves

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "studies" / "results"
RUNS = Path("runs/studies")
# Of a program that saved, or that the signal ended before it listened.
_STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM, -signal.SIGINT)


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
    overrides: Json
    labels: Json

    def arguments(self) -> list[str]:
        """What train.py is called with, the run folder left out."""
        fields = [f"--config.{name}={value}" for name, value in self.overrides.items()]
        return ["--config", f"configs/{self.config}.py", *fields]


class Measurement(NamedTuple):
    """One cell of a study that is computed and not trained.

    Attributes:
      name: unique in its study; the name of its file.
      labels: what the table says of it, besides what was measured.
      measure: ``() -> {name: number}``.
    """

    name: str
    labels: Json
    measure: Callable[[], Json]


Generator = Callable[..., Iterable[Cell | Measurement]]


def configured(name: str, overrides: Json) -> typing.Any:
    """A file of configs/, without its ending, with some of its fields changed."""
    config = load_record(ROOT / "configs" / f"{name}.py", PROGRAMS)
    for field, value in overrides.items():
        config = override(config, field, str(value))
    return config


def length_overrides(epochs: float) -> Json:
    """Fields for a run of so many epochs; at most a sixth of them warm up."""
    return {
        "training.num_epochs": f"{epochs:g}",
        "optimizer.warmup_epochs": f"{min(3.0, epochs / 6):g}",
    }


def main(
    study: str,
    generators: Sequence[Generator],
    description: str,
    arguments: Sequence[str] | None = None,
    results: Path | None = None,
) -> None:
    """The command line of a study: an option for each argument of its generators.

    A tuple is written as ``1,2,3``; ``--runs`` says where training runs go.

    Args:
      study: its name.
      generators: of its cells; run in this order.
      description: for ``--help``.
      arguments: in place of those of the process.
      results: folder of the results of all studies; None: ``RESULTS``.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=RUNS)
    names: set[str] = {"runs"}
    for generator in generators:
        hints = typing.get_type_hints(generator)
        for name, parameter in inspect.signature(generator).parameters.items():
            if name not in names:
                names.add(name)
                parse = _parser_of(hints[name])
                parser.add_argument(f"--{name}", type=parse, default=parameter.default)
    options = vars(parser.parse_args(arguments))
    for generator in generators:
        taken = inspect.signature(generator).parameters
        cells = iter(generator(**{name: options[name] for name in taken}))
        while cell := _next(cells, parser):
            if isinstance(cell, Cell):
                run_study(study, [cell], options["runs"], results)
            else:
                run_measurements(study, [cell], results)


def check_known(kind: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raises ValueError for the first name that is none of the known ones."""
    for name in given:
        if name not in known:
            raise ValueError(f"unknown {kind} {name!r} (known: {', '.join(known)})")


def _next(
    cells: Iterator[Cell | Measurement], parser: argparse.ArgumentParser
) -> Cell | Measurement | None:
    # One by one: to name a cell may take as long as to run it.
    try:
        return next(cells, None)
    except (ValueError, KeyError) as error:
        parser.error(str(error))


def _parser_of(kind: type) -> Callable[[str], object]:
    if typing.get_origin(kind) is tuple:
        element = typing.get_args(kind)[0]
        return lambda text: tuple(element(part) for part in text.split(",") if part)
    return kind


def run_study(study: str, cells: Iterable[Cell], runs: Path, results: Path | None = None) -> None:
    """Runs what is missing, one cell after the other; finished ones are skipped.

    An interrupted cell goes on where it was. Each result is a small JSON file in
    ``studies/results/<study>/``: the summary, the command, the commit and the hardware, and the
    accuracies on the way.

    Raises:
      SystemExit: a cell failed; its message is on stderr.
    """
    for cell in cells:
        if _done(study, cell.name, results):
            continue
        workdir = runs / study / cell.name
        print(f"{study}/{cell.name}: python train.py {' '.join(cell.arguments())}", flush=True)
        call = [sys.executable, "train.py", *cell.arguments(), "--workdir", str(workdir)]
        status = run_and_forward_signals(call)
        if status in _STOPPED:
            raise SystemExit(f"{study}/{cell.name} stopped; the same command goes on from there")
        if status != 0:
            raise SystemExit(f"{study}/{cell.name} failed with status {status}; see above")
        summary = json.loads((workdir / "summary.json").read_text())
        command = " ".join(["python train.py", *map(_quoted, cell.arguments())])
        curve = learning_curve(workdir / "metrics.jsonl")
        curves = {"learning_curve": curve, "stages": stage_curves(workdir)}
        keep_result(study, cell.name, cell.labels, command, summary, curves, results)


def run_and_forward_signals(call: list[str]) -> int:
    """Runs a program; its exit status. A SIGTERM goes to the program, which may save first."""
    process = subprocess.Popen(call, cwd=ROOT)
    previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        return process.wait()
    except KeyboardInterrupt:
        return process.wait()  # the terminal has told the program as well
    finally:
        signal.signal(signal.SIGTERM, previous)


def run_measurements(
    study: str, measurements: Iterable[Measurement], results: Path | None = None
) -> None:
    """Computes what is missing; each result is kept as ``run_study`` keeps those of runs."""
    package = "studies" if results is None else results.parent.name
    for name, labels, measure in measurements:
        if _done(study, name, results):
            continue
        print(f"{study}/{name} …", flush=True)
        devices = jax.devices()
        hardware = {"num_devices": len(devices), "device": devices[0].device_kind}
        found = {**measure(), **hardware}
        keep_result(study, name, labels, f"python -m {package}.{study}", found, results=results)
        shown = {key: value for key, value in found.items() if not isinstance(value, list)}
        print(f"{study}/{name}: {shown}", flush=True)


def kept(folder: Path, asked_for: Json, compute: Callable[[], Json]) -> Json:
    """What a part of a measurement found, computed once for what is asked for.

    A study that is interrupted between two parts goes on with the next one.
    """
    digest = hashlib.sha256(json.dumps(asked_for, sort_keys=True).encode()).hexdigest()
    path = folder / f"{digest[:16]}.json"
    if path.exists():
        return json.loads(path.read_text())["found"]
    found = compute()
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps({"asked_for": asked_for, "found": found}, indent=2) + "\n")
    unfinished.rename(path)
    return found


def _done(study: str, name: str, results: Path | None) -> bool:
    done = result_path(study, name, results).exists()
    if done:
        print(f"{study}/{name}: done", flush=True)
    return done


def keep_result(
    study: str,
    name: str,
    labels: Json,
    command: str,
    summary: Json,
    curves: Json | None = None,
    results: Path | None = None,
) -> None:
    """Writes the result file of a finished cell, its curves beside the summary."""
    content = {
        "labels": labels,
        "command": command,
        "commit": _commit(),
        "hardware": f"{summary['num_devices']} × {summary['device']}, "
        f"{num_cores()} {'core' if num_cores() == 1 else 'cores'}, {platform.machine()}",
        "summary": summary,
    }
    content |= {name: curve for name, curve in (curves or {}).items() if curve}
    path = result_path(study, name, results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def _commit() -> str:
    """The commit that is checked out; ``-dirty`` where more than results differ from it."""
    git = lambda *args: subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True)
    found = git("describe", "--always").stdout.strip()
    left_out = (":!studies/results", ":!benchmarks/results")
    differs = git("diff", "--quiet", "HEAD", "--", ".", *left_out).returncode
    return f"{found}-dirty" if found and differs else found or "unknown"


def _quoted(argument: str) -> str:
    return f"'{argument}'" if " " in argument else argument


def result_path(study: str, name: str, results: Path | None = None) -> Path:
    """Where the result of a cell lies."""
    return (results or RESULTS) / study / f"{name}.json"
