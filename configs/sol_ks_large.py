"""Solver in the loop: a correction of 62,337 parameters, trained at the solver's inputs.

  python train.py --config configs/sol_ks_large.py

At the parameters a gradient would cost 62,338 queries; at the boundary, a state of 24 numbers, 25.
Measured: error 0.0010, FO-SOL 0.0010; a seed of 8.4 M samples takes 593 s on one shared core.
"""

from deepzero_jax.applications.solver_in_the_loop.config import Correction, SolverConfig, Training


def get_config() -> SolverConfig:
    """Width 64, depth 5, trained through rollouts of 8 steps."""
    methods = ("src", "zo_sol_boundary", "fo_sol")
    training = Training(methods, num_steps=3000, learning_rate=1e-3)
    return SolverConfig(correction=Correction(width=64, depth=5), training=training)
