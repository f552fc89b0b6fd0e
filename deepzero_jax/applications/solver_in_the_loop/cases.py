"""The equations of a SolverConfig: coarse solver, twin, fine solutions, network, pictures."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from deepzero_jax.applications.solver_in_the_loop import kuramoto_sivashinsky as ks
from deepzero_jax.applications.solver_in_the_loop import wake
from deepzero_jax.applications.solver_in_the_loop.correction import CorrectionNet
from deepzero_jax.applications.solver_in_the_loop.pictures import plot_states, plot_vorticity
from deepzero_jax.applications.solver_in_the_loop.rollout import Frames, Step
from deepzero_jax.files import read_arrays, write_arrays
from deepzero_jax.registry import Registry
from deepzero_jax.training import RunFolderError

if TYPE_CHECKING:  # its fields name the cases
    from deepzero_jax.applications.solver_in_the_loop.config import SolverConfig


class Case(NamedTuple):
    """What a comparison needs to know of its equations.

    Attributes:
      frames: fine solutions as the coarse grid sees them.
      host: the coarse solver, NumPy.
      twin: the same in JAX.
      network: of the correction.
      mask: float [*grid, outputs], where the network may change a state; None: everywhere.
      dt: time between frames.
      draw: ``(true frames, {method: frames}, folder)`` draws one test run.
    """

    frames: Frames
    host: Callable[[np.ndarray], np.ndarray]
    twin: Step
    network: CorrectionNet
    mask: np.ndarray | None
    dt: float
    draw: Callable[[np.ndarray, Mapping[str, np.ndarray], Path], None]


def _kuramoto_sivashinsky(config: "SolverConfig", workdir: Path) -> Case:
    chosen = config.simulation
    problem = chosen
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1), 3)
    sizes = (
        (chosen.num_train_runs, chosen.num_train_frames),
        (chosen.num_validation_runs, chosen.num_test_frames),
        (chosen.num_test_runs, chosen.num_test_frames),
    )
    frames = Frames(
        *(
            ks.fine_frames(key, problem, *size, chosen.refinement)
            for key, size in zip(keys, sizes, strict=True)
        )
    )

    def draw(truth: np.ndarray, found: Mapping[str, np.ndarray], folder: Path) -> None:
        lines = {name: states[..., 0] for name, states in found.items()}
        plot_states(truth[..., 0], lines, chosen.dt, chosen.domain_length, folder / "states.png")

    shape = config.correction
    network = CorrectionNet(1, shape.width, shape.depth, shape.kernel)
    return Case(frames, ks.numpy_solver(problem), ks.twin(problem), network, None, chosen.dt, draw)


def _wake(config: "SolverConfig", workdir: Path) -> Case:
    chosen = config.channel
    problem = chosen
    groups = [
        np.asarray(numbers)
        for numbers in (chosen.train_reynolds, chosen.validation_reynolds, chosen.test_reynolds)
    ]
    kept, reynolds = workdir / "frames.npz", np.concatenate(groups)
    if kept.exists():
        frames = read_frames(kept, (len(reynolds), chosen.num_frames + 1, *problem.shape))
    else:
        frames = wake.fine_frames(
            problem, reynolds, chosen.num_frames, chosen.refinement, chosen.warm_up
        )
        write_arrays(kept, {"frames": frames})
    parts = np.split(frames, np.cumsum([len(group) for group in groups])[:-1])

    def draw(truth: np.ndarray, found: Mapping[str, np.ndarray], folder: Path) -> None:
        last = {name: states[-1] for name, states in {"truth": truth, **found}.items()}
        curls = {name: wake.vorticity(problem, state[None])[0] for name, state in last.items()}
        time = chosen.dt * (len(truth) - 1)
        plot_vorticity(curls, problem.solid, time, folder / "vorticity.png")

    shape = config.correction
    network = CorrectionNet(2, shape.width, shape.depth, shape.kernel, periodic=False)
    lowest = float(min(group.min() for group in groups))
    return Case(
        Frames(*parts),
        wake.numpy_solver(problem, lowest),
        wake.twin(problem, lowest),
        network,
        wake.open_mask(problem),
        chosen.dt,
        draw,
    )


def read_frames(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Fine solutions that were kept; damage fails the checksum of the archive."""
    try:
        frames = read_arrays(path)["frames"]
        if frames.shape[:-1] != shape:
            raise ValueError(f"it holds {frames.shape[:-1]}, not {shape}")
    except (ValueError, KeyError) as error:
        raise RunFolderError(
            f"{path} cannot be read as fine solutions ({error}); remove it, to have them made anew"
        ) from error
    return frames


CASES: Registry[Callable[["SolverConfig", Path], Case]] = Registry(
    "case", {"ks": _kuramoto_sivashinsky, "wake": _wake}
)
