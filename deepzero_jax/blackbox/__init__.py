"""A host callable as a query-only JAX function, and adapters for what people have."""

from deepzero_jax.blackbox.box import BlackBox, HostFunction, black_box
from deepzero_jax.blackbox.call import (
    HostCall,
    answered,
    from_two_parts,
    widened,
    without_derivative,
)
from deepzero_jax.blackbox.counters import samples_sent, samples_unanswered, watch_counts
from deepzero_jax.blackbox.errors import (
    AskingStoppedError,
    BlackBoxError,
    RetryLaterError,
    box_errors,
    failure,
    was_stopped,
)
from deepzero_jax.blackbox.http import http_endpoint
from deepzero_jax.blackbox.onnx import onnx_model
from deepzero_jax.blackbox.queries import (
    asks_host,
    boxes_asked,
    boxes_called,
    host_call,
    samples_asked,
)
from deepzero_jax.blackbox.simulator import subprocess_simulator
from deepzero_jax.blackbox.stopping import stop_asking_when

__all__ = [
    "AskingStoppedError",
    "BlackBox",
    "BlackBoxError",
    "HostCall",
    "HostFunction",
    "RetryLaterError",
    "answered",
    "asks_host",
    "black_box",
    "box_errors",
    "boxes_asked",
    "boxes_called",
    "failure",
    "from_two_parts",
    "host_call",
    "http_endpoint",
    "onnx_model",
    "samples_asked",
    "samples_sent",
    "samples_unanswered",
    "stop_asking_when",
    "subprocess_simulator",
    "was_stopped",
    "watch_counts",
    "widened",
    "without_derivative",
]
