"""The table and the figure of the study of equal queries."""

from pathlib import Path

import numpy as np

from deepzero_jax.pictures import pyplot, save_figure
from studies import equal_queries
from studies.report.committed import Result, chosen
from studies.report.markdown import head, row
from studies.searchers import METHODS

_TITLES = {
    "cge_dense": "CGE, all coordinates",
    "cge_few": "CGE, a few coordinates a step",
    "cge_price_aware": "CGE, price-aware",
    "cge_wide": "CGE, a few coordinates, wide",
    "rge": "RGE",
    "rge_antithetic": "RGE, antithetic",
    "rge_wide": "RGE, wide",
    "rge_as_es": "RGE, antithetic, tuned as Open ES",
    "rge_at_es": "RGE, antithetic, with Open ES's settings",
    "rge_ranked": "RGE, antithetic, ranked, tuned as Open ES",
    "rge_ranked_at_es": "RGE, antithetic, ranked, with Open ES's settings",
    "open_es": "Open ES (evosax)",
    "open_es_unranked": "Open ES, not ranked, with its settings",
    "snes": "SNES (evosax)",
    "sep_cma_es": "Sep-CMA-ES (evosax)",
    "cma_diagonal": "CMA-ES, diagonal (pycma)",
    "nevergrad": "NGOpt and others (nevergrad)",
}
_PROBLEMS = {
    "digits_mlp": "digits, MLP of 610 parameters, accuracy %",
    "quickstart_cnn": "digits, CNN of 1,606, accuracy %",
    "cifar_cnn": "CIFAR-10, CNN of 3,700, accuracy %",
    "pendulum": "pendulum, policy of 81, return",
    "solver_ks": "solver in the loop, correction of 417, − error",
}


def _columns(found: list[Result]) -> list[tuple[str, int]]:
    """Problems and budgets that something was run on, in the order of the study."""
    every = [
        (name, budget) for name, several in equal_queries.BUDGETS.items() for budget in several
    ]
    return [pair for pair in every if chosen(found, problem=pair[0], budget=pair[1])]


def _summary(found: list[Result], method: str, column: tuple[str, int]) -> Result | None:
    runs = chosen(found, problem=column[0], budget=column[1], method=method)
    return runs[0]["summary"] if runs else None


def equal_queries_section(found: list[Result]) -> str:
    """Test scores of every method, and the settings that they were reached with."""
    columns = _columns(found)
    lines = [
        "## At equal queries, beside evolution strategies",
        "",
        'A query is the loss of one batch, and nothing else is known of it (`reuse="none"`). The '
        f"settings of each method are the best of {equal_queries.TRIALS} random ones by validation "
        "score; then three seeds, or as many as stand in brackets, each judged once by the test "
        "score: mean ± standard deviation, more is better, the best of a column in bold. Wide: "
        "central differences whose smoothing, up to 0.5, and schedule are tuned too. "
        "`python -m studies.equal_queries --problems "
        f"{','.join(equal_queries.BUDGETS)}`.",
        "",
        *head("", [f"{_PROBLEMS[name]}; {budget:,} queries" for name, budget in columns]),
    ]
    best = {
        column: max(s["test"] for m in METHODS if (s := _summary(found, m, column)))
        for column in columns
    }
    for method, title in _TITLES.items():
        cells = []
        for column in columns:
            summary = _summary(found, method, column)
            text = "not run" if summary is None else _score(summary)
            cells.append(f"**{text}**" if summary and summary["test"] == best[column] else text)
        lines.append(row(title, cells))
    if found:
        lines += ["", *_settings(found, columns), "", "![Score by queries](equal_queries.png)"]
    return "\n".join(lines)


def _score(summary: Result) -> str:
    scores = summary["test_of_seeds"]
    digits = max(0, 2 - int(np.floor(np.log10(max(abs(summary["test"]), 1e-9)))))
    spread = f" ± {np.std(scores, ddof=1):.{digits}f}" if len(scores) > 1 else ""
    number = f" ({len(scores)})" if len(scores) != 3 else ""
    return f"{summary['test']:.{digits}f}{spread}{number}".replace("-", "−")


def _settings(found: list[Result], columns: list[tuple[str, int]]) -> list[str]:
    """What each method was run with."""
    lines = [
        "Settings that were found:",
        "",
        *head("", [f"{name.replace('_', ' ')}, {budget:,}" for name, budget in columns]),
    ]
    for method, title in _TITLES.items():
        cells = []
        for column in columns:
            summary = _summary(found, method, column)
            settings = summary["settings"].items() if summary else ()
            words = [f"{name.replace('_', ' ')} {value}" for name, value in settings]
            cells.append(", ".join(words) or "not run")
        lines.append(row(title, cells))
    return lines


def plot_equal_queries(found: list[Result], picture: Path) -> None:
    """A panel for each problem and budget: median validation score of the seeds by queries."""
    plt, columns, drawn = pyplot(), _columns(found), {}
    rows = -(-len(columns) // 2)
    figure, axes = plt.subplots(
        rows, 2, figsize=(10, 3.8 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.ravel()[len(columns) :]:
        axis.axis("off")
    for axis, column in zip(axes.ravel(), columns, strict=False):
        ends = []
        for number, (method, title) in enumerate(_TITLES.items()):
            summary = _summary(found, method, column)
            if summary is None:
                continue
            style = "-" if METHODS[method].package is None else "--"
            colour = plt.get_cmap("tab20")(2 * number % 20 + number // 10)
            queries = np.median([run["queries"] for run in summary["runs"]], axis=0)
            scores = np.median([run["validation"] for run in summary["runs"]], axis=0)
            (line,) = axis.plot(queries, scores, style, color=colour, label=title, linewidth=1.8)
            drawn[title] = line
            ends += scores[len(scores) // 4 :].tolist()
        low, high = np.quantile(ends, 0.05), max(ends)
        axis.set_ylim(low, high + 0.05 * (high - low))
        axis.set_title(f"{_PROBLEMS[column[0]]}; {column[1]:,} queries", fontsize=10)
        axis.set_xlabel("queries asked")
        axis.set_ylabel("validation score")
        axis.grid(alpha=0.3)
    if columns:
        lines = [drawn[title] for title in _TITLES.values() if title in drawn]
        figure.legend(handles=lines, loc="outside lower center", ncols=3, fontsize=9)
    save_figure(figure, picture)
