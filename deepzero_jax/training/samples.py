"""What a run sends to black boxes, by what it is for."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from deepzero_jax.blackbox import samples_sent, watch_counts
from deepzero_jax.sharding import is_lead
from deepzero_jax.training.boxes import Boxes
from deepzero_jax.training.folder import Json, read_json
from deepzero_jax.training.live import LiveJson

Purpose = Literal["training", "evaluation", "pruning", "probing"]
PURPOSES: tuple[Purpose, ...] = ("training", "evaluation", "pruning", "probing")
_NO_BOXES = Boxes({})


class Samples:
    """Counts the samples that the boxes of this process are sent, those of each purpose apart.

    From when it is made, all are for training, but for those inside ``of``. Safe to look at from
    threads.

    Args:
      spent: sent before, by purpose.
    """

    def __init__(self, spent: Mapping[str, int] | None = None) -> None:
        self._counts: dict[str, int] = {**dict.fromkeys(PURPOSES, 0), **(spent or {})}
        self._elsewhere: dict[str, int] = dict.fromkeys(self._counts, 0)
        self._purpose: Purpose = "training"
        self._since = samples_sent()
        self._lock = threading.RLock()

    @contextmanager
    def of(self, purpose: Purpose) -> Iterator[None]:
        """Counts what is sent inside for another purpose."""
        before = self._turn_to(purpose)
        try:
            yield
        finally:
            self._turn_to(before)

    def _turn_to(self, purpose: Purpose) -> Purpose:
        with self._lock:
            self.dump()
            before, self._purpose = self._purpose, purpose
            return before

    def load(self, saved: Mapping[str, int]) -> None:
        """Takes over what a checkpoint holds."""
        with self._lock:
            self._counts.update(saved)
            self._since = samples_sent()

    def add(self, counts: Mapping[str, int]) -> None:
        """Adds what was sent elsewhere, in another process."""
        with self._lock:
            for purpose, count in counts.items():
                self._counts[purpose] += count
                self._elsewhere[purpose] += count

    def dump(self) -> dict[str, int]:
        """The counts until now."""
        with self._lock:
            now = samples_sent()
            self._counts[self._purpose] += now - self._since
            self._since = now
            return dict(self._counts)

    def dump_own(self) -> dict[str, int]:
        """The counts until now without what ``add`` has added."""
        with self._lock:
            return {name: count - self._elsewhere[name] for name, count in self.dump().items()}

    def __getitem__(self, purpose: Purpose) -> int:
        """Samples for one purpose until now."""
        return self.dump()[purpose]


class SamplesFile:
    """Counts what parts of a program send outside its training loops, in a file that follows.

    A process that is killed inside a part leaves in it what the part has sent.

    Args:
      path: of a JSON object ``{part: samples}``, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: Json = read_json(path) if path.exists() else {}

    @property
    def counts(self) -> dict[str, int]:
        """``{part: samples}``, of all processes that have worked in the folder."""
        return {part: count for part, count in self._kept.items() if isinstance(count, int)}

    def load(self, boxes: Boxes) -> None:
        """Has boxes count what all of these processes have asked them, as their budgets do."""
        boxes.load(self._kept.get("boxes", ()))

    @contextmanager
    def of(self, part: str, boxes: Boxes = _NO_BOXES) -> Iterator[None]:
        """Adds what is sent inside; its results must be there at the end.

        Args:
          part: any name.
          boxes: that are asked, the same for all parts. What they have counted is kept too, and
            what an earlier process has asked them is part of their budgets.
        """
        self.load(boxes)
        before, first = samples_sent(), self._kept.get(part, 0)

        def counted() -> Json:
            found = {"boxes": boxes.dump()} if boxes.samples else {}
            self._kept = {**self._kept, part: first + samples_sent() - before, **found}
            return self._kept

        live = LiveJson(self._path, counted)
        try:
            with watch_counts(live.update if is_lead() else counted):
                yield
        finally:
            if samples_sent() > before and is_lead():
                live.save()
            live.close()
