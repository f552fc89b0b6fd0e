"""What a run counts as it goes: queries, seconds, the best score."""

import math
import time
from collections.abc import Mapping

import jax

from deepzero_jax.blackbox import samples_sent, samples_unanswered
from deepzero_jax.estimators import slopes_dropped
from deepzero_jax.training.boxes import Boxes
from deepzero_jax.training.folder import Json, RunFolderError
from deepzero_jax.training.probing import Probing
from deepzero_jax.training.samples import Samples
from deepzero_jax.training.together import Together

_EVALUATION = ("evaluated", "scores", "best", "unanswered")


class Progress:
    """Counters that a checkpoint holds beside the state.

    Attributes:
      num_queries: evaluations of the loss on a batch, those for pruning included.
      wall_seconds: of all sessions of the run, up to the last ``dump``.
      best: ``{"value": …, "step": …}`` of the best evaluation, empty before the first.
      evaluated: the step of the last evaluation.
      scores: what it found.
      unanswered: samples of it that boxes which may drop them left without an answer.
      samples: sent to black boxes, by purpose.
      probe: that the smoothing follows from, or None.
      num_dropped: slopes that fell to samples without an answer, of boxes that may drop them.
      num_unanswered: those samples.

    What the run's black boxes have counted is kept with them.
    """

    def __init__(
        self,
        initial_queries: int,
        boxes: Boxes,
        initial_samples: Mapping[str, int] | None = None,
        probing: Probing | None = None,
    ) -> None:
        self._boxes = boxes
        spent = dict(initial_samples or {})
        self.probe = None
        self.num_queries = initial_queries
        if probing is not None:
            self.probe = dict(probing.probe._asdict())
            self.num_queries += probing.probe.num_queries
            spent["probing"] = max(probing.num_samples, spent.get("probing", 0))
        self.wall_seconds = 0.0
        self.best: Json = {}
        self.evaluated = 0
        self.scores: dict[str, float] = {}
        self.unanswered = 0
        self.samples = Samples(spent)
        self._together = Together(boxes, self.samples)
        self.num_dropped = self.num_unanswered = 0
        self._since = time.perf_counter()
        self._evaluation: Json = {}

    def load(self, saved: Json) -> None:
        """Takes over what a checkpoint holds.

        Raises:
          RunFolderError: another probe than the smoothing was taken from.
        """
        if saved.get("probe") != self.probe:
            raise RunFolderError(
                "the newest checkpoint that is whole holds another probed smoothing than the one "
                "that was damaged; give the same command again"
            )
        self.num_queries = saved["num_queries"]
        self.wall_seconds = saved["wall_seconds"]
        self.best = saved["best"]
        self.evaluated = saved["evaluated"]
        self.scores = saved["scores"]
        self.unanswered = saved.get("unanswered", 0)
        self.num_dropped = saved.get("num_dropped", 0)
        self.num_unanswered = saved.get("num_unanswered", 0)
        self.samples.load(saved.get("samples", {}))
        self._boxes.load(saved.get("boxes", ()))
        self._together.begin()
        self._keep_evaluation()

    def load_asked(self, asked: Json, step: int) -> None:
        """Takes over what was asked after the checkpoint of a step, as ``asked`` had it.

        Raises:
          KeyError, TypeError, AttributeError: something else.
        """
        now = self.samples.dump()
        later = {name: max(now[name], asked["samples"].get(name, 0)) for name in now}
        self._boxes.load(asked["boxes"])
        # An evaluation that failed, and was caught up when the run went on.
        if self.evaluated < asked.get("evaluated", 0) <= step:
            self.evaluated, self.best = asked["evaluated"], asked["best"]
            # JSON has no NaN.
            numbers = asked["scores"].items()
            self.scores = {n: math.nan if v is None else v for n, v in numbers}
            self.unanswered = asked.get("unanswered", 0)
            self._keep_evaluation()
        self.samples.load(later)
        self._together.begin()

    def begin_session(self) -> None:
        """Once all processes have loaded and before they ask; all must call it."""
        self._together.begin_session()

    def meet(self) -> None:
        """Adds what the other processes have counted; all must call it."""
        self._together.meet({})

    def _keep_evaluation(self) -> None:
        self._evaluation = {name: getattr(self, name) for name in _EVALUATION}

    def dump(self) -> Json:
        """What a checkpoint is to hold."""
        now = time.perf_counter()
        self.wall_seconds += now - self._since
        self._since = now
        self._keep_evaluation()
        return {
            "num_queries": self.num_queries,
            "wall_seconds": self.wall_seconds,
            **self._evaluation,
            "probe": self.probe,
            "num_dropped": self.num_dropped,
            "num_unanswered": self.num_unanswered,
            "samples": self.samples.dump(),
            "boxes": self._boxes.dump(),
        }

    @property
    def asked(self) -> Json:
        """What can change after the checkpoint of a step: what is asked, from any thread.

        The last evaluation is that of the last ``dump``, whose state is kept.
        """
        return {**self._together.of_all, **self._evaluation}

    @property
    def own(self) -> Json:
        """What this process has asked itself, from any thread, where it is not the lead."""
        return self._together.own

    @property
    def has_boxes(self) -> bool:
        """Whether the run has black boxes."""
        return bool(self._boxes.samples)

    @property
    def may_drop(self) -> bool:
        """Whether a box may leave samples without an answer."""
        return any(box.options.on_failure == "nan" for box in self._boxes.samples)

    def of_host(self, before: Mapping[str, int] | None = None) -> dict[str, int]:
        """What is counted on the host, or with ``before`` what has come to it since.

        With ``before`` all processes must call it; then it adds up what each has counted.

        Returns:
          ``box_samples``, sent to black boxes, ``num_unanswered`` of them, and ``num_dropped``
          slopes; only where there are boxes for them, as a line of the metrics tells it.
        """
        if self.may_drop:
            jax.effects_barrier()  # a count may come in after the numbers of its step
        now = {
            "box_samples": samples_sent(),
            "num_dropped": slopes_dropped(),
            "num_unanswered": samples_unanswered(),
        }
        if before is None:
            return now
        since = {name: count - before[name] for name, count in now.items()}
        since = self._together.meet(since)
        self.num_dropped += since["num_dropped"]
        self.num_unanswered += since["num_unanswered"]
        told = {"box_samples": since["box_samples"] > 0}
        return {name: count for name, count in since.items() if told.get(name, self.may_drop)}
