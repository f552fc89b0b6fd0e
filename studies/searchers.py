"""Ways to go down a loss that can only be evaluated, ours and our peers', under one contract."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

import deepzero_jax as dz
from deepzero_jax.coordinates import leaf_paths, num_coordinates, valid_length
from deepzero_jax.keys import key_of, words_of
from deepzero_jax.sampling import Sampler, Selection, price_aware_sampler
from deepzero_jax.types import Key, Params, PyTree
from studies.host_searchers import Kind, Settings, host_init, host_step, nevergrad, pycma

Evaluate = Callable[[Params], jax.Array]  # on the batch of the step


class Searcher(NamedTuple):
    """A method with its settings: pure functions.

    Attributes:
      init: ``(key, params) -> state``.
      step: ``(state, key, evaluate, progress) -> (state, queries asked)``; progress from 0 to 1.
      params: ``(state) -> params``, the solution so far.
      queries: of a step, on average.
    """

    init: Callable[[Key, Params], PyTree]
    step: Callable[[PyTree, Key, Evaluate, jax.Array], tuple[PyTree, jax.Array]]
    params: Callable[[PyTree], Params]
    queries: int


class Method(NamedTuple):
    """A way to search, and where its settings are looked for.

    Attributes:
      make: ``(settings, params) -> Searcher``.
      settings: ``{name: (low, high)}`` drawn log-uniformly, ``{name: [choices]}`` uniformly.
      package: that it comes with; None: ours.
    """

    make: Callable[[Settings, Params], Searcher]
    settings: Mapping[str, tuple[float, float] | list[Any]]
    package: str | None = None


class _Descent(NamedTuple):
    """A gradient estimate a step, under Adam or SGD with momentum.

    The rate falls as a cosine, unless the settings say that it stays.
    """

    estimator: dz.Estimator
    sampler: Sampler | None
    settings: Settings

    @property
    def rule(self) -> optax.GradientTransformation:
        return {"adam": optax.scale_by_adam(), "sgd": optax.trace(0.9)}[self.settings["optimizer"]]

    def init(self, key: Key, params: Params) -> PyTree:
        return params, self.rule.init(params), self.sampler.init(key) if self.sampler else ()

    def step(
        self, state: PyTree, key: Key, evaluate: Evaluate, progress: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        params, memory, drawn = state
        vg = dz.value_and_grad(evaluate, self.estimator)
        if self.sampler is None:
            grads = vg(params, key=key)[1]
            asked = jnp.float32(self.estimator.num_queries(num_coordinates(params)))
        else:
            chosen = self.sampler.sample(drawn, jax.random.bits(key, dtype=jnp.uint32))
            grads = vg(params, key=key, coordinates=chosen.coordinates)[1]
            drawn = self.sampler.update(drawn, chosen, grads)
            if chosen.scales is not None:
                grads = jax.tree.map(jnp.multiply, grads, chosen.scales)
            counts = jax.tree.map(valid_length, params, chosen.coordinates)
            base, with_one = map(self.estimator.num_queries, (0, 1))
            asked = base + (with_one - base) * jnp.sum(jnp.stack(jax.tree.leaves(counts)))
        updates, memory = self.rule.update(grads, memory, params)
        rate = self.settings["learning_rate"]
        if self.settings.get("schedule") != "constant":
            rate = rate * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        params = jax.tree.map(lambda leaf, move: leaf - rate * move, params, updates)
        return (params, memory, drawn), asked


def _descent(
    estimator: dz.Estimator, sampler: Sampler | None, queries: int, settings: Settings
) -> Searcher:
    method = _Descent(estimator, sampler, settings)
    return Searcher(method.init, method.step, lambda state: state[0], queries)


# Whole evaluations, subtracted: what a loss gives that can only be queried.
_CGE = dz.cge(smoothing=1e-3, reuse="none", batch_size=64)
# The few coordinates of a leaf would be padded to whole batches.
_CGE_OF_LEAVES = dz.cge(smoothing=1e-3, reuse="none", batch_size=1)


def _dense(settings: Settings, params: Params) -> Searcher:
    return _descent(_CGE, None, _CGE.num_queries(num_coordinates(params)), settings)


def _uniform(settings: Settings, params: Params) -> Searcher:
    """So many coordinates a step, each as likely as any other, whatever its leaf.

    With a setting ``smoothing`` of that step, and two-sided.
    """
    number, size = settings["coordinates"], ravel_pytree(params)[0].size
    estimator = _CGE
    if "smoothing" in settings:
        number = number // 2
        estimator = dz.cge(
            smoothing=settings["smoothing"], central=True, reuse="none", batch_size=64
        )

    def sample(state: PyTree, step: jax.Array) -> Selection:
        key = jax.random.fold_in(key_of(state), step)
        return Selection(jax.random.choice(key, size, (number,), replace=False))

    sampler = Sampler(words_of, sample, lambda state, selection, grads: state)
    queries = estimator.num_queries(number)
    return _on_vectors(_descent(estimator, sampler, queries, settings), params)


def _price_aware(settings: Settings, params: Params) -> Searcher:
    """So many coordinates a step on average, each leaf by its estimates; all cost the same."""
    number = settings["coordinates"]
    costs = dict.fromkeys(leaf_paths(params), 1.0)
    sampler = price_aware_sampler(params, costs, float(number))
    return _descent(_CGE_OF_LEAVES, sampler, 1 + number, settings)


def _directions(central: bool, ranked: bool = False) -> Callable[[Settings, Params], Searcher]:
    def make(settings: Settings, params: Params) -> Searcher:
        number = settings["directions"] // (2 if central else 1)
        estimator = dz.rge(
            smoothing=settings.get("smoothing", 1e-3),
            num_directions=number,
            central=central,
            ranked=ranked,
            reuse="none",
            batch_size=64,
        )
        return _descent(estimator, None, estimator.num_queries(0), settings)

    return make


def _on_vectors(searcher: Searcher, params: Params) -> Searcher:
    """A searcher of one vector, given trees."""
    unravel = ravel_pytree(params)[1]

    def step(
        state: PyTree, key: Key, evaluate: Evaluate, progress: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        return searcher.step(state, key, lambda vector: evaluate(unravel(vector)), progress)

    return Searcher(
        lambda key, start: searcher.init(key, ravel_pytree(start)[0]),
        step,
        lambda state: unravel(searcher.params(state)),
        searcher.queries,
    )


def _evolution(name: str, ranked: bool = True) -> Callable[[Settings, Params], Searcher]:
    """A strategy of evosax; its mean is the solution.

    Args:
      name: of the strategy.
      ranked: losses are ranked, as is its default; otherwise taken as they are.
    """

    def make(settings: Settings, params: Params) -> Searcher:
        from evosax import algorithms  # pyright: ignore[reportMissingImports]
        from evosax.core import fitness_shaping  # pyright: ignore[reportMissingImports]

        number = settings["population"]
        vector = ravel_pytree(params)[0]
        options: dict[str, Any] = {}
        if name == "Open_ES":
            options["optimizer"] = optax.adam(settings["learning_rate"])
            options["std_schedule"] = optax.constant_schedule(settings["std"])
        if not ranked:
            options["fitness_shaping_fn"] = fitness_shaping.identity_fitness_shaping_fn
        strategy = getattr(algorithms, name)(number, jnp.zeros_like(vector), **options)
        given = strategy.default_params
        if name != "Open_ES":
            given = given.replace(std_init=settings["std"])

        def step(
            state: PyTree, key: Key, evaluate: Evaluate, progress: jax.Array
        ) -> tuple[PyTree, jax.Array]:
            asking, telling = jax.random.split(key)
            population, state = strategy.ask(asking, state, given)
            fitness = jax.lax.map(evaluate, population, batch_size=64)
            return strategy.tell(telling, population, fitness, state, given)[0], jnp.float32(number)

        init = lambda key, start: strategy.init(key, start, given)
        return _on_vectors(Searcher(init, step, strategy.get_mean, number), params)

    return make


def _asked_by_host(kind: Kind) -> Callable[[Settings, Params], Searcher]:
    """A method of a package that asks and tells in Python."""

    def make(settings: Settings, params: Params) -> Searcher:
        number = settings.get("population", 1)
        init = lambda key, start: host_init(kind, key, start, settings)
        step = lambda state, key, evaluate, progress: host_step(number, state, evaluate)
        return _on_vectors(Searcher(init, step, lambda state: state[1], number), params)

    return make


_RULE: dict[str, Any] = {"optimizer": ["adam", "sgd"], "learning_rate": (1e-3, 1.0)}
_FEW: dict[str, Any] = {"coordinates": [4, 8, 15, 30, 60], **_RULE}
_DIRECTIONS: dict[str, Any] = {"directions": [4, 8, 16, 32, 64], **_RULE}
# As wide as the peers' populations, and a rate that may stay, as theirs do.
_WIDE: dict[str, Any] = {"smoothing": (0.01, 0.5), "schedule": ["cosine", "constant"]}
_STD = (0.01, 0.5)
_POPULATION: dict[str, Any] = {"population": [8, 16, 32, 64], "std": _STD}
_OPEN_ES: dict[str, Any] = {**_POPULATION, "learning_rate": (1e-3, 0.3)}
# What its search found on the pendulum.
_AT_OPEN_ES: dict[str, Any] = {"population": [8], "std": [0.136], "learning_rate": [0.103]}


def _of_rge(open_es: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of Open ES for RGE, whose losses are ranked as Open ES ranks them, or are not."""
    return {
        "directions": open_es["population"],
        "smoothing": open_es["std"],
        "learning_rate": open_es["learning_rate"],
        "optimizer": ["adam"],
        "schedule": ["constant"],
    }


