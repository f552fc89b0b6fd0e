"""The fields of a record that compares corrections of a solver: defaults, meanings, ranges."""

from dataclasses import dataclass

from deepzero_jax.applications.solver_in_the_loop.cases import CASES
from deepzero_jax.applications.solver_in_the_loop.kuramoto_sivashinsky import KuramotoSivashinsky
from deepzero_jax.applications.solver_in_the_loop.methods import METHODS
from deepzero_jax.applications.solver_in_the_loop.wake import Wake
from deepzero_jax.estimators import check_smoothing
from deepzero_jax.fields import OneOf, Range, Readable, section, setting
from deepzero_jax.training import RecordSmoothing, check_record_smoothing

COUNT = Range(at_least=1, below=2**31)
REFINEMENT = Range(at_least=1, at_most=1000)
REYNOLDS = Range(above=0, at_most=1e9)
STEP = Readable(check_record_smoothing)


@dataclass(frozen=True)
class Simulation(KuramotoSivashinsky):
    """The Kuramoto–Sivashinsky equation, coarse and fine."""

    refinement: int = setting(
        8, REFINEMENT, "the fine grid has so many times the points and the steps"
    )
    num_train_runs: int = setting(16, COUNT)
    num_train_frames: int = setting(200, COUNT, "of each, one coarse step apart")
    num_validation_runs: int = setting(8, COUNT)
    num_test_runs: int = setting(8, COUNT)
    num_test_frames: int = setting(60, COUNT)


@dataclass(frozen=True)
class Channel(Wake):
    """Flow past a cylinder in a channel, coarse and fine."""

    refinement: int = setting(
        4, REFINEMENT, "the fine grid has so many times the cells, along and across"
    )
    warm_up: int = setting(1000, Range(at_least=0, below=2**31), "steps before the first frame")
    num_frames: int = setting(500, COUNT)
    train_reynolds: tuple[float, ...] = setting((98.0, 140.0, 195.0, 280.0, 391.0, 560.0), REYNOLDS)
    validation_reynolds: tuple[float, ...] = setting((165.0, 470.0), REYNOLDS)
    test_reynolds: tuple[float, ...] = setting((120.0, 170.0, 240.0, 340.0, 480.0), REYNOLDS)


@dataclass(frozen=True)
class Correction:
    """The network that corrects the coarse state after every step."""

    width: int = setting(8, Range(at_least=1, at_most=2**16), "channels")
    depth: int = setting(3, Range(at_least=1, at_most=1000), "convolutions")
    kernel: int = setting(5, Range(at_least=1, at_most=1001, odd=True), "their extent")


@dataclass(frozen=True)
class Training:
    """The training of the corrections."""

    methods: tuple[str, ...] = setting(tuple(METHODS), OneOf(METHODS), "in this order")
    num_seeds: int = setting(3, Range(at_least=1, at_most=10_000), "trainings of each method")
    num_steps: int = setting(1500, COUNT, "of each training")
    unroll: int = setting(
        8, Range(at_least=1, at_most=10_000), "solver steps in a row that a loss looks at (non: 1)"
    )
    batch_size: int = setting(16, COUNT, "windows a step")
    learning_rate: float = setting(1e-2, Range(above=0), "Adam, cosine")
    smoothing: RecordSmoothing = setting(
        1e-3, STEP, "zo_sol, of the parameters; auto: probed before the first step"
    )
    boundary_smoothing: float = setting(
        1e-6, Readable(check_smoothing), "zo_sol_boundary, of the solver's inputs"
    )
    chunk_size: int = setting(64, COUNT, "zo_sol: coordinates in one call of the solver")
    checkpoint_seconds: float = setting(60.0, Range(at_least=0), local=True)


@dataclass(frozen=True)
class SolverConfig:
    """A comparison of corrections of a solver that can only be queried."""

    seed: int = setting(0, Range(at_least=0, below=2**32), "of every random draw")
    case: str = setting("ks", OneOf(CASES), "Kuramoto–Sivashinsky, or wake")
    simulation: Simulation = section(Simulation)
    channel: Channel = section(Channel)
    correction: Correction = section(Correction)
    training: Training = section(Training)

    def check(self) -> None:
        """Raises ValueError for fields that do not go together."""
        lengths = {
            "ks": ("simulation.num_train_frames", self.simulation.num_train_frames),
            "wake": ("channel.num_frames", self.channel.num_frames),
        }
        name, length = lengths.get(self.case, ("", self.training.unroll))
        if length < self.training.unroll:
            raise ValueError(
                f"training.unroll {self.training.unroll} needs a {name} of as much, got {length}"
            )
        if self.case == "wake" and not self.channel.is_flowed_past:
            raise ValueError(
                f"channel.radius {self.channel.radius:g}: the cylinder must cover the centre of a "
                f"coarse cell, of {self.channel.cell:g}, and leave fluid in front and on both sides"
            )
