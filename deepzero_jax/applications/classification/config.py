"""The fields of a record that trains an image classifier: defaults, meanings, what is allowed."""

import dataclasses
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from deepzero_jax.data import DataSource
from deepzero_jax.estimators import (
    ESTIMATORS,
    Distribution,
    Reuse,
    cge,
    check_batch_size,
    check_smoothing,
    rge,
)
from deepzero_jax.fields import OneOf, Range, Readable, default_of, section, setting
from deepzero_jax.models import MODELS
from deepzero_jax.pruning import SCORES, Ranking, Variant, layer_ratios, zo_grasp_scores
from deepzero_jax.registry import arguments
from deepzero_jax.sampling import SAMPLERS, price_aware_sampler
from deepzero_jax.training import (
    OPTIMIZERS,
    SCHEDULES,
    Mask,
    RecordSmoothing,
    check_record_smoothing,
)

SEED = Range(at_least=0, below=2**32)
COUNT = Range(at_least=1, below=2**31)  # what an int32 holds
STEP = Readable(check_smoothing)
STEP_OR_AUTO = Readable(check_record_smoothing)


@dataclass(frozen=True)
class Model:
    """The network: one of ``MODELS``, or your own ``make_model(num_classes)``."""

    name: str = setting("resnet20", OneOf(MODELS), "a known one, or module:function")
    width: int | None = setting(
        None, Range(at_least=1, at_most=2**16), "channels of the first stage; none: its own"
    )


@dataclass(frozen=True)
class Data(DataSource):
    """The data set and its batches."""

    batch_size: int = setting(256, COUNT, "images a step")
    augment: bool = setting(True, meaning="random crop and flip")


@dataclass(frozen=True)
class Estimator:
    """How gradients are made; each estimator takes those options that it has."""

    name: str = setting("cge", OneOf(ESTIMATORS), "cge, rge or first_order")
    smoothing: RecordSmoothing = setting(
        default_of(cge, "smoothing"),
        STEP_OR_AUTO,
        "step of the differences; the paper's is 5e-3; auto: probed before the first step",
    )
    central: bool = setting(default_of(cge, "central"), meaning="two-sided differences")
    reuse: Reuse = setting(
        default_of(cge, "reuse"), meaning="how a perturbed pass is evaluated; split: cge alone"
    )
    delta_dtype: Literal["bfloat16"] | None = setting(
        default_of(cge, "delta_dtype"), meaning="of matrix products of differences"
    )
    num_directions: int = setting(default_of(rge, "num_directions"), COUNT, "rge")
    distribution: Distribution = setting(default_of(rge, "distribution"), meaning="rge")
    ranked: bool = setting(default_of(rge, "ranked"), meaning="rge: places in place of losses")
    chunk_size: int | str = setting(
        default_of(cge, "batch_size"), Readable(check_batch_size), "perturbed passes side by side"
    )


def interval_steps(text: str, steps_per_epoch: int = 1) -> int:
    """Steps in ``"5 epochs"`` or ``"1 step"``; ValueError for anything else."""
    found = re.fullmatch(r"([0-9]{1,9}) *(step|epoch)s?", text.strip())
    if not found or int(found[1]) < 1:
        raise ValueError(f'must read like "5 epochs" or "1 step", got {text!r}')
    return int(found[1]) * (steps_per_epoch if found[2] == "epoch" else 1)


@dataclass(frozen=True)
class Pruning:
    """Which coordinates a step perturbs. Sparsity 0: all of them, nothing is scored."""

    sparsity: float = setting(0.0, Range(at_least=0, below=1), "fraction of the kernels pruned")
    scores: str = setting("zo_grasp", OneOf(SCORES), "zo_grasp, grasp (autodiff) or random")
    samples_per_class: int = setting(25, COUNT, "images that scores are computed on")
    num_directions: int = setting(
        default_of(zo_grasp_scores, "num_directions"), COUNT, "zo_grasp: of each gradient estimate"
    )
    smoothing: float = setting(default_of(zo_grasp_scores, "smoothing"), STEP, "zo_grasp")
    step: float = setting(
        default_of(zo_grasp_scores, "step"),
        Range(above=0),
        "zo_grasp: length of the step along the estimated gradient",
    )
    variant: Variant = setting(
        default_of(zo_grasp_scores, "variant"), meaning="zo_grasp: of the directions"
    )
    prune: Ranking = setting(default_of(layer_ratios, "prune"), meaning="scores that go first")
    mask_interval: str = setting(
        "5 epochs",
        Readable(interval_steps),
        'coordinates are redrawn every "n steps" or "n epochs"',
    )
    mask: Mask = setting("gradient", meaning="what is sparse")


BudgetUnit = Literal["fraction", "multiply-adds", "seconds", "layer ratios"]


def parse_budget(text: str) -> tuple[float, BudgetUnit]:
    """``"10 %"``, ``"2e12 multiply-adds"`` or ``"1.5 s"`` as a number and its unit.

    The unit is "fraction" (of the dense price), "multiply-adds" or "seconds";
    ``"layer ratios"`` is (1, "layer ratios"). ValueError for anything else.
    """
    if text.strip() == "layer ratios":
        return 1.0, "layer ratios"
    found = re.fullmatch(r"([0-9.]+(?:e[+-]?[0-9]+)?) *(%|multiply-adds|s)", text.strip())
    try:
        amount = float(found[1]) if found else 0.0
    except ValueError:
        amount = 0.0
    if found is None or not 0 < amount < float("inf"):
        raise ValueError(
            f'must read like "10 %", "2e12 multiply-adds", "1.5 s" or "layer ratios", got {text!r}'
        )
    if found[2] == "%":
        return amount / 100, "fraction"
    return amount, "seconds" if found[2] == "s" else "multiply-adds"


