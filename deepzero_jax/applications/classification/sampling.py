"""From a record to the sampler of a run, priced where its rates follow from prices."""

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax

from deepzero_jax.applications.classification.config import interval_steps, parse_budget
from deepzero_jax.applications.classification.experiment import Experiment
from deepzero_jax.applications.classification.ratios import (
    ExpectedPruning,
    expected_pruning,
    find_ratios,
)
from deepzero_jax.bars import bar
from deepzero_jax.coordinates import (
    all_coordinates,
    coordinates_per_leaf,
    kept_per_leaf,
    masked_coordinates,
)
from deepzero_jax.estimators import Loss, estimator_costs
from deepzero_jax.pruning import LayerRatios, load_mask, prune_params
from deepzero_jax.sampling import (
    SAMPLERS,
    PriceAwareState,
    Sampler,
    dense_sampler,
    fixed_sampler,
)
from deepzero_jax.sampling.rates import price_of_a_step
from deepzero_jax.training import (
    Boxes,
    CompiledStep,
    TrainState,
    coordinate_seconds,
    format_seconds,
    step_seconds,
)
from deepzero_jax.types import Log, Params, PyTree

Ratios = LayerRatios | ExpectedPruning


class Chosen(NamedTuple):
    """What ``choose_sampler`` finds.

    Attributes:
      sampler: of coordinates.
      params: parameters to start from.
      num_queries: spent on scoring.
      num_samples: of black boxes, likewise.
    """

    sampler: Sampler
    params: Params
    num_queries: int = 0
    num_samples: int = 0


class Given:
    """What a maker of samplers may ask for, by the names of its arguments; found when asked for.

    Args:
      experiment: of the run.
      find: gives the layer ratios.
    """

    def __init__(self, experiment: Experiment, find: Callable[[], Ratios]) -> None:
        self._experiment, self._find = experiment, find
        self.params = experiment.params
        self.found: Ratios | None = None

    @property
    def file(self) -> Ratios:
        """The layer ratios, and what they cost."""
        if self.found is None:
            self.found = self._find()
        return self.found

    @property
    def ratios(self) -> Mapping[str, float]:
        """``{leaf path: pruned fraction}``."""
        return self.file.ratios

    @property
    def interval(self) -> int:
        """Steps between draws."""
        steps_per_epoch = self._experiment.task.steps_per_epoch
        return interval_steps(self._experiment.config.pruning.mask_interval, steps_per_epoch)

    @cached_property
    def costs(self) -> dict[str, float]:
        """Multiply-adds of one coordinate of each leaf."""
        return experiment_costs(self._experiment)

    @property
    def known_costs(self) -> dict[str, float] | None:
        """``costs``, if they were asked for."""
        return vars(self).get("costs")

    @property
    def budget(self) -> float:
        """Price of a step in multiply-adds; ``measure_prices`` puts seconds in their place."""
        amount, unit = parse_budget(self._experiment.config.sampling.budget)
        if unit == "multiply-adds":
            return amount
        kept = kept_per_leaf(self.params, self.ratios if unit == "layer ratios" else {})
        whole = sum(kept[path] * cost for path, cost in self.costs.items())
        return whole if unit == "seconds" else amount * whole

    def arguments(self, names: Mapping[str, object]) -> dict[str, object]:
        """Those of the named arguments that are known here or are fields of the record."""
        options, found = vars(self._experiment.config.sampling), {}
        for name in names:
            if hasattr(type(self), name) or name == "params":
                found[name] = getattr(self, name)
            elif name in options:
                found[name] = options[name]
        return found


def choose_sampler(experiment: Experiment, workdir: Path, log: Log = print) -> Chosen:
    """The sampler that a record names; scores the parameters if it needs layer ratios.

    Args, Raises: as of ``find_ratios``.
    """
    given = Given(experiment, lambda: find_ratios(experiment, workdir, log))
    sampler, params = _sampler_and_params(experiment, given, workdir)
    if told := unused_pruning(experiment, given):
        log(told)
    if not isinstance(given.found, LayerRatios):
        return Chosen(sampler, params)
    return Chosen(sampler, params, given.found.num_queries, given.found.num_samples)


def expected_sampler(experiment: Experiment, workdir: Path) -> tuple[Sampler, Params, Given]:
    """The sampler that a record names, at the ratios of ``expected_pruning`` if it needs any.

    Nothing is scored, asked or written. What it was made from comes with it.
    """
    given = Given(experiment, lambda: expected_pruning(experiment, workdir))
    return *_sampler_and_params(experiment, given, workdir), given


def unused_pruning(experiment: Experiment, given: Given) -> str | None:
    """Says that a sparsity was set which the sampler, made by now, has not asked for."""
    config = experiment.config
    if config.pruning.sparsity == 0 or given.found is not None:
        return None
    name, budget = config.sampling.name, config.sampling.budget
    spent = f", budget {budget!r}," if name == "price_aware" else ""
    return (
        f"sampling {name}{spent} takes no layer ratios: "
        f"pruning.sparsity={config.pruning.sparsity:g} has no effect"
    )


