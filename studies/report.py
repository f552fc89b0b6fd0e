"""Makes docs/results.md and its figures from the results that are committed.

python -m studies.report
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from studies import cge_vs_rge, price_aware
from studies.runner import ROOT, mean_and_spread, results

_HEAD = """# Results

Made by `python -m studies.report` from `studies/results/`, where each run's command, commit,
hardware and summary lie. Numbers are test accuracies in per cent on the 10,000 test images of
CIFAR-10: mean ± standard deviation over seeds (number of runs). What was not run says so.
"""


def price_aware_section(found: list[dict[str, Any]]) -> str:
    """The table of the study of price-aware sampling."""
    lines = [
        "## Price-aware sampling, at equal price",
        "",
        "All sparse runs of a column cost the same multiply-adds a step (read off the engine's "
        "trace); the dense ones cost what they cost. Exact gradients stand for CGE where it says "
        "so. `python -m studies.price_aware`.",
        "",
    ]
    titles = [part.title for part in price_aware.PARTS.values()]
    lines += [f"| | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for arm, title in price_aware.ARMS.items():
        row = [mean_and_spread(scores(found, part, arm)) for part in price_aware.PARTS]
        lines.append(f"| {title} | {' | '.join(row)} |")
    if found:
        lines += ["", "![Accuracy of the five ways at equal price](price_aware.png)"]
    return "\n".join(lines)


def scores(found: list[dict[str, Any]], part: str, arm: str) -> list[float]:
    """Final test accuracies of the runs of one arm."""
    return [
        run["summary"]["test_accuracy"]
        for run in found
        if (run["labels"]["part"], run["labels"]["arm"]) == (part, arm)
    ]


def plot_price_aware(found: list[dict[str, Any]], picture: Path) -> None:
    """A bar for each arm, a panel for each part, a dot for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    parts = [p for p in price_aware.PARTS if any(run["labels"]["part"] == p for run in found)]
    figure, axes = plt.subplots(1, len(parts), figsize=(4 * len(parts), 4), layout="constrained")
    for axis, part in zip([axes] if len(parts) == 1 else axes, parts, strict=True):
        for position, arm in enumerate(price_aware.ARMS):
            values = [100 * value for value in scores(found, part, arm)]
            if values:
                colour = "tab:gray" if arm == "dense" else "tab:blue"
                axis.bar(position, sum(values) / len(values), color=colour, alpha=0.6)
                axis.plot([position] * len(values), values, "k.", markersize=5)
        names = [arm.replace("_", "\n") for arm in price_aware.ARMS]
        axis.set_xticks(range(len(names)), names, fontsize=8)
        axis.set_title(price_aware.PARTS[part].title, fontsize=9)
        lowest = min(min(scores(found, part, a), default=1.0) for a in price_aware.ARMS)
        axis.set_ylim(bottom=max(0.0, 100 * lowest - 10))
        axis.set_ylabel("test accuracy, %")
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def cge_vs_rge_section(found: list[dict[str, Any]]) -> str:
    """The table of the study of estimators on the CNN ladder."""
    lines = [
        "## CGE, RGE and autodiff on the CNN ladder",
        "",
        "Paper: CIFAR-10, RGE with as many directions as parameters, on one RTX A6000. Ours: "
        "accuracy, epochs run, seconds an epoch. `python -m studies.cge_vs_rge`.",
        "",
        "| parameters | method | paper | measured | epochs | s an epoch |",
        "|---|---|---|---|---|---|",
    ]
    for depth, size in cge_vs_rge.SIZES.items():
        for method in cge_vs_rge.METHODS:
            runs = [
                run
                for run in found
                if (run["labels"]["depth"], run["labels"]["method"]) == (depth, method)
            ]
            paper = _PAPER[method][depth - 1] if method in _PAPER else "–"
            for epochs in sorted({run["labels"]["epochs"] for run in runs}) or [None]:
                chosen = [run for run in runs if run["labels"]["epochs"] == epochs]
                accuracy = mean_and_spread([run["summary"]["test_accuracy"] for run in chosen])
                spent = [run["summary"]["wall_seconds"] / run["labels"]["epochs"] for run in chosen]
                time = f"{sum(spent) / len(spent):.1f}" if spent else "–"
                shown = f"{epochs:g}" if epochs else "–"
                lines.append(f"| {size:,} | {method} | {paper} | {accuracy} | {shown} | {time} |")
    return "\n".join(lines)


_PAPER = {
    "first_order": (42.09, 60.47, 70.69, 76.64, 77.01),
    "cge": (41.65, 59.66, 70.04, 76.07, 76.95),
    "rge_d": (37.53, 50.06, 65.31, 70.05, 68.38),
}
_SECTIONS: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    price_aware.STUDY: price_aware_section,
    cge_vs_rge.STUDY: cge_vs_rge_section,
}


def report() -> str:
    """The text of docs/results.md."""
    sections = [section(results(study)) for study, section in _SECTIONS.items()]
    return "\n\n".join([_HEAD.rstrip(), *sections]) + "\n"


def main() -> None:
    """Writes text and figures."""
    docs = ROOT / "docs"
    (docs / "results.md").write_text(report())
    found = results(price_aware.STUDY)
    if found:
        plot_price_aware(found, docs / "price_aware.png")
    print(f"wrote {docs.name}/results.md")


if __name__ == "__main__":
    main()
