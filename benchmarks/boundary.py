"""Gradients through a solver that can only be queried, beside what people write by hand.

python -m benchmarks.boundary

The correction of configs/sol_ks.py, 8 unrolled steps, batch 16: ``dz.differentiable``; a
``jax.custom_vjp`` with a Python loop over the inputs; finitediffX's ``define_fdjvp`` (skipped
where it is not installed), which takes functions of
numbers with one number for an answer.
Medians of interleaved steps; errors are of the gradient, against autodiff through the twin.
"""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import jax
import jax.numpy as jnp
import numpy as np

import deepzero_jax as dz
from deepzero_jax.applications.solver_in_the_loop import (
    CASES,
    Correction,
    SolverConfig,
    build_correction,
    rollout_loss,
)

Step = Callable[[jax.Array], jax.Array]
SMOOTHING = 1e-6
OF_FLOAT32 = 1e-3  # what rounding of float32 answers allows


def by_hand(solver: Step, smoothing: float) -> Step:
    """``jax.custom_vjp`` with a Python loop, as the documentation of JAX suggests."""

    @jax.custom_vjp
    def step(states: jax.Array) -> jax.Array:
        return solver(states)

    def forward(states: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        answer = solver(states)
        return answer, (states, answer)

    def backward(kept: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array]:
        states, answer = kept
        slopes = []
        for i in range(states.shape[1]):
            moved = solver(states.at[:, i].add(smoothing))
            slopes.append(jnp.sum(cotangent * (moved - answer), axis=(1, 2)) / smoothing)
        return (jnp.stack(slopes, axis=1)[..., None],)

    step.defvjp(forward, backward)
    return step


def by_finitediffx(solver: Step, smoothing: float) -> Step | None:
    """A function for each of 24 answers; None where finitediffX is not installed."""
    try:
        import finitediffx as fdx  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None

    # It takes functions of numbers with a number for an answer: one for each of a state.
    def number(i: int) -> Callable[..., jax.Array]:
        answer = lambda *numbers: solver(jnp.stack(numbers)[None, :, None])[0, i, 0]
        return fdx.define_fdjvp(answer, offsets=jnp.array([0.0, 1.0]), step_size=smoothing)

    apart = [number(i) for i in range(24)]
    return jax.vmap(lambda state: jnp.stack([one(*state[:, 0]) for one in apart])[:, None])


def measure(
    steps: dict[str, Step],
    box_of: dict[str, dz.blackbox.BlackBox],
    correction: Correction,
    repeats: int = 15,
) -> None:
    """Prints seconds, samples and error of one gradient each."""
    windows = jnp.asarray(correction.frames.train[:16, : correction.unroll + 1])
    params = correction.network.init(jax.random.key(0), windows[:1, 0])["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jnp.float32(rng.normal(size=leaf.shape)), params
    )
    gradients, seconds, samples = {}, {name: [] for name in steps}, {}
    compiled = {}
    for name, step in steps.items():
        loss = rollout_loss(step, correction.correct, correction.unroll, correction.unrolled_error)
        compiled[name] = jax.jit(jax.grad(lambda p, loss=loss: loss(p, {}, windows)[0]))
        gradients[name] = jax.block_until_ready(compiled[name](params))
    for _ in range(repeats):
        for name, gradient in compiled.items():
            asked = box_of[name].num_samples if name in box_of else 0
            start = time.perf_counter()
            jax.block_until_ready(gradient(params))
            seconds[name].append(time.perf_counter() - start)
            samples[name] = box_of[name].num_samples - asked if name in box_of else 0
    exact = gradients["autodiff through the twin"]
    print(f"{'a gradient of 417 parameters':<32}{'ms':>8}{'samples':>9}{'error':>10}")
    for name, values in seconds.items():
        error = dz.gradient_quality(gradients[name], exact).relative_error
        print(f"{name:<32}{1e3 * np.median(values):>8.2f}{samples[name]:>9,}{float(error):>10.1e}")


def main() -> None:
    """Runs the comparison."""
    config = SolverConfig()
    case = CASES["ks"](config, Path(mkdtemp()))
    correction = build_correction(config, case)
    boxes = {
        "dz.differentiable": dz.black_box(case.host, (24, 1), dtype="float64"),
        "jax.custom_vjp, Python loop": dz.black_box(case.host, (24, 1)),
        "finitediffX define_fdjvp": dz.black_box(case.host, (24, 1)),
    }
    own = dz.differentiable(boxes["dz.differentiable"], dz.cge(smoothing=SMOOTHING))
    steps = {
        "dz.differentiable": own,
        "jax.custom_vjp, Python loop": by_hand(boxes["jax.custom_vjp, Python loop"], OF_FLOAT32),
        "finitediffX define_fdjvp": by_finitediffx(boxes["finitediffX define_fdjvp"], OF_FLOAT32),
        "autodiff through the twin": case.twin,
    }
    measure({name: step for name, step in steps.items() if step is not None}, boxes, correction)


if __name__ == "__main__":
    main()
