"""What a run sends to black boxes, by what it is for."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from deepzero_jax.blackbox import samples_sent
from deepzero_jax.training.folder import read_json, write_json

Purpose = Literal["training", "evaluation", "pruning", "probing"]
PURPOSES: tuple[Purpose, ...] = ("training", "evaluation", "pruning", "probing")


class Samples:
    """Counts the samples that the boxes of this process are sent, those of each purpose apart.

    From when it is made, all are for training, but for those inside ``of``.

    Args:
      spent: sent before, by purpose.
    """

    def __init__(self, spent: Mapping[str, int] | None = None) -> None:
        self._counts: dict[str, int] = {**dict.fromkeys(PURPOSES, 0), **(spent or {})}
        self._purpose: Purpose = "training"
        self._since = samples_sent()

    @contextmanager
    def of(self, purpose: Purpose) -> Iterator[None]:
        """Counts what is sent inside for another purpose."""
        self.dump()
        before, self._purpose = self._purpose, purpose
        try:
            yield
        finally:
            self.dump()
            self._purpose = before

    def load(self, saved: Mapping[str, int]) -> None:
        """Takes over what a checkpoint holds."""
        self._counts.update(saved)
        self._since = samples_sent()

    def dump(self) -> dict[str, int]:
        """The counts until now."""
        now = samples_sent()
        self._counts[self._purpose] += now - self._since
        self._since = now
        return dict(self._counts)

    def __getitem__(self, purpose: Purpose) -> int:
        """Samples for one purpose until now."""
        return self.dump()[purpose]


class SamplesFile:
    """Counts what parts of a program send beside its training runs, in a file.

    Args:
      path: of a JSON object ``{part: samples}``, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def counts(self) -> dict[str, int]:
        """``{part: samples}``, of all processes that have worked in the folder."""
        return read_json(self._path) if self._path.exists() else {}

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Adds what is sent inside; its results must be there at the end."""
        before = samples_sent()
        try:
            yield
        finally:
            sent, counts = samples_sent() - before, self.counts
            if sent:
                write_json(self._path, {**counts, part: counts.get(part, 0) + sent})
