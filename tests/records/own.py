"""A record whose network and data lie beside it."""

from deepzero_jax.applications.classification.config import (
    Config,
    Data,
    Estimator,
    Model,
    Optimizer,
    Training,
)


def get_config() -> Config:
    return Config(
        model=Model(name="own_parts:make_model"),
        data=Data(name="own_parts:load", batch_size=20, augment=False),
        estimator=Estimator(smoothing=1e-3),
        optimizer=Optimizer(learning_rate=0.1),
        training=Training(num_epochs=20, evaluation_epochs=10),
    )
