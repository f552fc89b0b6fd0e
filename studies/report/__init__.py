"""docs/results.md and its figures, made from the results that are committed."""

from collections.abc import Callable

from studies import (
    applications,
    cge_vs_rge,
    defense_gradients,
    equal_queries,
    gradient_quality,
    price_aware,
    pruning,
    quickstart,
    recipe,
    sparsity,
    spending,
    trajectory,
)
from studies.report.application_tables import (
    defense_gradients_section,
    defense_section,
    solver_section,
)
from studies.report.committed import Result, results
from studies.report.equal_queries_table import equal_queries_section
from studies.report.ladder_table import cge_vs_rge_section
from studies.report.sparsity_table import recipe_section, sparsity_section
from studies.report.tables import (
    gradient_quality_section,
    price_aware_section,
    pruning_section,
    quickstart_section,
    spending_section,
    trajectory_section,
)

_HEAD = """# Results

Made by `python -m studies.report` from `studies/results/`, where each run's command, commit,
hardware and summary lie. Numbers are test accuracies in per cent on the 10,000 test images of
CIFAR-10: mean ± standard deviation over seeds (number of runs). What was not run says so. Another
kind of processor or version of jax rounds in other places, which in a long run can make some tenths
of a point.
"""

_SECTIONS: tuple[tuple[str, Callable[[list[Result]], str]], ...] = (
    (quickstart.STUDY, quickstart_section),
    (price_aware.STUDY, price_aware_section),
    (spending.STUDY, spending_section),
    (cge_vs_rge.STUDY, cge_vs_rge_section),
    (sparsity.STUDY, sparsity_section),
    (recipe.STUDY, recipe_section),
    (trajectory.STUDY, trajectory_section),
    (pruning.STUDY, pruning_section),
    (gradient_quality.STUDY, gradient_quality_section),
    (equal_queries.STUDY, equal_queries_section),
    (applications.STUDY, defense_section),
    (defense_gradients.STUDY, defense_gradients_section),
    (applications.STUDY, solver_section),
)


def report() -> str:
    """The text of docs/results.md."""
    sections = [section(results(study)) for study, section in _SECTIONS]
    return "\n\n".join([_HEAD.rstrip(), *sections]) + "\n"
