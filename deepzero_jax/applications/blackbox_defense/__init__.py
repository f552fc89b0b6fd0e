"""A denoiser in front of a classifier that can only be queried, and its certificates."""

from deepzero_jax.applications.blackbox_defense.bounds import (
    certify_counts,
    check_radii,
    largest_radius,
    lower_bound,
    samples_needed,
)
from deepzero_jax.applications.blackbox_defense.certification import (
    Certification,
    certified_accuracy,
    certify_images,
    num_abstentions,
    plot_certified,
)
from deepzero_jax.applications.blackbox_defense.config import DefenseConfig
from deepzero_jax.applications.blackbox_defense.denoiser import AutoEncoder, DnCNN
from deepzero_jax.applications.blackbox_defense.methods import (
    METHODS,
    Defense,
    Method,
    Start,
    default_estimator,
    make_method,
)
from deepzero_jax.applications.blackbox_defense.onnx_export import export_onnx
from deepzero_jax.applications.blackbox_defense.pretraining import (
    autoencoder_pretraining,
    denoiser_pretraining,
)
from deepzero_jax.applications.blackbox_defense.program import (
    PROGRAM,
    prepare_defense,
    pretrain,
    stages_of,
    train_defenses,
)
from deepzero_jax.applications.blackbox_defense.stability import Examples, estimated_head

__all__ = [
    "METHODS",
    "PROGRAM",
    "AutoEncoder",
    "Certification",
    "Defense",
    "DefenseConfig",
    "DnCNN",
    "Examples",
    "Method",
    "Start",
    "autoencoder_pretraining",
    "certified_accuracy",
    "certify_counts",
    "certify_images",
    "check_radii",
    "default_estimator",
    "denoiser_pretraining",
    "estimated_head",
    "export_onnx",
    "largest_radius",
    "lower_bound",
    "make_method",
    "num_abstentions",
    "plot_certified",
    "prepare_defense",
    "pretrain",
    "samples_needed",
    "stages_of",
    "train_defenses",
]
