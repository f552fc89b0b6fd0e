"""Solver in the loop on the wake of a cylinder: four methods, then their errors.

  python train.py --config configs/sol_wake.py

A coarse solver in NumPy stands for the program that can only be run; its semi-Lagrangian advection
makes vortices that are too weak and too slow. The fine solutions take some minutes, and are kept in
the run folder.
"""

from configs.schema import Correction, SolverConfig, SolverTraining


def get_config() -> SolverConfig:
    """A correction of 608 parameters, trained through rollouts of 8 steps."""
    return SolverConfig(
        case="wake",
        correction=Correction(width=6, depth=3, kernel=3),
        # One window a step is noisy: at the usual 1e-2 the result depends on the seed.
        training=SolverTraining(
            num_seeds=1, num_steps=500, unroll=8, batch_size=1, learning_rate=3e-3, chunk=64
        ),
    )
