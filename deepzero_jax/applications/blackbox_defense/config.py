"""The fields of a record that compares defenses: defaults, meanings, what is allowed."""

from dataclasses import dataclass

from deepzero_jax.applications.blackbox_defense.certification import Certification
from deepzero_jax.applications.blackbox_defense.methods import METHODS
from deepzero_jax.data import DataSource
from deepzero_jax.fields import OneOf, Range, Readable, section, setting
from deepzero_jax.models import MODELS
from deepzero_jax.training import RecordSmoothing, check_record_smoothing

COUNT = Range(at_least=1, below=2**31)
STEPS = Range(at_least=0, below=2**31)
RATE = Range(above=0)
CHANNELS = Range(at_least=1, at_most=2**16)
STEP = Readable(check_record_smoothing)


@dataclass(frozen=True)
class Classifier:
    """The black box, an ONNX file: trained first by autodiff (Adam), or trained already."""

    path: str | None = setting(
        None,
        meaning="a run folder of train.py, or an ONNX file of images [n, h, w, c] in [0, 1] → "
        "logits; none: trained first, as the other fields say",
    )
    model: str = setting("cnn2", OneOf(MODELS), "the network")
    width: int | None = setting(12, CHANNELS, "channels of the first stage; none: its own")
    num_epochs: float = setting(40.0, Range(above=0, at_most=1e6))
    learning_rate: float = setting(3e-3, RATE)
    batch_size: int = setting(64, COUNT, "images a step")
    augment: bool = setting(False, meaning="random crop and flip")


@dataclass(frozen=True)
class Denoiser:
    """The DnCNN in front of the box; no step of its pre-training asks the box."""

    depth: int = setting(5, Range(at_least=2, at_most=1000), "convolutions")
    width: int = setting(16, CHANNELS, "channels")
    use_norm: bool = setting(False, meaning="batch norm in the inner layers")
    pretraining_steps: int = setting(4000, STEPS)
    learning_rate: float = setting(3e-3, RATE, "of pre-training, Adam")


@dataclass(frozen=True)
class AutoEncoder:
    """The bottleneck of ZO-AE-DS, trained on clean images; no step asks the box."""

    latent: int = setting(4, Range(at_least=1, at_most=2**16), "numbers in the code")
    width: int = setting(16, CHANNELS, "channels of the first level")
    pretraining_steps: int = setting(3000, STEPS)
    learning_rate: float = setting(3e-3, RATE)


@dataclass(frozen=True)
class Training:
    """The stability training of the methods, at equal numbers of queries."""

    methods: tuple[str, ...] = setting(tuple(METHODS), OneOf(METHODS), "in this order")
    num_queries: int = setting(100_000, COUNT, "of each zeroth-order method; a query is one batch")
    batch_size: int = setting(64, COUNT, "images a step")
    held_out: int = setting(200, COUNT, 'training images kept for the score "stability"')
    chunk_size: int = setting(64, COUNT, "perturbed passes in one call of the box")
    smoothing: RecordSmoothing = setting(5e-3, STEP, "auto: probed before the first step")
    learning_rate: float = setting(3e-3, RATE, "Adam, cosine")
    fraction: float = setting(
        0.1, Range(above=0, at_most=1), "deepzero: of the coordinates of every kernel, a step"
    )
    num_directions: int = setting(16, COUNT, "zo_ds")
    boundary_directions: int = setting(
        0, STEPS, "zo_boundary: random directions at the box's input; 0: each number"
    )
    boundary_cosines: int = setting(
        0, STEPS, "zo_boundary: cosines kept along each side of an image; 0: all pixels"
    )
    first_order_steps: int = setting(3000, COUNT, "fo_ds")
    checkpoint_seconds: float = setting(60.0, Range(at_least=0), local=True)


@dataclass(frozen=True)
class DefenseConfig:
    """A comparison of defenses of a classifier that can only be queried."""

    seed: int = setting(0, Range(at_least=0, below=2**32), "of every random draw")
    data: DataSource = section(DataSource, name="digits")
    classifier: Classifier = section(Classifier)
    denoiser: Denoiser = section(Denoiser)
    autoencoder: AutoEncoder = section(AutoEncoder)
    training: Training = section(Training)
    certification: Certification = section(Certification)
