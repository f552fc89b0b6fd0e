"""Optimisers and schedules from optax, with the mask in its place."""

from collections.abc import Callable
from typing import Any

import optax

from deepzero_jax.pruning import sparse_updates
from deepzero_jax.sampling import coherent_gradient

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("cosine", "constant")
MASKS = ("gradient", "update", "weights")


def learning_rate_schedule(
    name: str, peak: float, num_steps: int, warmup_steps: int
) -> Callable[[Any], Any]:
    """Linear warm-up to ``peak``, then cosine decay to zero or a constant, step by step.

    Raises:
      ValueError: unknown name, or ``peak`` not above 0.
    """
    if not peak > 0:
        raise ValueError(f"learning_rate must be positive, got {peak!r}")
    if name not in SCHEDULES:
        raise ValueError(f"schedule must be one of {list(SCHEDULES)}, got {name!r}")
    warmup_steps = min(warmup_steps, num_steps)
    if name == "cosine":
        main = optax.cosine_decay_schedule(peak, max(num_steps - warmup_steps, 1))
    else:
        main = optax.constant_schedule(peak)
    if warmup_steps == 0:
        return main
    # Step k of the warm-up runs at (k + 1) / n of the peak, so that no step is lost to zero.
    warmup = optax.linear_schedule(peak / warmup_steps, peak, max(warmup_steps - 1, 1))
    return optax.join_schedules([warmup, main], [warmup_steps])


def make_optimizer(
    name: str,
    schedule: Callable[[Any], Any],
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    mask: str = "gradient",
    coherence: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """An optax chain whose ``update`` takes the coordinates' mask as ``mask=``.

    Args:
      name: ``"sgd"`` (weight decay added to the gradient before momentum, as PyTorch
        does), ``"adam"`` or ``"adamw"`` (decoupled weight decay).
      schedule: learning rate as a function of the step.
      momentum: of SGD.
      nesterov: of SGD.
      weight_decay: of SGD and AdamW.
      mask: what the mask makes sparse. ``"gradient"``: momentum and weight decay still
        move coordinates outside it (the paper). ``"update"``: those do not move.
        ``"weights"``: the same, for parameters pruned at the start, which stay zero.
      coherence: with the sparse gradient, the decay of earlier estimates of the
        coordinates outside the mask, see ``coherent_gradient``; None: they count nothing.

    Raises:
      ValueError: an unknown name or mask, or coherence with another mask.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {list(OPTIMIZERS)}, got {name!r}")
    if mask not in MASKS:
        raise ValueError(f"mask must be one of {list(MASKS)}, got {mask!r}")
    if name == "sgd":
        rule = optax.chain(
            optax.add_decayed_weights(weight_decay),
            optax.sgd(schedule, momentum=momentum or None, nesterov=nesterov),
        )
    elif name == "adam":
        rule = optax.adam(schedule)
    else:
        rule = optax.adamw(schedule, weight_decay=weight_decay)
    if coherence is not None:
        if mask != "gradient":
            raise ValueError(f"coherence needs mask 'gradient', got {mask!r}")
        return optax.chain(coherent_gradient(coherence), rule)
    masked = [sparse_updates(), rule] if mask == "gradient" else [rule, sparse_updates()]
    return optax.chain(*masked)
