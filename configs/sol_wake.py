"""Solver in the loop on the wake of a cylinder: four methods, then their errors.

  python train.py --config configs/sol_wake.py

A coarse solver in NumPy stands for the program that can only be run. The fine solutions take some
minutes, and are kept in the run folder.
"""

from configs.schema import Correction, SolverConfig, SolverTraining


def get_config() -> SolverConfig:
    """A correction of 758 parameters, trained through rollouts of 4 steps."""
    return SolverConfig(
        case="wake",
        correction=Correction(width=6, depth=2, kernel=5),
        training=SolverTraining(num_seeds=1, num_steps=1000, unroll=4, batch_size=3, chunk=32),
    )
