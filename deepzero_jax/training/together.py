"""What the processes of a run have counted, added up."""

from collections.abc import Mapping

from deepzero_jax.sharding import sums_of
from deepzero_jax.training.boxes import Boxes
from deepzero_jax.training.samples import Samples


class Together:
    """Adds to the counts of this process what the others have counted since they met last.

    Between two meetings a process knows of the others what it was told at the first.

    Args:
      boxes: of the run, the same in all processes.
      samples: of the run.
    """

    def __init__(self, boxes: Boxes, samples: Samples) -> None:
        self._boxes, self._samples = boxes, samples
        self.begin()

    def begin(self) -> None:
        """From now on counts are those of all processes, as a checkpoint gave them."""
        self._met = self._now()

    def _now(self) -> list[Mapping[str, int]]:
        return [self._samples.dump(), *(box.counts() for box in self._boxes.samples)]

    def meet(self, more: Mapping[str, int]) -> dict[str, int]:
        """The sums of other counts; all processes must call it."""
        if not self._boxes.samples:  # asked by the lead alone, if at all
            return dict(more)
        now = self._now()
        own = [
            {name: count - before[name] for name, count in counts.items()}
            for counts, before in zip(now, self._met, strict=True)
        ]
        sums = iter(sums_of([count for group in (more, *own) for count in group.values()]))
        found = {name: next(sums) for name in more}
        of_others = [{name: next(sums) - count for name, count in group.items()} for group in own]
        self._samples.add(of_others[0])
        for box, counts in zip(self._boxes.samples, of_others[1:], strict=True):
            box.add_counts(counts)
        self._met = [
            {name: count + others[name] for name, count in counts.items()}
            for counts, others in zip(now, of_others, strict=True)
        ]
        return found
