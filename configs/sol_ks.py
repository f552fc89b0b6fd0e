"""Solver in the loop on the Kuramoto–Sivashinsky equation: four methods, then their errors.

  python train.py --config configs/sol_ks.py

A coarse solver in NumPy stands for the program that can only be run; exponax gives the fine
solutions and, for FO-SOL alone, a twin of the solver that autodiff passes through.
"""

from configs.schema import SolverConfig


def get_config() -> SolverConfig:
    """A correction of 417 parameters, trained through rollouts of 8 steps."""
    return SolverConfig()
