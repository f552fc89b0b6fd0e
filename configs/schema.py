"""Every field of a configuration, its default and what it means. Defaults live here alone."""

from dataclasses import dataclass, field
from typing import Any


def _local(default: Any) -> Any:
    """A field that says where or how often, not what: a resumed run may change it."""
    return field(default=default, metadata={"local": True})


@dataclass(frozen=True)
class Model:
    """The network, one of ``deepzero_jax.models.MODELS``."""

    name: str = "resnet20"
    width: int | None = None  # channels of the first stage; None: the model's own


@dataclass(frozen=True)
class Data:
    """The data set, one of ``deepzero_jax.data.DATASETS``."""

    name: str = "cifar10"
    dir: str | None = _local(None)  # tensorflow-datasets directory; None: $TFDS_DATA_DIR
    archive: str | None = _local(None)  # the official CIFAR-10 archive instead
    batch_size: int = 256
    augment: bool = True  # random crop and flip


@dataclass(frozen=True)
class Estimator:
    """How gradients are made: ``cge``, ``rge`` or ``first_order``."""

    name: str = "cge"
    smoothing: float = 1e-4  # the paper's 5e-3 suits subtraction, 1e-4 propagated differences
    central: bool = False  # cge
    reuse: str = "difference"  # or "none"; cge also "split"
    delta_dtype: str | None = None  # or "bfloat16": matrix products of differences
    num_directions: int = 192  # rge
    distribution: str = "normal"  # rge: "normal", "sphere" or "rademacher"
    batch_size: int | str = "auto"  # perturbed passes side by side


@dataclass(frozen=True)
class Pruning:
    """Which coordinates a step perturbs. Sparsity 0: all of them, nothing is scored."""

    sparsity: float = 0.0
    scores: str = "zo_grasp"  # or "grasp" (autodiff) or "random"
    samples_per_class: int = 25  # images that scores are computed on
    num_directions: int = 192  # zo_grasp: directions of each gradient estimate
    smoothing: float = 5e-3  # zo_grasp
    step: float = 5e-3  # zo_grasp: length of the step along the estimated gradient
    variant: str = "shared"  # zo_grasp: directions, or "independent", or "released"
    prune: str = "highest"  # scores that go first; "smallest_magnitude" as released
    mask_interval: str = "5 epochs"  # coordinates are redrawn every "n steps" or "n epochs"
    mask: str = "gradient"  # what is sparse: "gradient", "update" or "weights"


@dataclass(frozen=True)
class Sampling:
    """How the coordinates of a step are drawn."""

    # At the ratios of Pruning; or "price_aware"; or "blocks", one after the other.
    name: str = "layer_ratios"
    unbiased: bool = False  # layer_ratios: estimates divided by their leaf's rate
    # price_aware: what a step may cost. "layer ratios": as much as Pruning's ratios would;
    # or "10 %" of the dense price, or "2e12 multiply-adds", or "1.5 s".
    budget: str = "layer ratios"
    decay: float = 0.9  # price_aware: of the moving average of squared estimates
    num_blocks: int = 10  # blocks: steps that see each coordinate once
    # Earlier estimates of the other coordinates count too, decayed by this at every step.
    coherence: float | None = None


@dataclass(frozen=True)
class Optimizer:
    """The update rule and its schedule."""

    name: str = "sgd"  # or "adam", "adamw"
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = "cosine"  # or "constant"
    warmup_epochs: float = 0.0


@dataclass(frozen=True)
class Mesh:
    """How the devices of all processes share a step; a resumed run may change it."""

    coordinates: int | None = _local(None)  # devices over which coordinates are dealt; None: all
    data: int = _local(1)  # devices that share one batch, where activations do not fit


@dataclass(frozen=True)
class Training:
    """Length of the run and how often it looks up."""

    num_epochs: float = 50.0
    num_steps: int | None = None  # instead of num_epochs
    evaluation_epochs: float = 1.0
    checkpoint_seconds: float = _local(60.0)


@dataclass(frozen=True)
class Config:
    """One experiment."""

    seed: int = 0
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    estimator: Estimator = field(default_factory=Estimator)
    pruning: Pruning = field(default_factory=Pruning)
    sampling: Sampling = field(default_factory=Sampling)
    optimizer: Optimizer = field(default_factory=Optimizer)
    training: Training = field(default_factory=Training)
    mesh: Mesh = field(default_factory=Mesh)


@dataclass(frozen=True)
class Classifier:
    """The black box, trained first by autodiff (Adam) and written as an ONNX file."""

    model: str = "cnn2"
    width: int | None = 12
    num_epochs: float = 40.0
    learning_rate: float = 3e-3
    batch_size: int = 64
    augment: bool = False


