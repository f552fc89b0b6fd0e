"""The table of the estimators on the CNN ladder."""

import numpy as np

from studies import cge_vs_rge
from studies.report.committed import Result, by_epochs, chosen, final_accuracies, mean_and_spread
from studies.report.markdown import head, row


def cge_vs_rge_section(found: list[Result]) -> str:
    """The table of the study of estimators on the CNN ladder."""
    lines = [
        "## CGE, RGE and autodiff on the CNN ladder",
        "",
        "Paper: CIFAR-10, RGE with as many directions as parameters, on one RTX A6000. Ours: "
        "accuracy, epochs run, seconds an epoch, minutes of a run. `python -m studies.cge_vs_rge`.",
        "",
        *head("parameters", ["method", "paper", "measured", "epochs", "s an epoch", "minutes"]),
    ]
    for depth, size in cge_vs_rge.SIZES.items():
        for method in cge_vs_rge.METHODS:
            runs = chosen(found, depth=depth, method=method)
            paper = _PAPER[method][depth - 1] if method in _PAPER else "–"
            for epochs, same in by_epochs(runs) or [(None, [])]:
                accuracy = mean_and_spread(final_accuracies(same))
                length = ["–", "–", "–"]
                if epochs:
                    spent = [run["summary"]["wall_seconds"] for run in same]
                    seconds = sum(spent) / len(spent)
                    length = [f"{epochs:g}", f"{seconds / epochs:.1f}", f"{seconds / 60:.0f}"]
                lines.append(row(f"{size:,}", [method, paper, accuracy, *length]))
    if found:
        lines += ["", *_ladder_notes(found)]
        hardware = sorted({run["hardware"] for run in found})
        lines += ["", f"Run on {'; '.join(hardware)}."]
    if longer_runs(found):
        lines += ["", "![Accuracy by epoch and by time](cge_vs_rge.png)"]
    return "\n".join(lines)


def longer_runs(found: list[Result]) -> list[Result]:
    """The runs whose learning curve is more than a point."""
    return [run for run in found if run["labels"]["epochs"] > 1]


def _ladder_notes(found: list[Result]) -> list[str]:
    """CGE against the other two: after as many epochs, and after as much time."""
    found, notes = longer_runs(found), []
    of_cge = chosen(found, method="cge")
    for depth, epochs in sorted({(r["labels"]["depth"], r["labels"]["epochs"]) for r in of_cge}):
        queried = chosen(of_cge, depth=depth, epochs=epochs)
        title = f"{cge_vs_rge.SIZES[depth]:,} parameters, {epochs:g} epochs: CGE"
        ours = 100 * float(np.mean(final_accuracies(queried)))
        first_order = chosen(found, method="first_order", depth=depth, epochs=epochs)
        if first_order:
            gap = ours - 100 * float(np.mean(final_accuracies(first_order)))
            paper = _PAPER["cge"][depth - 1] - _PAPER["first_order"][depth - 1]
            notes.append(f"- {title} {gap:+.2f} points from first-order (paper: {paper:+.2f}).")
        for random in chosen(found, method="rge_192", depth=depth):
            own = random["labels"]["epochs"]
            same = [run for run in queried if run["labels"]["seed"] == random["labels"]["seed"]]
            if not same:
                continue
            our_curve, random_curve = same[0]["learning_curve"], random["learning_curve"]
            least = min(own, epochs)
            seconds = min(our_curve[-1]["seconds"], random_curve[-1]["seconds"])
            notes += [
                f"- {title} {_accuracy_at(our_curve, by, end):.2f} after {words}, RGE with 192 "
                f"directions (of {own:g} epochs) {_accuracy_at(random_curve, by, end):.2f}, seed "
                f"{random['labels']['seed']}."
                for by, end, words in (
                    ("epoch", least, f"{least:g} epochs"),
                    ("seconds", seconds, f"{seconds / 60:.0f} min"),
                )
            ]
    return notes


def _accuracy_at(curve: list[dict[str, float]], by: str, end: float) -> float:
    """Per cent at the last evaluation that was no later than ``end``; 0 before the first."""
    reached = [point["accuracy"] for point in curve if point[by] <= end]
    return 100 * reached[-1] if reached else 0.0


_PAPER = {
    "first_order": (42.09, 60.47, 70.69, 76.64, 77.01),
    "cge": (41.65, 59.66, 70.04, 76.07, 76.95),
    "rge_d": (37.53, 50.06, 65.31, 70.05, 68.38),
}