@dataclass(frozen=True)
class Sampling:
    """How the coordinates of a step are drawn; each sampler takes those options that it has."""

    name: str = setting("layer_ratios", OneOf(SAMPLERS), "at the ratios of Pruning, or another")
    unbiased: bool = setting(False, meaning="layer_ratios: estimates divided by their leaf's rate")
    budget: str = setting(
        "layer ratios",
        Readable(parse_budget),
        'price_aware: price of a step; "10 %" of the dense one, "2e12 multiply-adds", "1.5 s", '
        'or "layer ratios": as much as those of Pruning would cost',
    )
    decay: float = setting(
        default_of(price_aware_sampler, "decay"),
        Range(at_least=0, below=1),
        "price_aware: of the moving average of squared estimates",
    )
    num_blocks: int = setting(10, COUNT, "blocks: steps that see each coordinate once")
    coherence: float | None = setting(
        None, Range(at_least=0, at_most=1), "decay of earlier estimates that count too, a step"
    )


@dataclass(frozen=True)
class Optimizer:
    """The update rule and its schedule; each rule takes those options that it has."""

    name: str = setting("sgd", OneOf(OPTIMIZERS), "sgd, adam or adamw")
    learning_rate: float = setting(0.1, Range(above=0), "largest")
    momentum: float = setting(0.9, Range(at_least=0, below=1), "sgd")
    nesterov: bool = setting(False, meaning="sgd")
    weight_decay: float = setting(5e-4, Range(at_least=0), "sgd, adamw")
    schedule: str = setting("cosine", OneOf(SCHEDULES), "of the learning rate")
    warmup_epochs: float = setting(0.0, Range(at_least=0, at_most=1e6), "linear")


@dataclass(frozen=True)
class Mesh:
    """How the devices of all processes share a step; a resumed run may change it."""

    coordinates: int | None = setting(
        None, COUNT, "devices that share the coordinates; none: all", local=True
    )
    data: int = setting(
        1, COUNT, "devices that share one batch, where activations do not fit", local=True
    )


@dataclass(frozen=True)
class Training:
    """Length of the run and how often it looks up."""

    num_epochs: float = setting(50.0, Range(above=0, at_most=1e6))
    num_steps: int | None = setting(None, COUNT, "instead of num_epochs")
    evaluation_epochs: float = setting(1.0, Range(above=0, at_most=1e6), "between evaluations")
    checkpoint_seconds: float = setting(
        60.0, Range(at_least=0), "at most this much work is lost to a kill", local=True
    )


def given_but(fields: Any, taken: Collection[str]) -> dict[str, Any]:
    """Fields of a section that differ from their defaults, but those that are ``taken``."""
    return {
        item.name: getattr(fields, item.name)
        for item in dataclasses.fields(fields)
        if getattr(fields, item.name) != item.default and item.name not in taken
    }


@dataclass(frozen=True)
class Config:
    """One experiment."""

    seed: int = setting(0, SEED, "of every random draw")
    model: Model = section(Model)
    data: Data = section(Data)
    estimator: Estimator = section(Estimator)
    pruning: Pruning = section(Pruning)
    sampling: Sampling = section(Sampling)
    optimizer: Optimizer = section(Optimizer)
    training: Training = section(Training)
    mesh: Mesh = section(Mesh)

    def check(self) -> None:
        """Raises ValueError for fields that do not go together."""
        sampling, price_aware = self.sampling, self.sampling.name == "price_aware"
        unit = parse_budget(sampling.budget)[1]
        if self.data.batch_size % self.mesh.data:
            raise ValueError(
                f"data.batch_size {self.data.batch_size} does not divide evenly over mesh.data="
                f"{self.mesh.data} devices"
            )
        taken = ("name", "coherence", *arguments(SAMPLERS[sampling.name]))
        for name in given_but(sampling, taken):
            raise ValueError(f"sampling.{name} is not for sampler {sampling.name}; leave it out")
        if sampling.coherence is not None and (sampling.unbiased or price_aware):
            raise ValueError(
                "sampling.coherence keeps the estimates of other steps, so those of this one must "
                "not be divided by their rate: not with sampling.unbiased, not with price_aware"
            )
        if sampling.coherence is not None and self.pruning.mask != "gradient":
            raise ValueError(
                f"sampling.coherence needs pruning.mask=gradient, got {self.pruning.mask!r}"
            )
        if sampling.unbiased and self.pruning.mask == "weights":
            raise ValueError(
                "sampling.unbiased divides by the rate at which coordinates are drawn, and under "
                "pruning.mask=weights none are drawn; leave one of them out"
            )
        if sampling.name != "layer_ratios" and self.pruning.mask == "weights":
            raise ValueError(
                f"sampling {sampling.name} draws anew every step, so pruning.mask cannot be "
                "weights; give --config.sampling.name=layer_ratios"
            )
        if price_aware and self.estimator.name == "rge":
            raise ValueError(
                "sampling price_aware needs estimator cge, rge costs the same for all; "
                "give --config.sampling.name=layer_ratios"
            )
        if price_aware and self.estimator.name == "first_order" and unit == "seconds":
            raise ValueError("sampling.budget in seconds needs estimator cge; give a percentage")
        if price_aware and unit == "layer ratios" and self.pruning.sparsity == 0:
            raise ValueError(
                'sampling.budget "layer ratios" needs a pruning.sparsity above 0; or give "10 %"'
            )