def _sampler_and_params(
    experiment: Experiment, given: Given, workdir: Path
) -> tuple[Sampler, Params]:
    config, params = experiment.config, experiment.params
    if config.sampling.name == "layer_ratios" and config.pruning.sparsity == 0:
        return dense_sampler(params), params
    if config.pruning.mask == "weights":
        # The mask is written with the ratios.
        mask = getattr(given.file, "mask", None)
        mask = load_mask(workdir / "mask.npz", params) if mask is None else mask
        return fixed_sampler(masked_coordinates(mask)), prune_params(params, mask)
    maker = SAMPLERS[config.sampling.name]
    sampler = maker(**given.arguments(inspect.signature(maker).parameters))
    if not isinstance(sampler, Sampler):
        raise ValueError(
            f"sampler {config.sampling.name!r} must make a deepzero_jax.sampling.Sampler, "
            f"got {type(sampler).__name__}"
        )
    return sampler, params


def experiment_costs(experiment: Experiment) -> dict[str, float]:
    """Multiply-adds of one coordinate of each leaf on a batch, by the experiment's estimator."""
    loss, args = experiment.task.loss, _shapes_of_arguments(experiment)
    return estimator_costs(experiment.estimator, loss, experiment.params, *args, has_aux=True)


def _shapes_of_arguments(experiment: Experiment) -> tuple[PyTree, ...]:
    """The arguments of the loss behind the parameters; of a batch the shapes."""
    task = experiment.task
    batch = jax.eval_shape(task.batch, task.data, jax.random.key(0), jax.numpy.int32(0))
    return (experiment.model_state, *batch)


def seconds_budget(experiment: Experiment, state: TrainState) -> float | None:
    """Seconds that a price-aware step may take; None where its budget is another."""
    budget, unit = parse_budget(experiment.config.sampling.budget)
    is_priced = isinstance(state.sampler_state, PriceAwareState) and unit == "seconds"
    return budget if is_priced else None


def check_seconds(experiment: Experiment, budget: float, empty: float) -> None:
    """Raises ValueError unless the budget is longer than a step without coordinates."""
    if budget <= empty:
        raise ValueError(
            f"sampling.budget {experiment.config.sampling.budget!r} is used up by the base pass, "
            f"which takes {format_seconds(empty)} on this machine; give more"
        )


def check_measurable(experiment: Experiment, workdir: Path) -> None:
    """Raises ValueError where prices would be measured by asking a box that nobody counts.

    Nothing is asked, so that a run and its plan check it before anything else is.
    """
    budget = experiment.config.sampling.budget
    if parse_budget(budget)[1] != "seconds":
        return
    args = _shapes_of_arguments(experiment)
    loss = Loss(experiment.task.loss, args, has_aux=True)
    if not Boxes.of(loss, experiment.params, experiment.estimator).in_loss:
        return
    sampler = expected_sampler(experiment, workdir)[0]
    if isinstance(jax.eval_shape(sampler.init, jax.random.key(0)), PriceAwareState):
        raise ValueError(
            f"sampling.budget {budget!r} would be measured by steps that ask the black box in the "
            'loss beyond the plan; give a share of the dense price, as "10 %"'
        )


def measure_prices(
    experiment: Experiment, step: CompiledStep, state: TrainState, log: Log = print
) -> TrainState:
    """The state with measured seconds for prices, if the budget is one of seconds.

    Args:
      experiment: of the run.
      step: its compiled step.
      state: placed.
      log: takes a line.

    Raises:
      ValueError: a step without any coordinate already takes longer than the budget.
    """
    budget = seconds_budget(experiment, state)
    if budget is None:
        return state
    selection = step.select(state)

    def run(part: PyTree) -> PyTree:
        # Drawing the coordinates is part of a step too.
        moved = selection._replace(coordinates=step.step.place(part))
        return step.select(state), step.run(state, moved)

    log("measuring the price of a coordinate, leaf by leaf …")
    with bar("measuring prices", log):
        empty, seconds = coordinate_seconds(run, state.params, all_coordinates(state.params))
    check_seconds(experiment, budget, empty)
    priced = with_prices(state, seconds, budget - empty)
    # A step is not the sum of its leaves measured one by one: one step of that plan corrects it.
    chosen = step.select(priced).coordinates
    counts = coordinates_per_leaf(state.params, chosen)
    planned = sum(count * seconds[path] for path, count in counts.items())
    estimator, loss = experiment.estimator, step.loss(state)
    measured = step_seconds(run, state.params, chosen, estimator, loss)
    factor = (measured - empty) / planned
    if factor > 0:
        priced = with_prices(state, {k: factor * v for k, v in seconds.items()}, budget - empty)
    return priced


def with_prices(state: TrainState, seconds: Mapping[str, float], budget: float) -> TrainState:
    """The state of a price-aware run with seconds for prices and budget."""
    prices = state.sampler_state._replace(
        costs=jax.numpy.asarray(list(seconds.values()), jax.numpy.float32),
        budget=price_of_a_step(budget),
    )
    return state._replace(sampler_state=prices)
