"""Solver in the loop on the Kuramoto–Sivashinsky equation: five methods, then their errors.

  python train.py --config configs/sol_ks.py

A coarse solver in NumPy stands for the program that can only be run; exponax gives the fine
solutions and, for FO-SOL alone, a twin of the solver that autodiff passes through.
Measured on two CPU cores, three seeds, 18 min: error 0.0227 without correction, 0.0199 NON,
0.0084 ZO-SOL, 0.0085 FO-SOL; asked at the boundary 0.0094, as FO-SOL beside it (0.0094).
"""

from deepzero_jax.applications.solver_in_the_loop.config import SolverConfig, Training


def get_config() -> SolverConfig:
    """A correction of 417 parameters, trained through rollouts of 8 steps."""
    return SolverConfig(training=Training(smoothing=1e-4))
