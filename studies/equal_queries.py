"""Which way of asking gets furthest with the same number of queries, ours beside peers'.

python -m studies.equal_queries --problems digits_mlp,pendulum,solver_ks --seeds 0,1,2

Peers come with ``pip install -e ".[peers]"``. The settings of each method are the best of as many
random ones, judged by the validation score of one run each; then every seed is run with them, and
its last solution judged once by the test score. Each of these runs is kept in the folder of the
runs when it ends: the same command after an interruption goes on with the next one.
"""

import gc
import itertools
import zlib
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.training import Json
from deepzero_jax.types import PyTree
from studies.problems import problem
from studies.runner import RUNS, Measurement, check_known, kept, main
from studies.searchers import METHODS, Searcher, present_methods

STUDY = "equal_queries"
BUDGETS: dict[str, tuple[int, ...]] = {
    "digits_mlp": (30_000, 120_000),
    "quickstart_cnn": (100_000,),
    "cifar_cnn": (15_625,),  # a million images
    "pendulum": (20_000,),
    "solver_ks": (30_000,),
}
TRIALS = 12
_POINTS = 20  # of a curve
_TUNING_SEED = 1000


def drawn_settings(method: str, trial: int) -> Json:
    """The settings of one trial, the same for every problem and budget."""
    rng = np.random.default_rng([zlib.crc32(method.encode()), trial])
    found: Json = {}
    for name, where in METHODS[method].settings.items():
        if isinstance(where, list):
            found[name] = where[rng.integers(len(where))]
        else:
            low, high = np.log(where)
            found[name] = float(f"{np.exp(rng.uniform(low, high)):.3g}")
    return found


class _Search:
    """A method on a problem; what stands in ``fixed`` is compiled in, numbers are given."""

    def __init__(self, name: str, method: str, fixed: tuple[tuple[str, object], ...]) -> None:
        self.on, self._method, self._fixed = problem(name), method, dict(fixed)
        self._start = jax.eval_shape(self.on.init, jax.random.key(0))
        self.begin = jax.jit(lambda key, params, numbers: self.of(numbers).init(key, params))
        self.advance = jax.jit(self._advance)
        self.score = {part: jax.jit(partial(self._score, part)) for part in self.on.scores}

    def of(self, numbers: Json) -> Searcher:
        """With these settings."""
        start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self._start)
        return METHODS[self._method].make({**self._fixed, **numbers}, start)

    def _score(self, part: str, state: PyTree, numbers: Json) -> jax.Array:
        return self.on.scores[part](self.of(numbers).params(state))

    def _advance(
        self, state: PyTree, key: jax.Array, steps: tuple[int, int, int], numbers: Json
    ) -> PyTree:
        """From the first step up to the last of so many; the state, and the queries asked."""
        searcher, (first, last, every) = self.of(numbers), steps

        def step(i: jax.Array, carried: PyTree) -> PyTree:
            state, asked = carried
            batch, own = jax.random.split(jax.random.fold_in(key, i))
            evaluate = lambda params: self.on.loss(params, batch)
            state, more = searcher.step(state, own, evaluate, i / every)
            return state, asked + more

        return jax.lax.fori_loop(first, last, step, (state, jnp.float32(0)))


@lru_cache(maxsize=1)
def _made(name: str, method: str, fixed: tuple[tuple[str, object], ...]) -> _Search:
    # Programs of methods that were compiled before stay in memory otherwise: 10 GB in an hour.
    jax.clear_caches()
    gc.collect()
    return _Search(name, method, fixed)


def search(name: str, method: str, settings: Json, budget: int, seed: int) -> Json:
    """Runs a method on a problem until its queries are spent.

    Returns:
      ``queries`` and ``validation``, point by point; ``test`` of the last; what was ``asked``.
    """
    numbers = {key: value for key, value in settings.items() if isinstance(value, float)}
    fixed = tuple((key, value) for key, value in settings.items() if key not in numbers)
    numbers["budget"] = float(budget)
    run = _made(name, method, fixed)
    num_steps = max(1, budget // run.of(numbers).queries)
    keys = jax.random.split(jax.random.key(seed), 3)
    state, asked = run.begin(keys[1], run.on.init(keys[0]), numbers), 0.0
    queries, validation = [], []
    edges = np.linspace(0, num_steps, min(_POINTS, num_steps) + 1).astype(int).tolist()
    for first, last in itertools.pairwise(edges):
        state, more = run.advance(state, keys[2], (first, last, num_steps), numbers)
        asked += float(more)
        queries.append(int(asked))
        validation.append(round(float(run.score["validation"](state, numbers)), 6))
    test = round(float(run.score["test"](state, numbers)), 6)
    return {"queries": queries, "validation": validation, "asked": int(asked), "test": test}


def compare(name: str, method: str, budget: int, seeds: tuple[int, ...], runs: Path) -> Json:
    """Finds the settings of a method, and runs every seed with them.

    Settings that are drawn twice are tried once; what a run found is kept in a folder.
    """

    def searched(settings: Json, seed: int) -> Json:
        asked_for = {"problem": name, "method": method, "budget": budget}
        asked_for |= {"settings": settings, "seed": seed}
        return kept(runs, asked_for, lambda: search(name, method, settings, budget, seed))

    trials: list[Json] = []
    for trial in range(TRIALS):
        settings = drawn_settings(method, trial)
        if any(tried["settings"] == settings for tried in trials):
            continue
        found = searched(settings, _TUNING_SEED)["validation"][-1]
        trials.append({"settings": settings, "validation": found})
    # What is not a number has diverged.
    best = max(trials, key=lambda t: (np.isfinite(t["validation"]), t["validation"]))["settings"]
    of_seeds = [searched(best, seed) for seed in seeds]
    scores = [run["test"] for run in of_seeds]
    return {
        "settings": best,
        "test": round(float(np.mean(scores)), 6),
        "test_of_seeds": scores,
        "runs": of_seeds,
        "trials": trials,
        "unit": problem(name).unit,
    }


def measurements(
    problems: tuple[str, ...] = ("digits_mlp", "pendulum", "solver_ks"),
    methods: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (0, 1, 2),
    runs: Path = RUNS,
) -> Iterator[Measurement]:
    """A cell for each problem, budget and method; without methods, all that are installed.

    Raises:
      ValueError: an unknown problem or method.
    """
    check_known("problem", problems, BUDGETS)
    check_known("method", methods, METHODS)
    for name in problems:
        for budget in BUDGETS[name]:
            for method in methods or present_methods():
                labels = {"problem": name, "budget": budget, "method": method}
                cell = f"{name}-{budget}-{method}"
                measure = partial(compare, name, method, budget, seeds, runs / STUDY / cell)
                yield Measurement(cell, labels, measure)


if __name__ == "__main__":
    main(STUDY, (measurements,), __doc__ or "")
