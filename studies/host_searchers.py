"""Peers that run in Python and ask and tell: pycma and nevergrad, called from a traced loop."""

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from deepzero_jax.types import Key, PyTree

Settings = Mapping[str, Any]


class AskTell(NamedTuple):
    """A search that Python carries out.

    Attributes:
      ask: ``() -> points [n, d]``.
      tell: ``(losses [n])`` of the points that were asked last.
      best: ``() -> the solution so far [d]``.
    """

    ask: Callable[[], np.ndarray]
    tell: Callable[[np.ndarray], None]
    best: Callable[[], np.ndarray]


Kind = Callable[[np.ndarray, int, Settings], AskTell]  # of a start [d], a seed and settings


def pycma(start: np.ndarray, seed: int, settings: Settings) -> AskTell:
    """CMA-ES with a diagonal covariance."""
    from cma import CMAEvolutionStrategy  # pyright: ignore[reportMissingImports]

    options = {"CMA_diagonal": True, "popsize": settings["population"], "seed": seed}
    run = CMAEvolutionStrategy(start, settings["std"], {**options, "verbose": -9})
    points: list[np.ndarray] = []

    def ask() -> np.ndarray:
        points[:] = run.ask()
        return np.stack(points)

    return AskTell(
        ask, lambda losses: run.tell(points, losses.tolist()), lambda: run.result.xfavorite
    )


def nevergrad(start: np.ndarray, seed: int, settings: Settings) -> AskTell:
    """One of nevergrad's optimisers, asked for a point at a time."""
    from nevergrad import optimizers, p  # pyright: ignore[reportMissingImports]

    where = p.Array(init=start).set_mutation(sigma=settings["std"])
    where.random_state.seed(seed)
    run = optimizers.registry[settings["algorithm"]](where, budget=int(settings["budget"]))
    points: list[Any] = []

    def ask() -> np.ndarray:
        points[:] = [run.ask()]
        return points[0].value[None]

    return AskTell(
        ask,
        lambda losses: run.tell(points[0], losses.item()),
        lambda: run.provide_recommendation().value,
    )


_HUGE = 1e30  # told in place of a loss that is not a number
_running: dict[int, AskTell] = {}  # the last ones; a state knows its own by its number
_numbers = itertools.count()
_KEPT = 4


def _begin(
    kind: Kind,
    fixed: Settings,
    start: np.ndarray,
    seed: np.ndarray,
    numbers: Settings,
) -> np.int32:
    number = next(_numbers)
    settings = {**fixed, **{name: float(value) for name, value in numbers.items()}}
    start = np.asarray(start, np.float64)
    _running[number] = kind(start, int(seed) % 2**31 + 1, settings)
    _running.pop(number - _KEPT, None)
    return np.int32(number)


def _ask(number: np.ndarray) -> np.ndarray:
    return np.asarray(_running[int(number)].ask(), np.float32)


def _tell(number: np.ndarray, losses: np.ndarray) -> np.ndarray:
    run, losses = _running[int(number)], np.asarray(losses, np.float64)
    run.tell(np.where(np.isfinite(losses), losses, _HUGE))
    return np.asarray(run.best(), np.float32)


def host_init(
    kind: Kind, key: Key, start: jax.Array, settings: Settings
) -> tuple[jax.Array, jax.Array]:
    """State of a search that Python carries out: its number, and its solution [d].

    Args:
      kind: of the search.
      key: of its random numbers.
      start: of the search.
      settings: of the method; arrays among them may be traced.
    """
    numbers = {name: value for name, value in settings.items() if isinstance(value, jax.Array)}
    fixed = {name: value for name, value in settings.items() if name not in numbers}
    seed = jax.random.bits(key, dtype=jnp.uint32)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    begin = partial(_begin, kind, fixed)
    return io_callback(begin, number, start, seed, numbers, ordered=True), start


def host_step(
    population: int, state: PyTree, evaluate: Callable[[jax.Array], jax.Array]
) -> tuple[PyTree, jax.Array]:
    """Asks, evaluates, tells; the state and the queries asked."""
    number, solution = state
    points = jax.ShapeDtypeStruct((population, solution.size), jnp.float32)
    asked = io_callback(_ask, points, number, ordered=True)
    losses = jax.lax.map(evaluate, asked, batch_size=64)
    solution = io_callback(
        _tell, jax.ShapeDtypeStruct(solution.shape, jnp.float32), number, losses, ordered=True
    )
    return (number, solution), jnp.float32(population)
