"""Two-dimensional unsteady flow past a cylinder: one scheme, in NumPy and as a JAX twin.

Incompressible Navier–Stokes in a channel, on a staggered grid: semi-Lagrangian advection, with or
without the correction of MacCormack (Selle et al., 2008), explicit diffusion, projection onto
fields without divergence. The set-up is that of
Um et al., NeurIPS 2020: a domain of 200 by 100, a cylinder of radius 10 at (50, 50), inflow of
speed 1, free-slip walls, an open end.

A state is float [n, along, across, 3]: the velocity along the channel on the downstream face of
each cell, the velocity across it on the upper face, and the Reynolds number in thousands, which
no step changes. The face of the inflow, and those of the walls, are known and not stored.
"""

import dataclasses
import functools
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.applications.solver_in_the_loop.transport import Advection, advected, diffused
from deepzero_jax.bars import tell
from deepzero_jax.fields import Range, check_fields, setting
from deepzero_jax.types import Array

if TYPE_CHECKING:
    from scipy import sparse

# Right-hand sides [n, cells] → pressures [n, cells].
Poisson = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class Wake:
    """The channel as a solver sees it."""

    num_along: int = setting(64, Range(at_least=8, at_most=2**14), "cells along the channel")
    num_across: int = setting(
        32, Range(at_least=4, at_most=2**14), "cells across it; cells are squares"
    )
    dt: float = setting(1.0, Range(above=0, at_most=1e3), "time of one step")
    length: float = setting(200.0, Range(above=0, at_most=1e6), "of the channel")
    radius: float = setting(
        10.0,
        Range(above=0, at_most=1e6),
        "of the cylinder, whose centre lies at a quarter of the length, halfway across",
    )
    advection: Advection = setting(
        "semi_lagrangian",
        meaning="semi_lagrangian is simpler, and more viscous: it loses more energy",
    )

    @property
    def shape(self) -> tuple[int, int]:
        """Cells along and across."""
        return self.num_along, self.num_across

    @property
    def cell(self) -> float:
        """Edge of a cell."""
        return self.length / self.num_along

    @property
    def solid(self) -> np.ndarray:
        """Cells whose centre lies in the cylinder: bool [along, across]."""
        along, across = self._from_centre
        return np.hypot(along[:, None], across) < self.radius

    @property
    def is_flowed_past(self) -> bool:
        """Whether the cylinder covers a cell, and fluid comes in and passes on both sides."""
        along, across = (np.abs(distance) for distance in self._from_centre)
        widest = np.hypot(along.min(), across) < self.radius
        walls, inflow = widest[[0, -1]], np.hypot(along[0], across.min())
        return bool(widest.any() and not walls.any() and inflow >= self.radius)

    @property
    def _from_centre(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the cylinder to the cells, along and across."""
        along, across = (self.cell * (np.arange(n) + 0.5) for n in self.shape)
        return along - self.length / 4, across - self.cell * self.num_across / 2


@functools.cache
def _open_faces(problem: Wake) -> tuple[np.ndarray, np.ndarray]:
    """Stored faces through which fluid flows: bool [along, across], along and across."""
    fluid = ~problem.solid
    beyond = np.ones((1, problem.num_across), bool)  # the open end
    along = fluid & np.concatenate([fluid[1:], beyond])
    across = fluid & np.concatenate([fluid[:, 1:], np.zeros((problem.num_along, 1), bool)], 1)
    return along, across


def _laplacian(problem: Wake) -> "sparse.csc_array":
    """Of pressures, in units of one over the squared cell; sparse [cells, cells]."""
    from scipy import sparse

    number = np.arange(problem.num_along * problem.num_across).reshape(problem.shape)
    along, across = _open_faces(problem)
    pairs = [
        (number[:-1][along[:-1]], number[1:][along[:-1]]),
        (number[:, :-1][across[:, :-1]], number[:, 1:][across[:, :-1]]),
    ]
    first, second = (np.concatenate([pair[i] for pair in pairs]) for i in (0, 1))
    links = sparse.coo_array((np.ones(len(first)), (first, second)), (number.size,) * 2)
    links = links + links.T
    diagonal = np.asarray(links.sum(1)).ravel()
    diagonal[number[-1]] += 1  # the pressure beyond the open end is zero
    diagonal[diagonal == 0] = 1  # inside the cylinder
    return (links - sparse.diags_array(diagonal)).tocsc()


def _factorised(problem: Wake) -> Poisson:
    """By a sparse LU factorisation, in float64."""
    from scipy.sparse.linalg import splu

    factors = splu(_laplacian(problem))
    return lambda sources: factors.solve(sources.T.astype(np.float64)).T.astype(sources.dtype)


def _inverted(problem: Wake) -> np.ndarray:
    """The dense inverse of the Laplacian, float64 [cells, cells]."""
    return np.linalg.inv(_laplacian(problem).toarray())


def _step(problem: Wake, xp: ModuleType, solve: Poisson, states: Array, substeps: int) -> Array:
    """One step of states in ``xp``, which is NumPy or jax.numpy."""
    along_open, across_open = _open_faces(problem)
    along, across, thousands = (states[..., i] for i in range(3))
    courant = problem.dt / problem.cell
    # With the faces that are not stored: inflow before, wall before.
    full_along = xp.concatenate([xp.ones_like(along[:, :1]), along], axis=1)
    full_across = xp.concatenate([xp.zeros_like(across[:, :, :1]), across], axis=2)

    # Each velocity on the faces of the other.
    across_there = 0.5 * (full_across[:, :, 1:] + full_across[:, :, :-1])
    across_there = xp.concatenate([across_there[:, :1], across_there, across_there[:, -1:]], axis=1)
    across_there = 0.5 * (across_there[:, 1:] + across_there[:, :-1])
    along_there = 0.5 * (full_along[:, 1:] + full_along[:, :-1])
    along_there = xp.concatenate(
        [along_there[:, :, :1], along_there, along_there[:, :, -1:]], axis=2
    )
    along_there = 0.5 * (along_there[:, :, 1:] + along_there[:, :, :-1])

    move = functools.partial(advected, xp, problem.advection)
    new_along = move(full_along, courant * full_along, courant * across_there)
    new_across = move(full_across, courant * along_there, courant * full_across)

    viscosity = 2 * problem.radius / (1000 * thousands[:, :1, :1])
    number = viscosity * problem.dt / (substeps * problem.cell**2)
    for _ in range(substeps):
        new_along = diffused(xp, new_along, number, "slip")
        new_across = diffused(xp, new_across, number, "none")
        new_along = xp.concatenate(
            [xp.ones_like(along[:, :1]), new_along[:, 1:] * along_open], axis=1
        )
        new_across = xp.concatenate(
            [xp.zeros_like(across[:, :, :1]), new_across[:, :, 1:] * across_open], axis=2
        )

    divergence = new_along[:, 1:] - new_along[:, :-1] + new_across[:, :, 1:] - new_across[:, :, :-1]
    pressure = solve((divergence * ~problem.solid).reshape(len(states), -1))
    pressure = pressure.reshape(divergence.shape)
    beyond = xp.zeros_like(pressure[:, :1])
    slope_along = xp.concatenate([pressure[:, 1:], beyond], axis=1) - pressure
    beyond = xp.zeros_like(pressure[:, :, :1])
    slope_across = xp.concatenate([pressure[:, :, 1:], beyond], axis=2) - pressure
    return xp.stack(
        [
            new_along[:, 1:] - slope_along * along_open,
            new_across[:, :, 1:] - slope_across * across_open,
            thousands,
        ],
        axis=-1,
    )


def _substeps(problem: Wake, lowest_reynolds: float) -> int:
    """Steps of diffusion that keep it stable."""
    number = 2 * problem.radius / lowest_reynolds * problem.dt / problem.cell**2
    return max(1, int(np.ceil(number / 0.2)))


def numpy_solver(
    problem: Wake, lowest_reynolds: float = 90.0, chunk: int = 64
) -> Callable[[np.ndarray], np.ndarray]:
    """One step of float states [n, along, across, 3].

    Args:
      problem: the channel.
      lowest_reynolds: for which diffusion must be stable.
      chunk: states at a time, to stay in cache.
    """
    check_fields(problem)
    solve, substeps = _factorised(problem), _substeps(problem, lowest_reynolds)

    def run(states: np.ndarray) -> np.ndarray:
        parts = [states[i : i + chunk] for i in range(0, len(states), chunk)]
        return np.concatenate([_step(problem, np, solve, part, substeps) for part in parts])

    return run


def twin(problem: Wake, lowest_reynolds: float = 90.0) -> Callable[[jax.Array], jax.Array]:
    """The same step as a JAX function, which autodiff passes through; for small grids."""
    inverse = _inverted(problem).T
    substeps = _substeps(problem, lowest_reynolds)

    def run(states: jax.Array) -> jax.Array:
        solve = lambda sources: jnp.dot(
            sources, jnp.asarray(inverse, sources.dtype), precision="highest"
        )
        return jnp.asarray(_step(problem, jnp, solve, states, substeps))

    return run


def divergence(problem: Wake, states: np.ndarray) -> np.ndarray:
    """Net outflow of every fluid cell, in units of inflow × cell: [n, along, across]."""
    along = np.concatenate([np.ones_like(states[:, :1, :, 0]), states[..., 0]], axis=1)
    across = np.concatenate([np.zeros_like(states[:, :, :1, 1]), states[..., 1]], axis=2)
    return (np.diff(along, axis=1) + np.diff(across, axis=2)) * ~problem.solid


def vorticity(problem: Wake, states: np.ndarray) -> np.ndarray:
    """On the inner corners of the grid: [n, along − 1, across − 1]."""
    along, across = states[..., 0], states[..., 1]
    turned = np.diff(across, axis=1)[:, :, :-1] - np.diff(along, axis=2)[:, :-1]
    return turned / problem.cell


def coarsened(states: np.ndarray, factor: int) -> np.ndarray:
    """States of a grid ``factor`` times finer: the mean flow through each coarse face."""
    n, along, across, _ = states.shape
    blocks = states.reshape(n, along // factor, factor, across // factor, factor, 3)
    return np.stack(
        [
            blocks[:, :, -1, :, :, 0].mean(-1),
            blocks[:, :, :, :, -1, 1].mean(2),
            blocks[:, :, 0, :, 0, 2],
        ],
        axis=-1,
    )


def resting_start(problem: Wake, reynolds: np.ndarray) -> np.ndarray:
    """Uniform flow with a slight bend, so that shedding sets in: float32 [n, along, across, 3]."""
    along = np.ones(problem.shape)
    middle = problem.cell * (np.arange(problem.num_along) + 0.5) / problem.length
    across = 0.1 * np.sin(2 * np.pi * middle)[:, None] * np.ones(problem.num_across)
    across[:, -1] = 0
    flow = np.stack(np.broadcast_arrays(along, across), axis=-1)
    states = np.broadcast_to(flow, (len(reynolds), *flow.shape))
    thousands = np.broadcast_to((reynolds / 1000)[:, None, None, None], (*states.shape[:-1], 1))
    return np.concatenate([states, thousands], axis=-1).astype(np.float32)


def open_mask(problem: Wake) -> np.ndarray:
    """Stored faces that are neither wall nor in the cylinder: float32 [along, across, 2]."""
    return np.stack(_open_faces(problem), axis=-1).astype(np.float32)


def fine_frames(
    problem: Wake, reynolds: np.ndarray, num_frames: int, refinement: int = 4, warm_up: int = 1000
) -> np.ndarray:
    """Solutions on a finer grid with the same steps, as the coarse grid sees them.

    A bar around the call is told of each step.

    Args:
      problem: the coarse one.
      reynolds: a solution for each number.
      num_frames: after the first, one step apart.
      refinement: of the cells, along and across.
      warm_up: steps before the first frame, for shedding to set in.

    Returns:
      float32 [solutions, frames + 1, along, across, 3].
    """
    fine = Wake(
        refinement * problem.num_along,
        refinement * problem.num_across,
        problem.dt,
        problem.length,
        problem.radius,
        "maccormack",
    )
    solve, states = numpy_solver(fine, float(reynolds.min())), resting_start(fine, reynolds)
    for _ in range(warm_up):
        states = solve(states)
        tell(1, warm_up + num_frames, "steps")
    mask = np.concatenate([open_mask(problem), np.ones((*problem.shape, 1), np.float32)], axis=-1)
    frames = [coarsened(states, refinement) * mask]
    for _ in range(num_frames):
        states = solve(states)
        tell(1, warm_up + num_frames, "steps")
        frames.append(coarsened(states, refinement) * mask)
    return np.stack(frames, axis=1)