METHODS: dict[str, Method] = {
    "cge_dense": Method(_dense, _RULE),
    "cge_few": Method(_uniform, _FEW),
    "cge_price_aware": Method(_price_aware, _FEW),
    "cge_wide": Method(_uniform, {**_FEW, **_WIDE}),
    "rge": Method(_directions(False), _DIRECTIONS),
    "rge_antithetic": Method(_directions(True), _DIRECTIONS),
    "rge_wide": Method(_directions(True), {**_DIRECTIONS, **_WIDE}),
    "rge_as_es": Method(_directions(True), _of_rge(_OPEN_ES)),
    "rge_at_es": Method(_directions(True), _of_rge(_AT_OPEN_ES)),
    "rge_ranked": Method(_directions(True, ranked=True), _of_rge(_OPEN_ES)),
    "rge_ranked_at_es": Method(_directions(True, ranked=True), _of_rge(_AT_OPEN_ES)),
    "open_es": Method(_evolution("Open_ES"), _OPEN_ES, "evosax"),
    "open_es_unranked": Method(_evolution("Open_ES", ranked=False), _AT_OPEN_ES, "evosax"),
    "snes": Method(_evolution("SNES"), _POPULATION, "evosax"),
    "sep_cma_es": Method(_evolution("Sep_CMA_ES"), _POPULATION, "evosax"),
    "cma_diagonal": Method(_asked_by_host(pycma), _POPULATION, "cma"),
    "nevergrad": Method(
        _asked_by_host(nevergrad),
        {"std": _STD, "algorithm": ["NGOpt", "TwoPointsDE", "TBPSA", "DiagonalCMA"]},
        "nevergrad",
    ),
}


def present_methods() -> tuple[str, ...]:
    """Names of the methods whose packages are installed."""
    return tuple(
        name
        for name, method in METHODS.items()
        if method.package is None or find_spec(method.package) is not None
    )