@dataclass(frozen=True)
class Denoiser:
    """The DnCNN in front of the box; pre-training to restore clean images asks no query."""

    depth: int = 5
    width: int = 16
    use_norm: bool = False
    pretraining_steps: int = 4000
    learning_rate: float = 3e-3  # of pre-training, Adam


@dataclass(frozen=True)
class AutoEncoder:
    """The bottleneck of ZO-AE-DS, trained on clean images, no query."""

    latent: int = 4
    width: int = 16
    pretraining_steps: int = 3000
    learning_rate: float = 3e-3


@dataclass(frozen=True)
class DefenseTraining:
    """The stability training of the methods, at equal numbers of queries."""

    methods: str = "deepzero, zo_ae_ds, zo_ds, fo_ds, none"
    num_queries: int = 100_000  # of each zeroth-order method, a query is one batch
    batch_size: int = 64
    held_out: int = 200  # training images kept for the score "stability"
    chunk: int = 64  # perturbed passes in one call of the box
    smoothing: float = 5e-3
    learning_rate: float = 3e-3  # Adam, cosine
    fraction: float = 0.1  # deepzero: of the coordinates of every kernel, a step
    num_directions: int = 16  # zo_ds
    first_order_steps: int = 3000  # fo_ds
    checkpoint_seconds: float = _local(60.0)


@dataclass(frozen=True)
class Certification:
    """Randomized smoothing."""

    sigma: float = 0.25
    num_selection: int = 100
    num_samples: int = 10_000
    alpha: float = 0.001
    radii: str = "0, 0.25, 0.5, 0.75"
    num_images: int = 200
    batch_size: int = 10_000


@dataclass(frozen=True)
class DefenseConfig:
    """A comparison of defenses of a classifier that can only be queried."""

    seed: int = 0
    data: Data = field(default_factory=lambda: Data(name="digits"))
    classifier: Classifier = field(default_factory=Classifier)
    denoiser: Denoiser = field(default_factory=Denoiser)
    autoencoder: AutoEncoder = field(default_factory=AutoEncoder)
    training: DefenseTraining = field(default_factory=DefenseTraining)
    certification: Certification = field(default_factory=Certification)


@dataclass(frozen=True)
class Simulation:
    """The Kuramoto–Sivashinsky equation, coarse and fine."""

    domain_length: float = 22.0
    num_points: int = 24  # coarse grid
    dt: float = 0.2  # coarse step
    refinement: int = 8  # the fine grid has so many times the points and the steps
    num_train_runs: int = 16
    num_train_frames: int = 200  # of each, one coarse step apart
    num_validation_runs: int = 8
    num_test_runs: int = 8
    num_test_frames: int = 60


@dataclass(frozen=True)
class Channel:
    """Flow past a cylinder in a channel, coarse and fine."""

    num_along: int = 64  # coarse cells along the channel
    num_across: int = 32
    dt: float = 1.0
    advection: str = "semi_lagrangian"  # of the coarse solver, or "maccormack"
    refinement: int = 4  # the fine grid has so many times the cells, along and across
    warm_up: int = 1000  # steps before the first frame
    num_frames: int = 500
    train_reynolds: str = "98, 140, 195, 280, 391, 560"
    validation_reynolds: str = "165, 470"
    test_reynolds: str = "120, 170, 240, 340, 480"


@dataclass(frozen=True)
class Correction:
    """The network that corrects the coarse state after every step."""

    width: int = 8
    depth: int = 3
    kernel: int = 5


@dataclass(frozen=True)
class SolverTraining:
    """The training of the corrections."""

    methods: str = "src, non, zo_sol, fo_sol"
    num_seeds: int = 3  # trainings of each method
    num_steps: int = 1500  # of each training
    unroll: int = 8  # solver steps in a row that a loss looks at (non: 1)
    batch_size: int = 16
    learning_rate: float = 1e-2  # Adam, cosine
    smoothing: float = 1e-3  # zo_sol
    chunk: int = 64  # zo_sol: coordinates in one call of the solver
    checkpoint_seconds: float = _local(60.0)


@dataclass(frozen=True)
class SolverConfig:
    """A comparison of corrections of a solver that can only be queried."""

    seed: int = 0
    case: str = "ks"  # Kuramoto–Sivashinsky, or "wake"
    simulation: Simulation = field(default_factory=Simulation)  # ks
    channel: Channel = field(default_factory=Channel)  # wake
    correction: Correction = field(default_factory=Correction)
    training: SolverTraining = field(default_factory=SolverTraining)


AnyConfig = Config | DefenseConfig | SolverConfig
SCHEMAS = (Config, DefenseConfig, SolverConfig)
