"""Optimisers and schedules from optax, with the mask in its place."""

import re
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from deepzero_jax.coordinates import coordinate_mask
from deepzero_jax.pruning import sparse_updates
from deepzero_jax.registry import Registry, arguments, call_with
from deepzero_jax.sampling import coherent_gradient
from deepzero_jax.types import Params, PyTree

Schedule = optax.Schedule
Mask = Literal["gradient", "update", "weights"]


def _sgd(
    schedule: Schedule, momentum: float, nesterov: bool, weight_decay: float
) -> optax.GradientTransformation:
    """Weight decay is added to the gradient before momentum, as PyTorch does."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(schedule, momentum=momentum or None, nesterov=nesterov),
    )


def _adam(schedule: Schedule) -> optax.GradientTransformation:
    return optax.adam(schedule)


def _adamw(schedule: Schedule, weight_decay: float) -> optax.GradientTransformation:
    return optax.adamw(schedule, weight_decay=weight_decay)


OPTIMIZERS = Registry("optimizer", {"sgd": _sgd, "adam": _adam, "adamw": _adamw}, importable=True)


def _cosine(peak: float, num_steps: int) -> Schedule:
    return optax.cosine_decay_schedule(peak, num_steps)


def _constant(peak: float, num_steps: int) -> Schedule:
    del num_steps
    return optax.constant_schedule(peak)


SCHEDULES = Registry("schedule", {"cosine": _cosine, "constant": _constant})


def learning_rate_schedule(
    name: str, peak: float, num_steps: int, warmup_steps: int = 0
) -> Schedule:
    """Linear warm-up to ``peak``, then cosine decay to zero or a constant, step by step.

    Args:
      name: one of ``SCHEDULES``.
      peak: largest learning rate.
      num_steps: of the whole run.
      warmup_steps: of the warm-up, at most ``num_steps`` of them.

    Raises:
      ValueError: unknown name, or ``peak`` not above 0.
    """
    if not peak > 0:
        raise ValueError(f"learning_rate must be positive, got {peak!r}")
    warmup_steps = min(warmup_steps, num_steps)
    main = SCHEDULES[name](peak, max(num_steps - warmup_steps, 1))
    if warmup_steps == 0:
        return main
    # Step k of the warm-up runs at (k + 1) / n of the peak, so that no step is lost to zero.
    warmup = optax.linear_schedule(peak / warmup_steps, peak, max(warmup_steps - 1, 1))
    return optax.join_schedules([warmup, main], [warmup_steps])


def make_optimizer(
    name: str,
    schedule: Schedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    mask: Mask = "gradient",
    coherence: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """An optax chain whose ``update`` takes the coordinates' mask as ``mask=``.

    Args:
      name: one of ``OPTIMIZERS``, or ``"module:function"``, which is given those of
        ``schedule``, ``learning_rate`` (the schedule too, as optax calls it), ``momentum``,
        ``nesterov`` and ``weight_decay`` that it has arguments for.
      schedule: learning rate as a function of the step.
      momentum: of SGD.
      nesterov: of SGD.
      weight_decay: of SGD and AdamW.
      mask: what is sparse. ``"gradient"``: the estimate is zero outside the coordinates
        already; momentum and weight decay still move the others (the paper).
        ``"update"``: those do not move. ``"weights"``: the same, for parameters pruned at
        the start, which stay zero.
      coherence: with the sparse gradient, the decay of earlier estimates of the
        coordinates outside the mask, see ``coherent_gradient``; None: they count nothing.

    Raises:
      ValueError: an unknown name, a function that takes no schedule or makes no optimiser, or
        coherence with another mask.
    """
    options = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    rule = _rule(name, schedule, options)
    if coherence is not None:
        if mask != "gradient":
            raise ValueError(f"coherence needs mask 'gradient', got {mask!r}")
        return optax.chain(coherent_gradient(coherence), rule)
    if mask == "gradient":
        return optax.with_extra_args_support(rule)
    return optax.chain(rule, sparse_updates())


def _rule(
    name: str, schedule: Schedule, options: Mapping[str, object]
) -> optax.GradientTransformation:
    """What the maker of that name makes of the schedule and of those options that it takes."""
    maker, rates = OPTIMIZERS[name], {"schedule": schedule, "learning_rate": schedule}
    if not rates.keys() & arguments(maker).keys():
        raise ValueError(
            f"optimizer {name!r} takes neither schedule nor learning_rate, so that it would not "
            "learn at the rates of the record; give it an argument of one of these names"
        )
    rule = call_with(maker, {**rates, **options})
    if not (hasattr(rule, "init") and hasattr(rule, "update")):
        raise ValueError(
            f"optimizer {name!r} must make an optax.GradientTransformation, "
            f"got {type(rule).__name__}"
        )
    return rule


def update(
    optimizer: optax.GradientTransformation,
    grads: PyTree,
    opt_state: PyTree,
    params: Params,
    mask: PyTree,
    loss: jax.Array,
) -> tuple[PyTree, PyTree]:
    """Updates and the next state of an optimiser, told ``mask=``, ``value=`` and ``grad=``.

    Raises:
      TypeError: a transformation that wants more.
    """
    told = {"mask": mask, "value": loss, "grad": grads}
    try:
        return optax.with_extra_args_support(optimizer).update(grads, opt_state, params, **told)
    except TypeError as error:
        missing = re.search(r"missing \d+ required keyword-only arguments?: (.*)", str(error))
        if missing is None:
            raise
        if "'value_fn'" in missing[1]:
            raise TypeError(
                "the optimizer wants 'value_fn', the loss itself, to evaluate it inside an update: "
                "queries that nobody counts; take one without a line search"
            ) from error
        raise TypeError(
            f"the optimizer wants {missing[1]}, which a step cannot give: it gives "
            "mask, value and grad"
        ) from error


def check_optimizer(
    optimizer: optax.GradientTransformation, params: Params, opt_state: PyTree
) -> None:
    """Raises TypeError for an optimiser that wants more than a step has; nothing is computed."""

    def once(params: Params, opt_state: PyTree) -> PyTree:
        mask = coordinate_mask(params, None)
        return update(optimizer, params, opt_state, params, mask, jnp.float32(0))

    jax.eval_shape(once, params, opt_state)
