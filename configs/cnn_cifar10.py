"""The CNN ladder of the paper on CIFAR-10, depth 1 (730 parameters), dense CGE.

  python train.py --config configs/cnn_cifar10.py
  python train.py --config configs/cnn_cifar10.py --config.model.name=cnn5

Source: DeepZero, section 5, RGE against CGE (arXiv 2310.02025): lr 1e-3 for CGE (1e-4 for RGE, and
0.1 here), 41.65 % with CGE and 42.09 % first-order.
Measured: 39.19 ± 1.11 % (three seeds) after 30 epochs, 39 min on one core. 50 epochs: not run.
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
    """Dense CGE on 730 parameters."""
    return Config(
        model=Model(name="cnn1"),
        data=Data(name="cifar10", batch_size=256, augment=True),
        estimator=Estimator(name="cge", smoothing=1e-4, reuse="difference"),
        optimizer=Optimizer(
            name="sgd", learning_rate=0.1, momentum=0.9, weight_decay=5e-4, warmup_epochs=3
        ),
        training=Training(num_epochs=50),
    )
