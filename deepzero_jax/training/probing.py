"""The smoothing of a run, probed once: asked for by ``"auto"``, kept in its checkpoints."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax

from deepzero_jax.bars import bar
from deepzero_jax.blackbox import box_errors, boxes_asked
from deepzero_jax.estimators import Estimator, Probe, check_smoothing, probe_smoothing, with_probe
from deepzero_jax.estimators.probing import MOST_QUERIES
from deepzero_jax.sharding import by_lead
from deepzero_jax.training.boxes import Boxes
from deepzero_jax.training.checkpoint import Checkpointer
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
) -> Probing:
    """The probe in the newest checkpoint of a run; without one, a loss is probed.

    Args:
      fun: ``(params) -> loss``, a function of JAX.
      params: to probe at.
      key: consumed.
      folder: of the run.
      log: is told beforehand what is asked, and what was found.

    Raises:
      BlackBoxError: a box that gives no answer, or a budget that does not hold the probe.

    **Cost**: at most 60 queries; none where a checkpoint holds the probe.
    """
    kept = kept_probe(folder, log)
    if kept is not None:
        return kept
    boxes = Boxes(boxes_asked(jax.make_jaxpr(fun)(params).jaxpr.eqns))
    by_lead(lambda: SamplesFile(folder / "samples.json")).load(boxes)
    boxes.check(MOST_QUERIES)
    samples = boxes.num_samples(MOST_QUERIES)
    asked = f", {samples:,} samples of the black box" if samples else ""
    log(f"probing the smoothing, at most {MOST_QUERIES} queries{asked} …")

    def find() -> tuple[Probing, Sequence[Mapping[str, int | None]]]:
        beside = SamplesFile(folder / "samples.json")
        with box_errors(), beside.of("probing", boxes), bar("probing the smoothing", log):
            probe = probe_smoothing(jax.jit(fun), params, key)
        return Probing(probe, beside.counts.get("probing", 0)), boxes.dump()

    # One process asks: noise would give each another step.
    probing, counts = by_lead(find)
    boxes.load(counts)
    log(str(probing.probe))
    return probing


def kept_probe(folder: Path, log: Log = print) -> Probing | None:
    """The probe in the newest checkpoint of a run, or None."""
    if not (folder / "checkpoints").is_dir():
        return None
    checkpointer = Checkpointer(folder / "checkpoints", log)
    progress = checkpointer.progress()
    checkpointer.close()
    if progress is None or progress.get("probe") is None:
        return None
    return Probing(Probe(**progress["probe"]), progress["samples"]["probing"])


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
