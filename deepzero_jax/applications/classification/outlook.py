"""What a run would take, told without running it: nothing is scored, asked, written or compiled.

A step is priced by multiply-adds and a few timed leaves; ratios that are not there yet are those
of random scores.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax

from deepzero_jax.applications.classification.experiment import (
    Experiment,
    at_probe,
    at_stand_in,
    needs_probe,
    optimizer_and_schedule,
)
from deepzero_jax.applications.classification.ratios import ExpectedPruning
from deepzero_jax.applications.classification.sampling import (
    Given,
    Ratios,
    check_measurable,
    check_seconds,
    expected_sampler,
    seconds_budget,
    unused_pruning,
    with_prices,
)
from deepzero_jax.applications.classification.scoring import Scoring
from deepzero_jax.applications.classification.unused import unused_settings
from deepzero_jax.bars import bar, format_seconds
from deepzero_jax.blackbox import BlackBox
from deepzero_jax.coordinates import kept_per_leaf
from deepzero_jax.cost import multiply_adds
from deepzero_jax.estimators import estimator_costs, rge, value_and_grad
from deepzero_jax.estimators.pricing import loss_multiply_adds
from deepzero_jax.estimators.probing import MOST_QUERIES
from deepzero_jax.programs import identity
from deepzero_jax.training import (
    About,
    Boxes,
    Forecast,
    Plan,
    Probing,
    TrainState,
    TrainStep,
    expected_counts,
    expected_plan,
    forecast,
    kept_probe,
)
from deepzero_jax.training.boxes import check_budgets
from deepzero_jax.types import Log

DAY = 24 * 3600.0
# Records that finish on a CPU, and what their docstrings say of it.
SHORT_RECORDS = {
    "configs/quickstart.py": "9 s on two CPU cores",
    "configs/cnn_cifar10.py": "30 epochs, 39 min on one core",
}


class Outlook(NamedTuple):
    """A plan, and what its numbers mean.

    Attributes:
      plan: of the run.
      multiply_adds: of a step; None where nobody has counted them.
    """

    plan: Plan
    multiply_adds: float | None

    def __str__(self) -> str:
        """The plan, and a few lines where it is longer than anybody waits."""
        return "\n".join([str(self.plan), *self._meaning()])

    def _meaning(self) -> list[str]:
        seconds, steps = self.plan.seconds, self.plan.num_steps
        if seconds is None or seconds < DAY:
            return []
        device = jax.devices()[0].device_kind
        lines = [
            f"this means    {format_seconds(seconds)} of this machine ({device}), day and night"
        ]
        if self.multiply_adds is not None:
            whole = self.multiply_adds * steps
            lines += [
                f"              {whole:.2g} multiply-adds ({self.multiply_adds:.2g} a step), at "
                f"{whole / seconds:.2g} a second here;",
                f"              a device that sustains {whole / DAY:.2g} a second, "
                f"{seconds / DAY:.0f} times as many, takes a day",
                "              (no GPU or TPU has been measured)",
            ]
        short = [f"{name} ({words})" for name, words in SHORT_RECORDS.items()]
        return [*lines, f"finish here   {', '.join(short)}"]


def plan_run(experiment: Experiment, workdir: Path, log: Log = print) -> Outlook:
    """Says what a run will take.

    Args:
      experiment: of the run.
      workdir: the run folder, whose ratios and probe count where they are there.
      log: takes a line.

    Raises:
      ValueError: settings that the run would refuse too, where that is seen without running it.

    **Cost**: a few steps on a part of their coordinates; none where a black box would be asked.
    """
    check_measurable(experiment, workdir)
    probing = _kept_probe(experiment, workdir)
    experiment = at_probe(experiment, probing) if probing else at_stand_in(experiment)
    step, state, boxes, given = _expected_step(experiment, workdir)
    found, costs = None, _costs(step, state, given.known_costs)
    counts = _counts(experiment, step, state, given.found)
    if not boxes.samples:
        with bar("timing a few leaves of a step", log):
            found = forecast(step, state, counts, costs)
        if (budget := seconds_budget(experiment, state)) is not None:
            state = _priced_in_seconds(experiment, state, found, budget)
            counts = expected_counts(step, state)
    pruning = given.found if isinstance(given.found, ExpectedPruning) else None
    samples = {"pruning": pruning.num_samples} if pruning and pruning.is_done else {}
    queries = pruning.num_queries if pruning else 0
    about = About(experiment.num_steps, queries, experiment.evaluation_interval, samples, probing)
    plan = expected_plan(step, state, counts, about, found)
    plan = plan._replace(unused=unused_settings(experiment.config))
    if pruning:
        plan = plan._replace(pruning=_pruning_in_words(experiment, pruning, found))
    if told := unused_pruning(experiment, given):
        plan = plan._replace(pruning=[told])
    if probing is None and needs_probe(experiment):
        plan = plan._replace(smoothing=_probe_in_words(boxes))
    return Outlook(plan, _multiply_adds(step, state, counts, costs))


def _kept_probe(experiment: Experiment, workdir: Path) -> Probing | None:
    if experiment.config.estimator.smoothing != "auto":
        return None
    return kept_probe(workdir, config=identity(experiment.config))


def _expected_step(
    experiment: Experiment, workdir: Path
) -> tuple[TrainStep, TrainState, Boxes, Given]:
    """The step of a run and its state, what it asks, and what the sampler was made from."""
    sampler, params, given = expected_sampler(experiment, workdir)
    optimizer, _ = optimizer_and_schedule(experiment)
    step = TrainStep(experiment.task, experiment.estimator, optimizer, sampler, experiment.mesh)
    state = step.place(step.init(experiment.key("run"), params, experiment.model_state))
    boxes = Boxes.of(step.loss(state, step.task.data), state.params, step.estimator)
    return step, state, boxes, given


def check_affordable(experiment: Experiment, workdir: Path, boxes: Boxes) -> None:
    """Checks the budgets of boxes for a run that is to be probed or scored before its first step.

    Nothing is asked; a run that has both behind it looks itself before each step.

    Raises:
      BlackBoxError: a budget that does not hold the probe, the scores and one step.
    """
    if all(box.budget is None for box in boxes.samples):
        return
    step, state, of_step, given = _expected_step(experiment, workdir)
    wanted: Counter[BlackBox] = Counter()
    if needs_probe(experiment) and _kept_probe(experiment, workdir) is None:
        wanted.update(boxes.sent(MOST_QUERIES))
    if isinstance(given.found, ExpectedPruning) and not given.found.is_done:
        scoring = Scoring.of(experiment)
        wanted.update(scoring.boxes.sent(scoring.num_queries))
    if any(wanted.values()):
        counts = _counts(experiment, step, state, given.found)
        wanted.update(of_step.sent(step.estimator.num_queries(sum(counts.values()))))
        check_budgets(wanted, "up to the end of its first step the run sends")


def _counts(
    experiment: Experiment, step: TrainStep, state: TrainState, found: Ratios | None
) -> dict[str, int]:
    """``{leaf path: coordinates of a step}``; drawing them only to count them would be compiled."""
    config = experiment.config
    at_ratios = config.sampling.name == "layer_ratios" and not config.sampling.unbiased
    if at_ratios and config.pruning.mask != "weights":
        return kept_per_leaf(state.params, found.ratios if found else {})
    return expected_counts(step, state)


def _costs(
    step: TrainStep, state: TrainState, known: Mapping[str, float] | None
) -> Mapping[str, float]:
    """Prices of coordinates in multiply-adds; nothing is run."""
    if step.estimator.chunk_sizes is None:
        return {}
    if known is not None:
        return known
    loss = step.loss(state, step.task.data)
    return estimator_costs(step.estimator, loss.fun, state.params, *loss.args, has_aux=True)


def _multiply_adds(
    step: TrainStep, state: TrainState, counts: Mapping[str, int], costs: Mapping[str, float]
) -> float | None:
    loss = step.loss(state, step.task.data)
    base = loss_multiply_adds(loss, state.params)
    if costs:
        return base + sum(count * costs[path] for path, count in counts.items())
    settings = getattr(step.estimator, "settings", {})
    if "num_directions" not in settings:
        return None
    # On one device: a dense difference takes two products for each one of the loss.
    vg = value_and_grad(loss.fun, rge(**settings), has_aux=True)
    call = lambda params, *args: vg(params, *args, key=jax.random.key(0))
    return float(multiply_adds(call, state.params, *loss.args))


def _priced_in_seconds(
    experiment: Experiment, state: TrainState, found: Forecast, budget: float
) -> TrainState:
    """The state with estimated seconds for prices."""
    check_seconds(experiment, budget, found.base.likely)
    prices = {path: max(seconds.likely, 1e-9) for path, seconds in found.leaves.items()}
    return with_prices(state, prices, budget - found.base.likely)


def _pruning_in_words(
    experiment: Experiment, pruning: ExpectedPruning, found: Forecast | None
) -> list[str]:
    scores = experiment.config.pruning.scores
    if pruning.is_done:
        return ["layer ratios of the run folder"]
    told = f"{scores} is scored before the first step"
    if pruning.num_queries:
        told += f": {pruning.num_queries:,} queries"
        told += f", {pruning.num_samples:,} samples of the black box" if pruning.num_samples else ""
        if found is not None:
            share = pruning.num_images / experiment.config.data.batch_size
            told += f", about {format_seconds(pruning.num_queries * found.query * share)}"
    if scores == "random":
        return [told]
    return [
        told,
        "until then the ratios here are those of random scores, the same for every layer;",
        "scores that keep more of the first, dearer layers make a step longer",
    ]


def _probe_in_words(boxes: Boxes) -> str:
    samples = MOST_QUERIES * sum(boxes.samples.values())
    asked = f", {samples:,} samples of the black box" if samples else ""
    return f"to be probed before the first step, by at most {MOST_QUERIES} queries more{asked}"
