"""Solver in the loop on the Kuramoto–Sivashinsky equation: five methods, then their errors.

  python train.py --config configs/sol_ks.py

A coarse solver in NumPy stands for the program that can only be run; exponax gives the fine
solutions and, for FO-SOL alone, a twin of the solver that autodiff passes through.
Measured, three seeds, 33 min on one shared core: error 0.0227 without correction, 0.0176 NON,
0.0094 ZO-SOL (70.2 M samples a training), at the boundary (4.2 M; 40 s on one), FO-SOL.
"""

from deepzero_jax.applications.solver_in_the_loop.config import SolverConfig, Training


def get_config() -> SolverConfig:
    """A correction of 417 parameters, trained through rollouts of 8 steps."""
    return SolverConfig(training=Training(smoothing=1e-4))
