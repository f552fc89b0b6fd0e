"""A host callable as a query-only JAX function, and adapters for what people have."""

from deepzero_jax.blackbox.box import BlackBox, BlackBoxError, HostFunction, black_box
from deepzero_jax.blackbox.http import http_endpoint
from deepzero_jax.blackbox.onnx import onnx_model

__all__ = ["BlackBox", "BlackBoxError", "HostFunction", "black_box", "http_endpoint", "onnx_model"]
