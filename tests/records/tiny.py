"""A run of seconds, for tests of the command line."""

from deepzero_jax.applications.classification.config import (
    Config,
    Data,
    Estimator,
    Model,
    Optimizer,
    Pruning,
    Training,
)


def get_config() -> Config:
    return Config(
        model=Model(name="cnn1", width=2),
        data=Data(name="digits", batch_size=16, augment=False),
        estimator=Estimator(smoothing=1e-3),
        pruning=Pruning(
            sparsity=0.5, num_directions=4, samples_per_class=2, mask_interval="7 steps"
        ),
        optimizer=Optimizer(learning_rate=0.05),
        training=Training(num_steps=400, checkpoint_seconds=0.2),
    )
