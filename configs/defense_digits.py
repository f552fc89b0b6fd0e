"""Black-box defense on scikit-learn's digits: seven methods, then certificates.

  python train.py --config configs/defense_digits.py

An ONNX classifier that the run trains itself is the box. Source: DeepZero, section 6. Measured on
one CPU core, 26 min a seed without zo_boundary and pretrained: DeepZero 98.3 % at radius 0, 51.7
at .5; others: docs/results.md.
"""

from deepzero_jax.applications.blackbox_defense.config import (
    AutoEncoder,
    DefenseConfig,
    Denoiser,
    Training,
)


def get_config() -> DefenseConfig:
    """DnCNN of 7,264 parameters, auto-encoder of 4 numbers (a sixteenth of the pixels)."""
    return DefenseConfig(
        # So that pre-training has come to its end before stability training starts.
        denoiser=Denoiser(depth=5, width=16, pretraining_steps=20_000),
        autoencoder=AutoEncoder(latent=4, pretraining_steps=20_000),
        training=Training(
            num_queries=500_000,
            batch_size=16,
            learning_rate=1e-3,
            fraction=0.1,
            num_directions=64,
            first_order_steps=12_000,
        ),
    )
