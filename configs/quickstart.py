"""First run: a small CNN on scikit-learn's digits, every gradient from forward passes.

  python train.py --config configs/quickstart.py

No download, no GPU. Measured on two CPU cores: 98.89 % after 883,850 queries, 9 s.
"""

from deepzero_jax.applications.classification.config import (
    Config,
    Data,
    Estimator,
    Model,
    Optimizer,
    Training,
)


def get_config() -> Config:
    """Dense CGE on 1,606 parameters."""
    return Config(
        model=Model(name="cnn2", width=12),
        data=Data(name="digits", batch_size=64, augment=False),
        estimator=Estimator(name="cge", smoothing=1e-4, reuse="difference"),
        optimizer=Optimizer(
            name="sgd", learning_rate=0.2, momentum=0.9, weight_decay=1e-4, warmup_epochs=1
        ),
        training=Training(num_epochs=25, evaluation_epochs=5),
    )
