"""The smoothing of a run, probed once: asked for by ``"auto"``, kept in its folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax

from deepzero_jax.bars import bar
from deepzero_jax.blackbox import box_errors
from deepzero_jax.estimators import Estimator, Probe, check_smoothing, probe_smoothing, with_probe
from deepzero_jax.estimators.probing import MOST_QUERIES
from deepzero_jax.sharding import by_lead
from deepzero_jax.training.boxes import Boxes
from deepzero_jax.training.checkpoint import Checkpointer
from deepzero_jax.training.folder import Json, RunFolderError, read_json, write_json
from deepzero_jax.training.samples import SamplesFile
from deepzero_jax.types import Key, Log, Params

# The field of a record: a step, or to be probed.
RecordSmoothing = float | Literal["auto"]


def check_record_smoothing(smoothing: object) -> None:
    """Raises ValueError unless it is ``"auto"`` or as ``check_smoothing`` wants it."""
    if smoothing != "auto":
        check_smoothing(smoothing)


class Probing(NamedTuple):
    """What was probed before the first step of a run.

    Attributes:
      probe: what was found.
      num_samples: sent to black boxes for it.
    """

    probe: Probe
    num_samples: int = 0

    def estimator(self, make: Callable[[float], Estimator], central: bool = False) -> Estimator:
        """The estimator at the probed smoothing.

        Args:
          make: ``(smoothing) -> estimator``.
          central: whether it takes two-sided differences.
        """
        return with_probe(make(self.probe.step(central)), self.probe)


def find_probe(
    fun: Callable[[Params], jax.Array],
    params: Params,
    key: Key,
    folder: Path,
    log: Log = print,
    config: Json | None = None,
) -> Probing:
    """The probe that a run folder keeps; without one, a loss is probed, and the probe kept.

    Args:
      fun: ``(params) -> loss``, a function of JAX.
      params: to probe at.
      key: consumed.
      folder: of the run.
      log: is told beforehand what is asked, and what was found.
      config: of the run, where the folder may have been begun with another.

    Raises:
      BlackBoxError: a box that gives no answer, or a budget that does not hold the probe.

    **Cost**: at most 60 queries; none where the folder keeps the probe.
    """
    boxes = Boxes.of_call(fun, params)
    by_lead(lambda: SamplesFile(folder / "samples.json")).load(boxes)
    kept = kept_probe(folder, log, config)
    if kept is not None:
        return kept
    boxes.check(MOST_QUERIES)
    samples = boxes.num_samples(MOST_QUERIES)
    asked = f", {samples:,} samples of the black box" if samples else ""
    log(f"probing the smoothing, at most {MOST_QUERIES} queries{asked} …")

    def find() -> tuple[Probing, Sequence[Mapping[str, int | None]]]:
        beside = SamplesFile(folder / "samples.json")
        with box_errors(), beside.of("probing", boxes), bar("probing the smoothing", log):
            probe = probe_smoothing(jax.jit(fun), params, key)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "probe.json", {"config": config, "probe": probe._asdict()})
        return Probing(probe, beside.counts.get("probing", 0)), boxes.dump()

    # One process asks: noise would give each another step.
    probing, counts = by_lead(find)
    boxes.load(counts)
    log(str(probing.probe))
    return probing


def kept_probe(folder: Path, log: Log = print, config: Json | None = None) -> Probing | None:
    """The probe in the newest checkpoint of a run, or that of its config in its folder, or None."""
    progress = None
    if (folder / "checkpoints").is_dir():
        checkpointer = Checkpointer(folder / "checkpoints", log)
        progress = checkpointer.progress()
        checkpointer.close()
    if progress is None or progress.get("probe") is None:
        return by_lead(lambda: _probe_file(folder, config))
    return Probing(Probe(**progress["probe"]), progress["samples"]["probing"])


def _probe_file(folder: Path, config: Json | None) -> Probing | None:
    """A probe that was found before the run had a checkpoint."""
    path = folder / "probe.json"
    content = read_json(path) if path.exists() else {}
    if not content or content.get("config") != config:
        return None
    try:
        probe = Probe(**content["probe"])
    except (KeyError, TypeError) as error:
        raise RunFolderError(f"{path} does not hold a probe; move it away") from error
    return Probing(probe, SamplesFile(folder / "samples.json").counts.get("probing", 0))


def smoothing_in_words(estimator: Estimator, probing: Probing | None) -> str:
    """The smoothing of an estimator, with the error that is expected where it was probed."""
    settings = getattr(estimator, "settings", {})
    central, step = bool(settings.get("central")), settings.get("smoothing")
    if probing is not None:
        probe = probing.probe
        return (
            f"{probe.step(central):.2g}, probed: noise {probe.noise:.2g}, a slope is expected to "
            f"err by {probe.slope_error(central):.2g}"
        )
    return f"{step:g}" if isinstance(step, float) else ""
