"""DeepZero's main experiment with price-aware sampling: ResNet-20 on CIFAR-10 by sparse CGE.

  python prune.py --config configs/resnet20_cifar10.py
  python train.py --config configs/resnet20_cifar10.py
  python train.py --config configs/resnet20_cifar10.py --config.pruning.sparsity=0.99 \
      --workdir runs/resnet20_99

A step costs the multiply-adds of one with the paper's masks at 90 % gradient sparsity
(configs/resnet20_cifar10_paper.py) and spends them at the rates that buy most gradient: about
four times as many coordinates, few of them in the dear first layers. docs/results.md compares the
two at equal price. The whole run wants a GPU.
"""

import dataclasses

from configs import resnet20_cifar10_paper
from configs.schema import Config, Sampling


def get_config() -> Config:
    """The paper's protocol, but for the step μ of the differences and the coordinates."""
    paper = resnet20_cifar10_paper.get_config()
    return dataclasses.replace(
        paper,
        estimator=dataclasses.replace(paper.estimator, smoothing=1e-4),
        sampling=Sampling(name="price_aware", budget="layer ratios"),
    )
