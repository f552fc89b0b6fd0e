"""DeepZero's main experiment to the letter: its masks, its smoothing, 90 % gradient sparsity.

  python prune.py --config configs/resnet20_cifar10_paper.py
  python train.py --config configs/resnet20_cifar10_paper.py

Paper: 86.46 % test accuracy at 90 % sparsity, 73.37 % at 99 % (arXiv 2310.02025, table 2).
A step at 90 % is 28,221 queries; the whole run wants a GPU.
Measured at full length: not run; docs/results.md has the first-order runs under the same masks.
"""

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
    """The paper's protocol: ZO-GraSP ratios, masks redrawn every 5 epochs, SGD."""
    return Config(
        model=Model(name="resnet20"),
        data=Data(name="cifar10", batch_size=256, augment=True),
        estimator=Estimator(name="cge", smoothing=5e-3, reuse="difference"),
        pruning=Pruning(sparsity=0.9, scores="zo_grasp", mask_interval="5 epochs"),
        optimizer=Optimizer(
            name="sgd", learning_rate=0.1, momentum=0.9, weight_decay=5e-4, warmup_epochs=3
        ),
        training=Training(num_epochs=50),
    )
