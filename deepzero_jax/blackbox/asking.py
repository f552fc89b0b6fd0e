"""The samples of one call, sent in pieces; one that fails is cut smaller, one refused is not.

A refusal (``RetryLaterError``) is of the host and of the moment: nothing more is sent until the
time that it names, and it is no failure of the samples: they are given up where the host refuses,
with no answer in between, more often than there are retries.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from deepzero_jax.blackbox.answers import Outputs
from deepzero_jax.blackbox.counters import Counters
from deepzero_jax.blackbox.engines import (
    Call,
    Calls,
    Cancelled,
    Engine,
    Kept,
    NoAnswerInTimeError,
)
from deepzero_jax.blackbox.errors import (
    BlackBoxError,
    RetryLaterError,
    WrongAnswerError,
    in_words,
)
from deepzero_jax.blackbox.options import Options
from deepzero_jax.blackbox.pieces import Piece, with_probes
from deepzero_jax.blackbox.stopping import Stops
from deepzero_jax.types import PyTree

# So many failures in a row, with no answer before them, may be an outage: the round ends. Where
# failures are answered by NaN it is one after at least so many rounds.
_OUTAGE, _OUTAGE_ROUNDS = 4, 4
# Seconds that an endpoint may ask to be left alone.
_LONGEST_PAUSE = 600.0


class Pause:
    """Until when a host function has asked to be left alone, by whichever call of its box."""

    def __init__(self) -> None:
        self._end = 0.0

    def extend(self, seconds: float) -> None:
        """Lets it last at least so long from now."""
        self._end = max(self._end, time.monotonic() + seconds)

    @property
    def remaining(self) -> float:
        """Seconds, below 0 when it is over."""
        return self._end - time.monotonic()


# Flat arrays [n, …] -> the arguments of the host function for some of their rows.
Arguments = Callable[[np.ndarray], tuple[PyTree, ...]]


@dataclass
class _Left:
    """What a round leaves.

    Attributes:
      again: pieces for the next round.
      lost: pieces that have failed too often.
      refused: whether the host function has asked to be asked later.
      answered: whether anything came.
    """

    again: list[Piece]
    lost: list[Piece]
    refused: bool
    answered: bool


class Asking:
    """The answers to samples, in rounds: what a round leaves open goes into the next.

    Args:
      host_fn: of the box.
      outputs: its declared answer.
      options: of the box.
      counters: of the box.
      engine: what runs its calls.
      pause: of the box: nothing is sent before its end.
    """

    def __init__(
        self,
        host_fn: Callable[..., PyTree],
        outputs: Outputs,
        options: Options,
        counters: Counters,
        engine: Engine,
        pause: Pause,
    ) -> None:
        self._host_fn, self._outputs, self._options = Kept(host_fn), outputs, options
        self._counters, self._engine = counters, engine
        self._reason, self._number, self._size = "", 0, 0
        self._pause, self._has_answers, self._stops = pause, False, Stops()

    def answers(self, arguments: Arguments, count: int) -> list[np.ndarray]:
        """The answers to ``count`` samples: a leaf [count, *shape] for each output.

        Raises:
          BlackBoxError: a sample without an answer (with ``on_failure="raise"``), a budget
            that does not hold the samples, or answers that do not fit the declared ones.
          AskingStoppedError: as of ``stop_asking_when``.
        """
        self._stops.check_begin()
        self._counters.check(count)
        answers = self._outputs.empty(count)
        todo = self._first_pieces(count)
        dry = in_a_row = 0
        while todo:
            backoff = 0.0
            if in_a_row:
                self._stops.check_again(self._reason)
                backoff = self._options.backoff * 2.0 ** min(in_a_row - 1, 16)
            self._stops.wait(max(backoff, self._pause.remaining), self._reason)
            left = self._round(todo, arguments, answers)
            in_a_row = 1 if left.refused and left.answered else in_a_row + 1
            todo, lost = left.again, left.lost
            self._has_answers |= left.answered
            dry = 0 if left.answered else dry + 1
            if dry and self._options.on_failure == "nan" and not left.refused:
                todo = with_probes(todo, _OUTAGE)
            if dry >= self._enough_rounds(left.refused):
                todo, lost = [], lost + todo
            self._give_up(lost, answers, in_a_row)
        return answers

    @property
    def _takes_its_time(self) -> bool:
        """Whether every sample is tried by itself, however many fail: the box does answer."""
        return self._has_answers and self._options.on_failure == "nan"

    def _enough_rounds(self, refused: bool) -> float:
        """After so many without an answer the box is taken for gone."""
        rounds = self._options.retries + 1
        if refused or self._options.on_failure == "raise":
            return rounds
        return float("inf") if self._takes_its_time else max(rounds, _OUTAGE_ROUNDS)

    def _first_pieces(self, count: int) -> list[Piece]:
        size = self._options.max_batch or count
        size = size if self._options.batched else 1
        rows = np.arange(count)
        return [Piece(rows[start : start + size]) for start in range(0, count, max(size, 1))]

    def _round(self, todo: list[Piece], arguments: Arguments, answers: list[np.ndarray]) -> _Left:
        """One round; no further call of it begins after a refusal, or for what will be given up."""
        fetched: dict[int, int] = {}
        streak, stopped = 0, False

        again: list[Piece] = []
        lost: list[Piece] = []
        refused: list[Piece] = []

        def calls() -> Iterator[Call]:
            for position, piece in enumerate(todo):
                if stopped or ((again or refused) and self._stops.asked):
                    return
                fetched[position] = self._counters.send(len(piece.rows))
                yield position, arguments(piece.rows)

        answered = False
        open_pieces = dict(enumerate(todo))
        take_back = lambda position: self._counters.take_back(len(todo[position].rows))
        whole = Calls(calls(), take_back)
        with closing(self._engine.run(self._host_fn, whole, self._options.timeout)) as outcomes:
            for position, outcome in outcomes:
                piece = open_pieces.pop(position)
                failed, some = self._take(piece, outcome, fetched[position], answers)
                answered |= some
                streak = 0 if answered or self._takes_its_time else streak + 1
                if isinstance(outcome, RetryLaterError):
                    refused += failed
                else:
                    self._sort(failed, again, lost)
                if lost and self._options.on_failure == "raise":
                    break
                stopped = bool(refused) or streak >= _OUTAGE
        again += open_pieces.values()
        (again if self._options.retries else lost).extend(refused)
        return _Left(again, lost, bool(refused), answered)

    def _sort(self, pieces: Sequence[Piece], again: list[Piece], lost: list[Piece]) -> None:
        for piece in pieces:
            (lost if piece.failures > self._options.retries else again).append(piece)

    def _take(
        self, piece: Piece, outcome: PyTree, number: int, answers: list[np.ndarray]
    ) -> tuple[list[Piece], bool]:
        """Keeps the answers of a piece; the parts that have none, and whether others have."""
        if isinstance(outcome, Cancelled):
            self._counters.take_back(len(piece.rows))
            return [piece], True
        count = len(piece.rows)
        if isinstance(outcome, BaseException):
            if not isinstance(outcome, Exception):
                raise outcome
            if isinstance(outcome, BlackBoxError):
                raise outcome
            return self._failed(piece, outcome, number), False
        try:
            values, usable = self._outputs.converted(
                outcome, count if self._options.batched else None
            )
        except WrongAnswerError as error:
            raise BlackBoxError(
                f"call {number:,} of the black box, with {_samples(count)}: {error}"
            ) from None
        for room, value in zip(answers, values, strict=True):
            room[piece.rows[usable]] = value[usable]
        num_usable = int(usable.sum())
        self._counters.add(num_answered=num_usable)
        if num_usable == count:
            return [], True
        self._note(f"{count - num_usable:,} of {count:,} answers are not finite", number, count)
        return [Piece(piece.rows[~usable], piece.failures).failed()], num_usable > 0

    def _failed(self, piece: Piece, error: Exception, number: int) -> list[Piece]:
        self._note(in_words(error), number, len(piece.rows))
        if isinstance(error, NoAnswerInTimeError):
            self._note(str(error), number, len(piece.rows))
            self._counters.add(num_abandoned=1)
        if isinstance(error, RetryLaterError):
            self._hold_back(error.retry_after or 0.0, number)
            return [piece]  # smaller calls would burden the host
        if len(piece.rows) == 1 or not self._options.retries:
            return [piece.failed()]
        return piece.parts()

    def _hold_back(self, seconds: float, number: int) -> None:
        if seconds > _LONGEST_PAUSE:
            raise BlackBoxError(
                f"call {number:,} of the black box is to be tried again after {seconds:,.0f} "
                f"s, more than {_LONGEST_PAUSE:g}: {self._reason}"
            )
        self._pause.extend(seconds)

    def _note(self, reason: str, number: int, size: int) -> None:
        self._reason, self._number, self._size = reason, number, size

    def _give_up(self, lost: Sequence[Piece], answers: list[np.ndarray], in_a_row: int) -> None:
        if not lost:
            return
        if self._options.on_failure == "nan":
            rows = np.concatenate([piece.rows for piece in lost])
            for room in answers:
                room[rows] = np.nan
            self._counters.drop(len(rows))
            return
        often = f" {in_a_row} times in a row; the last time" if in_a_row > 1 else ""
        raise BlackBoxError(
            f"call {self._number:,} of the black box, with {_samples(self._size)}, failed"
            f"{often}: {self._reason}"
        )


def _samples(count: int) -> str:
    return f"{count:,} sample{'s' if count != 1 else ''}"
