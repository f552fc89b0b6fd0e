"""Black-box defense on CIFAR-10: a ResNet-20 in an ONNX file, a DnCNN in front of it.

  python train.py --config configs/defense_cifar10.py

Source: DeepZero, section 6 (arXiv 2310.02025), on ImageNet-10.
Measured: not run at this size, which wants a GPU; with budgets for two cores: docs/results.md.
A box that is trained already, for all methods but fo_ds:
--config.classifier.path=studies/boxes/resnet20_cifar10.onnx
"""

from deepzero_jax.applications.blackbox_defense.config import (
    AutoEncoder,
    Certification,
    Classifier,
    DataSource,
    DefenseConfig,
    Denoiser,
    Training,
)


def get_config() -> DefenseConfig:
    """DnCNN of 12,480 parameters; 1,332 of them are perturbed in a step."""
    return DefenseConfig(
        data=DataSource(name="cifar10"),
        classifier=Classifier(
            model="resnet20", width=None, num_epochs=50.0, batch_size=256, augment=True
        ),
        denoiser=Denoiser(depth=7, width=16, pretraining_steps=20_000),
        autoencoder=AutoEncoder(latent=192, width=48, pretraining_steps=20_000),
        training=Training(
            num_queries=2_000_000,
            learning_rate=1e-4,
            batch_size=256,
            held_out=1000,
            first_order_steps=20_000,
            boundary_directions=64,
        ),
        certification=Certification(num_images=500, batch_size=1000),
    )
