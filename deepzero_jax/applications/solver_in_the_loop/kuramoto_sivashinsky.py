"""The Kuramoto–Sivashinsky equation: a coarse solver in NumPy, its JAX twin, fine solutions.

``u_t = -(u²)_x / 2 - u_xx - u_xxxx`` on a periodic interval, by exponential time
differencing Runge–Kutta of second order in Fourier space (Cox and Matthews, 2002) with the
2/3 rule. The twin and the fine solutions are exponax's (Koehler et al., 2024); the NumPy
solver is written apart from it, and stands for a program that can only be run.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.fields import Range, check_fields, setting
from deepzero_jax.types import Key

if TYPE_CHECKING:
    import exponax

# States [n, points, 1] → states one step later.
HostSolver = Callable[[np.ndarray], np.ndarray]
Solver = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class KuramotoSivashinsky:
    """The Kuramoto–Sivashinsky equation as the coarse solver sees it."""

    domain_length: float = setting(
        22.0, Range(above=0, at_most=1e6), "of the periodic interval; 22 is chaotic"
    )
    num_points: int = setting(24, Range(at_least=8, at_most=2**16), "equidistant")
    dt: float = setting(0.2, Range(above=0, at_most=1e3), "time of one step")


def numpy_solver(problem: KuramotoSivashinsky) -> HostSolver:
    """One step for a batch of states float [n, points, 1], computed in float64.

    Every linear part of the scheme is one real matrix, made by applying it to unit vectors.
    """
    check_fields(problem)
    count = problem.num_points
    modes = np.arange(count // 2 + 1)
    derivative = 2j * np.pi / problem.domain_length * modes
    growth = problem.dt * (-(derivative**2) - derivative**4).real
    # As exponax counts modes: its rounding drops the last one of 49 points in float64.
    counted = np.fft.rfftfreq(count, 1 / count).astype(jnp.result_type(float))
    kept = counted <= counted.dtype.type(2 / 3 * (count // 2) - 1)
    # Means over a circle around each value: the plain quotients cancel near zero.
    circle = np.exp(2j * np.pi * (np.arange(32) + 0.5) / 32)[:, None] + growth
    first = problem.dt * np.mean(np.expm1(circle) / circle, 0).real
    second = problem.dt * np.mean((np.exp(circle) - 1 - circle) / circle**2, 0).real
    unit = np.fft.rfft(np.eye(count))
    matrix = lambda factor: np.fft.irfft(factor * unit, count)
    smooth, decay = matrix(kept), matrix(np.exp(growth))
    advection, correction = (matrix(-0.5 * c * derivative * kept) for c in (first, second))

    def solve(states: np.ndarray) -> np.ndarray:
        now = np.asarray(states, np.float64)[..., 0]
        squares = (now @ smooth) ** 2
        predicted = now @ decay + squares @ advection
        later = predicted + ((predicted @ smooth) ** 2 - squares) @ correction
        return later[..., None].astype(states.dtype)

    return solve


def _stepper(problem: KuramotoSivashinsky) -> "exponax.BaseStepper":
    try:
        import exponax
    except ImportError as error:
        raise ImportError(
            'Kuramoto–Sivashinsky needs exponax: pip install "deepzero-jax[solver]"'
        ) from error
    return exponax.stepper.KuramotoSivashinskyConservative(
        1, problem.domain_length, problem.num_points, problem.dt
    )


def twin(problem: KuramotoSivashinsky) -> Solver:
    """The same step as a JAX function, which autodiff passes through.

    Raises:
      ImportError: exponax is not installed.
    """
    step = jax.vmap(_stepper(problem))
    return lambda states: jnp.swapaxes(step(jnp.swapaxes(states, 1, 2)), 1, 2)


def fine_frames(
    key: Key,
    problem: KuramotoSivashinsky,
    num_runs: int,
    num_frames: int,
    refinement: int = 8,
    warm_up: float = 200.0,
) -> np.ndarray:
    """Solutions on a finer grid with finer steps, as the coarse grid sees them.

    Args:
      key: of the random initial conditions.
      problem: the coarse one.
      num_runs: solutions, each from an initial condition of its own.
      num_frames: after the first, one coarse step apart.
      refinement: of points and of steps.
      warm_up: time that runs before the first frame, to forget the initial condition.

    Returns:
      float32 [runs, frames + 1, points, 1].

    Raises:
      ImportError: exponax is not installed.
    """
    fine = KuramotoSivashinsky(
        problem.domain_length, refinement * problem.num_points, problem.dt / refinement
    )
    step = jax.vmap(_stepper(fine))

    def steps(states: jax.Array, count: int) -> jax.Array:
        return jax.lax.fori_loop(0, count, lambda _, now: step(now), states)

    @jax.jit
    def solve(key: jax.Array) -> jax.Array:
        amplitudes, phases = jax.random.normal(key, (2, num_runs, 4, 1))
        grid = jnp.arange(fine.num_points) / fine.num_points
        waves = jnp.arange(1, 5)[:, None] * grid + phases
        start = jnp.sum(amplitudes * jnp.sin(2 * jnp.pi * waves), 1, keepdims=True)
        start = steps(start, round(warm_up / fine.dt))

        def frame(states: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            return steps(states, refinement), states[:, 0, ::refinement]

        _, frames = jax.lax.scan(frame, start, length=num_frames + 1)
        return jnp.swapaxes(frames, 0, 1)[..., None]

    return np.asarray(solve(key))
