"""From a configuration to the sampler of a run, priced where its rates follow from prices."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from configs.experiment import Experiment, interval_steps, parse_budget
from configs.ratios import find_ratios
from deepzero_jax.coordinates import (
    all_coordinates,
    coordinates_per_leaf,
    kept_per_leaf,
    masked_coordinates,
)
from deepzero_jax.estimators import coordinate_costs
from deepzero_jax.estimators.contract import Loss
from deepzero_jax.pruning import prune_params
from deepzero_jax.pruning.report import load_mask
from deepzero_jax.sampling import (
    Sampler,
    block_sampler,
    dense_sampler,
    fixed_sampler,
    layer_ratio_sampler,
    price_aware_sampler,
)
from deepzero_jax.training.plan import coordinate_seconds, format_seconds, step_seconds
from deepzero_jax.training.step import TrainState, TrainStep

PyTree = Any


def choose_sampler(
    experiment: Experiment, workdir: Path, say: Any = print
) -> tuple[Sampler, PyTree, int]:
    """The sampler that a config names; parameters to start from; queries spent on scoring."""
    config, params = experiment.config, experiment.params
    price_aware = config.sampling.name == "price_aware"
    if price_aware and parse_budget(config.sampling.budget)[1] != "layer ratios":
        return _price_aware(experiment), params, 0
    if config.sampling.name == "blocks":
        return block_sampler(params, config.sampling.num_blocks), params, 0
    if config.pruning.sparsity == 0:
        return dense_sampler(params), params, 0
    content = find_ratios(experiment, workdir, say)
    queries = content["num_queries"]
    if price_aware:
        return _price_aware(experiment, content["ratios"]), params, queries
    if config.pruning.mask == "weights":
        mask = load_mask(workdir / "mask.npz", params)
        return fixed_sampler(masked_coordinates(mask)), prune_params(params, mask), queries
    interval = interval_steps(config.pruning.mask_interval, experiment.task.steps_per_epoch)
    sampler = layer_ratio_sampler(params, content["ratios"], interval, config.sampling.unbiased)
    return sampler, params, queries


def experiment_costs(experiment: Experiment) -> dict[str, float]:
    """Multiply-adds of one coordinate of each leaf on a batch of the experiment."""
    task = experiment.task
    batch = jax.eval_shape(task.batch, task.data, jax.random.key(0), jax.numpy.int32(0))
    args = (experiment.model_state, *batch)
    return coordinate_costs(task.loss, experiment.params, *args, has_aux=True)


def _price_aware(experiment: Experiment, ratios: Mapping[str, float] | None = None) -> Sampler:
    """Priced in multiply-adds; ``measure_prices`` puts seconds in their place."""
    params, chosen = experiment.params, experiment.config.sampling
    costs = experiment_costs(experiment)
    amount, unit = parse_budget(chosen.budget)
    if unit != "multiply-adds":
        kept = kept_per_leaf(params, ratios or {})
        whole = sum(kept[path] * cost for path, cost in costs.items())
        amount = whole if unit == "seconds" else amount * whole
    return price_aware_sampler(params, costs, amount, chosen.decay)


def measure_prices(
    experiment: Experiment, step: TrainStep, state: TrainState, say: Any = print
) -> TrainState:
    """The state with measured seconds for prices, if the budget is one of seconds.

    Raises:
      ValueError: a step without any coordinate already takes longer than the budget.
    """
    sampling = experiment.config.sampling
    if sampling.name != "price_aware":
        return state
    budget, unit = parse_budget(sampling.budget)
    if unit != "seconds":
        return state
    say("measuring the price of a coordinate, leaf by leaf …")
    state, data = step.place(state), step.place(experiment.task.data)
    select = jax.jit(step.select)
    selection = select(state)
    advance = jax.jit(step.advance).lower(state, selection, data).compile()

    def run(part: PyTree) -> PyTree:
        # Drawing the coordinates is part of a step too.
        moved = selection._replace(coordinates=step.place(part))
        return select(state), advance(state, moved, data)

    empty, seconds = coordinate_seconds(run, state.params, all_coordinates(state.params))
    if budget <= empty:
        raise ValueError(
            f"sampling.budget {sampling.budget!r} is used up by the base pass, which takes "
            f"{format_seconds(empty)} on this machine; give more"
        )
    priced = _with_prices(state, seconds, budget - empty)
    # A step is not the sum of its leaves measured one by one: one step of that plan corrects it.
    chosen = select(priced).coordinates
    counts = coordinates_per_leaf(state.params, chosen)
    planned = sum(count * seconds[path] for path, count in counts.items())
    loss = Loss(experiment.task.loss, jax.eval_shape(step.batch, state, data), has_aux=True)
    measured = step_seconds(run, state.params, chosen, experiment.estimator, loss)
    factor = (measured - empty) / planned
    if factor > 0:
        priced = _with_prices(state, {k: factor * v for k, v in seconds.items()}, budget - empty)
    return priced


def _with_prices(state: TrainState, seconds: Mapping[str, float], budget: float) -> TrainState:
    """The state of a price-aware run with seconds for prices and budget."""
    prices = state.sampler_state._replace(
        costs=jax.numpy.asarray(list(seconds.values()), jax.numpy.float32),
        budget=jax.numpy.float32(budget),
    )
    return state._replace(sampler_state=prices)
