"""Solver in the loop on the wake of a cylinder: methods, then their errors.

  python train.py --config configs/sol_wake.py

A coarse solver in NumPy stands for the program that can only be run; its advection loses
too much energy. Fine solutions are kept in the run folder. Source: Um et al., 2020.
Measured on two CPU cores, three seeds of 44 min: error 0.0931 without correction, 0.0416 NON,
0.0249 ZO-SOL, 0.0241 FO-SOL (paper: 0.180, 0.153, 0.119, 0.074).
"""

from deepzero_jax.applications.solver_in_the_loop.config import Correction, SolverConfig, Training


def get_config() -> SolverConfig:
    """A correction of 608 parameters, trained through rollouts of 8 steps."""
    # At the boundary a step would ask 28,680 states. One window a step is noisy, so the rate
    # is low.
    methods = ("src", "non", "zo_sol", "fo_sol")
    training = Training(methods, num_seeds=1, num_steps=500, batch_size=1, learning_rate=3e-3)
    correction = Correction(width=6, depth=3, kernel=3)
    return SolverConfig(case="wake", correction=correction, training=training)
