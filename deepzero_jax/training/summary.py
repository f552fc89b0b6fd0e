"""What a finished run leaves in ``summary.json``."""

import jax

from deepzero_jax.coordinates import num_coordinates
from deepzero_jax.training.checkpoint import tree_digest
from deepzero_jax.training.folder import Json
from deepzero_jax.training.progress import Progress
from deepzero_jax.training.step import TrainState
from deepzero_jax.training.task import Task


def summary(
    name: str, task: Task, progress: Progress, state: TrainState, seconds: float | None = None
) -> Json:
    """Final and best scores, queries, samples of black boxes by purpose, steps, seconds.

    Where a box may leave samples without an answer, how many were: of the last evaluation, of all;
    and the slopes that fell to them.

    Args:
      name: of the run.
      task: what was trained.
      progress: its counters.
      state: its last one.
      seconds: of its median step, of all sessions; None where none is recorded.
    """
    counted = progress.dump()
    samples = counted["samples"]
    return {
        "name": name,
        **counted["scores"],
        f"best_{task.score}": progress.best.get("value"),
        "best_step": progress.best.get("step"),
        "num_queries": counted["num_queries"],
        **({"box_samples": samples} if any(samples.values()) else {}),
        **(_unanswered(progress) if progress.may_drop else {}),
        "num_steps": int(state.step),
        "wall_seconds": round(counted["wall_seconds"], 3),
        "seconds_per_step": None if seconds is None else round(seconds, 6),
        "parameters_sha256": tree_digest(state.params),
        "num_parameters": num_coordinates(state.params),
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "jax_version": jax.__version__,
    }


def _unanswered(progress: Progress) -> Json:
    return {
        "evaluation_unanswered": progress.unanswered,
        "num_unanswered": progress.num_unanswered,
        "num_dropped": progress.num_dropped,
    }
