"""Corrections of a solver that several tests share."""

from configs import solver as solvers


def correction_of(config, workdir):
    """The correction of a SolverConfig, its fine solutions made first."""
    return solvers.build_correction(config, solvers.CASES[config.case](config, workdir))
