"""What the processes of a run have counted, added up."""

import secrets
from collections.abc import Mapping, Sequence

from deepzero_jax.sharding import is_lead, sums_of
from deepzero_jax.training.boxes import Boxes
from deepzero_jax.training.folder import Json
from deepzero_jax.training.samples import Samples

Counts = Mapping[str, int]


class Together:
    """Adds to the counts of this process what the others have counted since they met last.

    Between two meetings a process knows of the others what it was told at the first. So that
    nothing is lost where they do not meet again, there are two things to write down: the counts
    of all as the lead knows them, with what it was told, and what each of the others has counted.

    Args:
      boxes: of the run, the same in all processes.
      samples: of the run.
    """

    def __init__(self, boxes: Boxes, samples: Samples) -> None:
        self._boxes, self._samples = boxes, samples
        self._session = 0
        self.begin()

    def begin(self) -> None:
        """From now on counts are those of all processes, as a checkpoint gave them."""
        self._first = [self._samples.dump(), *(box.counts() for box in self._boxes.samples)]
        self._own_first = self._own_now()
        self._brought = self._told = [dict.fromkeys(counts, 0) for counts in self._first]

    def begin_session(self) -> None:
        """What is written from now on belongs together; all processes must call it."""
        (self._session,) = sums_of([secrets.randbits(48) if is_lead() else 0])

    def _own_now(self) -> list[dict[str, int]]:
        return [self._samples.dump_own(), *(box.own_counts() for box in self._boxes.samples)]

    def _own(self) -> list[dict[str, int]]:
        return minus(self._own_now(), self._own_first)

    @property
    def own(self) -> Json:
        """What this process has counted itself since they began, from any thread."""
        return {"session": self._session, "own": self._own()}

    @property
    def of_all(self) -> Json:
        """The counts as this process knows them, from any thread."""
        told = self._told  # once, as they may meet now
        samples, *boxes = plus(plus(self._first, told), self._own())
        pairs = zip(self._boxes.samples, boxes, strict=True)
        found = {"samples": samples, "boxes": [{**n, "budget": box.budget} for box, n in pairs]}
        return {**found, "session": self._session, "told": told} if self._session else found

    def meet(self, more: Counts) -> dict[str, int]:
        """The sums of other counts; all processes must call it."""
        if not self._boxes.samples:  # asked by the lead alone, if at all
            return dict(more)
        own = self._own()
        groups = [more, *minus(own, self._brought)]
        sums = iter(sums_of([count for group in groups for count in group.values()]))
        found, *of_all = [{name: next(sums) for name in group} for group in groups]
        of_others = minus(of_all, groups[1:])
        self._brought, self._told = own, plus(self._told, of_others)
        self._samples.add(of_others[0])
        for box, counts in zip(self._boxes.samples, of_others[1:], strict=True):
            box.add_counts(counts)
        return found


def plus(groups: Sequence[Counts], more: Sequence[Counts]) -> list[dict[str, int]]:
    """Sums of counts, name by name; what the first have besides, they keep."""
    return [
        {**counts, **{name: counts[name] + count for name, count in added.items()}}
        for counts, added in zip(groups, more, strict=True)
    ]


def minus(groups: Sequence[Counts], less: Sequence[Counts]) -> list[dict[str, int]]:
    """Differences of counts, name by name."""
    return [
        {name: count - taken[name] for name, count in counts.items()}
        for counts, taken in zip(groups, less, strict=True)
    ]
