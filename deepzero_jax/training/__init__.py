"""The training loop: task, step, plan, checkpoints, exact resume; several stages and processes."""

from deepzero_jax.bars import format_seconds
from deepzero_jax.training.boxes import Boxes
from deepzero_jax.training.checkpoint import Checkpointer, tree_digest
from deepzero_jax.training.classification import (
    classification_task,
    cross_entropy,
    predicted_classes,
    scoring_batch,
)
from deepzero_jax.training.errors import (
    InterruptedRunError,
    NonFiniteError,
    StepFailedError,
    black_box_failure,
)
from deepzero_jax.training.folder import (
    FORMAT,
    Json,
    RunFolder,
    RunFolderError,
    differences,
    read_json,
    write_json,
    write_text,
)
from deepzero_jax.training.forecasting import Forecast, Seconds, forecast
from deepzero_jax.training.loop import train
from deepzero_jax.training.metrics import MetricsLog, read_lines, read_metrics
from deepzero_jax.training.optimizer import (
    OPTIMIZERS,
    SCHEDULES,
    Mask,
    Schedule,
    learning_rate_schedule,
    make_optimizer,
)
from deepzero_jax.training.places import Place, where_to_ask
from deepzero_jax.training.planning import About, Plan, expected_counts, expected_plan, plan
from deepzero_jax.training.probing import (
    Probing,
    RecordSmoothing,
    check_record_smoothing,
    find_probe,
    kept_probe,
)
from deepzero_jax.training.processes import PeerWatch
from deepzero_jax.training.samples import PURPOSES, Purpose, Samples, SamplesFile
from deepzero_jax.training.signals import exit_now, leave_at_once
from deepzero_jax.training.stages import Stages
from deepzero_jax.training.step import CompiledStep, TrainState, TrainStep
from deepzero_jax.training.task import Task
from deepzero_jax.training.timing import coordinate_seconds, step_seconds
from deepzero_jax.training.trained import Trained, load_trained

__all__ = [
    "FORMAT",
    "OPTIMIZERS",
    "PURPOSES",
    "SCHEDULES",
    "About",
    "Boxes",
    "Checkpointer",
    "CompiledStep",
    "Forecast",
    "InterruptedRunError",
    "Json",
    "Mask",
    "MetricsLog",
    "NonFiniteError",
    "PeerWatch",
    "Place",
    "Plan",
    "Probing",
    "Purpose",
    "RecordSmoothing",
    "RunFolder",
    "RunFolderError",
    "Samples",
    "SamplesFile",
    "Schedule",
    "Seconds",
    "Stages",
    "StepFailedError",
    "Task",
    "TrainState",
    "TrainStep",
    "Trained",
    "black_box_failure",
    "check_record_smoothing",
    "classification_task",
    "coordinate_seconds",
    "cross_entropy",
    "differences",
    "exit_now",
    "expected_counts",
    "expected_plan",
    "find_probe",
    "forecast",
    "format_seconds",
    "kept_probe",
    "learning_rate_schedule",
    "leave_at_once",
    "load_trained",
    "make_optimizer",
    "plan",
    "predicted_classes",
    "read_json",
    "read_lines",
    "read_metrics",
    "scoring_batch",
    "step_seconds",
    "train",
    "tree_digest",
    "where_to_ask",
    "write_json",
    "write_text",
]
