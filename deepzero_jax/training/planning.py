"""The plan of a run, printed before it starts: what a step costs, measured on a few chunks."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import jax
import numpy as np

from deepzero_jax.bars import format_seconds
from deepzero_jax.coordinates import coordinates_per_leaf, leaf_paths, num_coordinates
from deepzero_jax.sampling import Spending
from deepzero_jax.training.boxes import Boxes
from deepzero_jax.training.forecasting import Forecast
from deepzero_jax.training.lengths import Lengths
from deepzero_jax.training.probing import Probing, smoothing_in_words
from deepzero_jax.training.step import CompiledStep, TrainState, TrainStep
from deepzero_jax.training.timing import step_seconds
from deepzero_jax.types import PyTree


class LeafPlan(NamedTuple):
    """Coordinates of one leaf.

    Attributes:
      path: leaf path.
      shape: of the leaf.
      num_coordinates: perturbed in a step.
      spending: price, rate and share of the step, where the sampler knows them.
    """

    path: str
    shape: tuple[int, ...]
    num_coordinates: int
    spending: Spending | None = None


class Plan(NamedTuple):
    """What a run will cost.

    Attributes:
      leaves: coordinates, leaf by leaf.
      num_parameters: of the model.
      queries_per_step: evaluations of the loss on a batch.
      num_steps: of the whole run.
      extra_queries: spent once, before the first step.
      seconds_per_step: measured on a sample of its chunks and extrapolated, or estimated from
        some leaves; None where that would ask a black box.
      compile_seconds: spent on compiling the step; None where it was not compiled.
      most_queries_per_step: of the largest draw, where draws differ.
      samples_per_step: that a step of the first draw sends to black boxes, at most: a coordinate
        that does not move the inputs of a box asks nothing of it.
      most_samples_per_step: likewise of the largest draw, where draws differ.
      samples_per_evaluation: likewise of an evaluation; None where nobody knows.
      num_evaluations: of the whole run.
      initial_samples: that black boxes were sent before the first step, by purpose.
      probe_queries: spent on the smoothing, before the first step.
      smoothing: in words, with the error that is expected of a slope where it was probed.
      estimated: in words, how the time was estimated; "" where it was measured.
      spread: seconds of a step, least and most, where they are estimated.
      pruning: in words, what scoring is still to take, and where the ratios come from.
      unused: in words, settings of the record that have no effect.
    """

    leaves: list[LeafPlan]
    num_parameters: int
    queries_per_step: int
    num_steps: int
    extra_queries: int
    seconds_per_step: float | None
    compile_seconds: float | None
    most_queries_per_step: int = 0
    samples_per_step: int = 0
    most_samples_per_step: int = 0
    samples_per_evaluation: int | None = 0
    num_evaluations: int = 0
    initial_samples: Mapping[str, int] = MappingProxyType({})
    probe_queries: int = 0
    smoothing: str = ""
    estimated: str = ""
    spread: tuple[float, float] | None = None
    pruning: Sequence[str] = ()
    unused: Sequence[str] = ()

    def __str__(self) -> str:
        """The plan as a table and a few lines."""
        width = max((len(leaf.path) for leaf in self.leaves), default=4)
        chosen = sum(leaf.num_coordinates for leaf in self.leaves)
        priced = any(leaf.spending for leaf in self.leaves)
        columns = f"  {'price':>9}  {'rate':>6}  {'share':>6}" if priced else ""
        lines = [f"{'leaf':<{width}}  {'shape':>14}  {'coordinates':>16}{columns}"]
        for leaf in self.leaves:
            size = int(np.prod(leaf.shape))
            shape = "×".join(map(str, leaf.shape)) or "scalar"
            taken = f"{leaf.num_coordinates:,} of {size:,}"
            line = f"{leaf.path:<{width}}  {shape:>14}  {taken:>16}"
            if leaf.spending:
                price, rate, share = leaf.spending
                line += f"  {price:>9.3g}  {rate:>6.3f}  {100 * share:>4.1f} %"
            lines.append(line)
        before = self.extra_queries + self.probe_queries
        total = self.queries_per_step * self.num_steps + before
        about = "about " if self.most_queries_per_step > self.queries_per_step else ""
        lines += [
            f"parameters    {self.num_parameters:,}, of which a step perturbs {chosen:,}",
            f"queries       {about}{self.queries_per_step:,} a step × {self.num_steps:,} steps"
            + (f" + {self.extra_queries:,} for pruning" if self.extra_queries else "")
            + (f" + {self.probe_queries:,} for probing" if self.probe_queries else "")
            + f" = {about}{total:,}",
            *(f"pruning       {line}" for line in self.pruning),
            *(f"settings      {line}" for line in self.unused),
            *([f"smoothing     {self.smoothing}"] if self.smoothing else []),
            *self._box_lines(),
            *self._times(),
        ]
        return "\n".join(lines)

    def _box_lines(self) -> list[str]:
        evaluation, initial = self.samples_per_evaluation, self.initial_samples
        if not (self.samples_per_step or evaluation or any(initial.values())):
            return []
        whole = self.samples_per_step * self.num_steps
        told = [f"{initial[name]:,} already for {name}" for name in initial if initial[name]]
        if evaluation:
            told.append(
                f"{evaluation:,} an evaluation × {self.num_evaluations:,} = "
                f"{evaluation * self.num_evaluations:,}"
            )
        elif evaluation is None:
            told.append("evaluation not known")
        told.append("further attempts not counted")
        most = self.most_samples_per_step
        if most <= self.samples_per_step:
            sent = f"at most {self.samples_per_step:,} samples a step, {whole:,} for the whole run"
        else:  # draws of one sampler differ
            sent = (
                f"{self.samples_per_step:,} samples a step by the first draw, {whole:,} for the "
                f"whole run; a draw takes at most {most:,}"
            )
        return [f"black box     {sent}", f"              {', '.join(told)}"]

    @property
    def seconds(self) -> float | None:
        """Of all steps."""
        return None if self.seconds_per_step is None else self.seconds_per_step * self.num_steps

    def _times(self) -> list[str]:
        compiled = "not compiled for it"
        if self.compile_seconds is not None:
            compiled = f"compiled in {format_seconds(self.compile_seconds)}"
        if self.seconds_per_step is None or self.seconds is None:
            return [f"time          not measured, as this plan asks no black box; {compiled}"]
        step, whole = format_seconds(self.seconds_per_step), format_seconds(self.seconds)
        if self.spread is None:
            return [
                f"time          {step} a step (measured), {compiled}",
                f"ETA           {whole} for the whole run, evaluation not counted",
            ]
        least, most = self.spread
        range_of = lambda n: f"{format_seconds(n * least)} to {format_seconds(n * most)}"
        return [
            f"time          {step} a step (estimated: {range_of(1)}), {compiled}",
            *([f"              {self.estimated}"] if self.estimated else []),
            f"ETA           {whole} ({range_of(self.num_steps)}) for the whole run, "
            "evaluation not counted",
        ]


class About(NamedTuple):
    """What a plan is told of its run.

    Attributes:
      num_steps: of the whole run.
      initial_queries: spent before the first step.
      evaluation_interval: steps between evaluations, None: an epoch.
      initial_samples: of black boxes, spent before the first step.
      probing: of the smoothing; its queries and samples come to those.
    """

    num_steps: int
    initial_queries: int = 0
    evaluation_interval: int | None = None
    initial_samples: Mapping[str, int] | None = None
    probing: Probing | None = None


def _leaf_plans(step: TrainStep, state: TrainState, counts: Mapping[str, int]) -> list[LeafPlan]:
    spending = step.spending(state) or {}
    return [
        LeafPlan(path, np.shape(leaf), count, spending.get(path))
        for leaf, (path, count) in zip(jax.tree.leaves(state.params), counts.items(), strict=True)
    ]


def _outline(
    step: TrainStep,
    state: TrainState,
    data: PyTree,
    counts: Mapping[str, int],
    boxes: Boxes,
    about: About,
) -> Plan:
    """The plan without times."""
    told, probing = step.task.evaluation_samples, about.probing
    interval = about.evaluation_interval or step.task.steps_per_epoch
    probed = {} if probing is None else {"probing": probing.num_samples}
    queries = step.estimator.num_queries(sum(counts.values()))
    drawn = jax.eval_shape(step.select, state).coordinates
    most = step.estimator.num_queries(sum(indices.size for indices in jax.tree.leaves(drawn)))
    return Plan(
        leaves=_leaf_plans(step, state, counts),
        num_parameters=num_coordinates(state.params),
        queries_per_step=queries,
        num_steps=about.num_steps,
        extra_queries=about.initial_queries,
        seconds_per_step=None,
        compile_seconds=None,
        most_queries_per_step=most,
        samples_per_step=boxes.num_samples(queries),
        most_samples_per_step=boxes.num_samples(most),
        samples_per_evaluation=None
        if told is None
        else told(state.params, state.model_state, data),
        num_evaluations=-(-about.num_steps // max(interval, 1)),
        initial_samples={**(about.initial_samples or {}), **probed},
        probe_queries=0 if probing is None else probing.probe.num_queries,
        smoothing=smoothing_in_words(step.estimator, probing),
    )


def plan(
    step: TrainStep | CompiledStep,
    state: TrainState,
    *,
    num_steps: int,
    initial_queries: int = 0,
    evaluation_interval: int | None = None,
    initial_samples: Mapping[str, int] | None = None,
    probing: Probing | None = None,
) -> Plan:
    """Measures a step on some of its chunks and sums up the run; ``str`` of it is a table.

    Args:
      step: the training step, compiled already or not.
      state: of the run.
      num_steps: of the whole run.
      initial_queries: spent before the first step.
      evaluation_interval: steps between evaluations, None: an epoch.
      initial_samples: of black boxes, spent before the first step.
      probing: of the smoothing; its queries and samples come to those.

    Raises:
      ValueError: numbers that ``train`` refuses.

    **Cost**: a few steps on a part of their coordinates; none where a black box would be asked.
    """
    task = step.task if isinstance(step, TrainStep) else step.step.task
    spent = initial_queries, initial_samples
    lengths = Lengths.of(task.steps_per_epoch, num_steps, evaluation_interval, *spent)
    if isinstance(step, TrainStep):
        step = step.compile(state)
    state = step.step.place(state)
    selection, place = step.select(state), step.step.place
    seconds = None
    if not step.boxes.in_loss:
        seconds = step_seconds(
            lambda part: step.run(state, selection._replace(coordinates=place(part))),
            state.params,
            selection.coordinates,
            step.step.estimator,
            step.loss(state),
        )
    counts = coordinates_per_leaf(state.params, selection.coordinates)
    about = About(probing=probing, **lengths._asdict())
    found = _outline(step.step, state, step.data, counts, step.boxes, about)
    return found._replace(seconds_per_step=seconds, compile_seconds=step.seconds)


def expected_counts(step: TrainStep, state: TrainState) -> dict[str, int]:
    """``{leaf path: coordinates of the coming step}``, on average where that is known."""
    spending = step.spending(state)
    if spending is None:
        return coordinates_per_leaf(state.params, jax.jit(step.select)(state).coordinates)
    leaves = zip(leaf_paths(state.params), jax.tree.leaves(state.params), strict=True)
    return {path: round(np.size(leaf) * spending[path].rate) for path, leaf in leaves}


def expected_plan(
    step: TrainStep,
    state: TrainState,
    counts: Mapping[str, int],
    about: About,
    found: Forecast | None,
) -> Plan:
    """Sums up a run whose step is neither compiled nor run.

    Args:
      step: the training step.
      state: of the run, placed.
      counts: ``{leaf path: coordinates of a step}``.
      about: the run.
      found: from ``forecast``; None where a black box would be asked.
    """
    data = step.place(step.task.data)
    boxes = Boxes.of(step.loss(state, data), state.params, step.estimator)
    outline = _outline(step, state, data, counts, boxes, about)
    if found is None:
        return outline
    seconds, words = found.step(counts), ""
    if found.num_timed:
        words = f"by {found.num_timed} of {len(counts)} leaves, timed, the others by their price"
    spread = (seconds.least, seconds.most)
    return outline._replace(seconds_per_step=seconds.likely, spread=spread, estimated=words)
