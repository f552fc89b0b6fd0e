"""What a run counts as it goes: queries, seconds, the best score."""

import time
from collections.abc import Mapping

from deepzero_jax.training.boxes import Boxes
from deepzero_jax.training.folder import Json
from deepzero_jax.training.samples import Samples


class Progress:
    """Counters that a checkpoint holds beside the state.

    Attributes:
      num_queries: evaluations of the loss on a batch, those for pruning included.
      wall_seconds: of all sessions of the run, up to the last ``dump``.
      best: ``{"value": …, "step": …}`` of the best evaluation, empty before the first.
      evaluated: the step of the last evaluation.
      scores: what it found.
      samples: sent to black boxes, by purpose.

    What the run's black boxes have counted is kept with them.
    """

    def __init__(
        self,
        initial_queries: int,
        boxes: Boxes,
        initial_samples: Mapping[str, int] | None = None,
    ) -> None:
        self._boxes = boxes
        self.num_queries = initial_queries
        self.wall_seconds = 0.0
        self.best: Json = {}
        self.evaluated = 0
        self.scores: dict[str, float] = {}
        self.samples = Samples(initial_samples)
        self._since = time.perf_counter()

    def load(self, saved: Json) -> None:
        """Takes over what a checkpoint holds."""
        self.num_queries = saved["num_queries"]
        self.wall_seconds = saved["wall_seconds"]
        self.best = saved["best"]
        self.evaluated = saved["evaluated"]
        self.scores = saved["scores"]
        self.samples.load(saved.get("samples", {}))
        self._boxes.load(saved.get("boxes", ()))

    def dump(self) -> Json:
        """What a checkpoint is to hold."""
        now = time.perf_counter()
        self.wall_seconds += now - self._since
        self._since = now
        return {
            "num_queries": self.num_queries,
            "wall_seconds": self.wall_seconds,
            "best": self.best,
            "evaluated": self.evaluated,
            "scores": self.scores,
            "samples": self.samples.dump(),
            "boxes": self._boxes.dump(),
        }
