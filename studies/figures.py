"""The figures of docs/results.md."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from studies import gradient_quality, price_aware
from studies.runner import chosen, final_accuracies


def plot_price_aware(found: list[dict[str, Any]], picture: Path) -> None:
    """A bar for each arm, a panel for each part, a dot for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    parts = [p for p in price_aware.PARTS if any(run["labels"]["part"] == p for run in found)]
    widths = [len(price_aware.PARTS[part].arms) for part in parts]
    figure, axes = plt.subplots(
        1,
        len(parts),
        figsize=(0.75 * sum(widths) + 1, 4),
        width_ratios=widths,
        layout="constrained",
    )
    for axis, part in zip([axes] if len(parts) == 1 else axes, parts, strict=True):
        arms = price_aware.PARTS[part].arms
        for position, arm in enumerate(arms):
            values = [100 * value for value in final_accuracies(chosen(found, part=part, arm=arm))]
            if values:
                colour = "tab:gray" if arm == "dense" else "tab:blue"
                axis.bar(position, sum(values) / len(values), color=colour, alpha=0.6)
                axis.plot([position] * len(values), values, "k.", markersize=5)
        names = [arm.replace("_", "\n") for arm in arms]
        axis.set_xticks(range(len(names)), names, fontsize=8)
        axis.set_xlim(-0.6, len(names) - 0.4)
        axis.set_title(price_aware.PARTS[part].title, fontsize=9)
        lowest = min(
            min(final_accuracies(chosen(found, part=part, arm=a)), default=1.0) for a in arms
        )
        axis.set_ylim(bottom=max(0.0, 100 * lowest - 10))
        axis.set_ylabel("test accuracy, %")
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def plot_gradient_quality(found: list[dict[str, Any]], picture: Path) -> None:
    """Relative error against smoothing; cosine of RGE against directions."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    models = list(dict.fromkeys(run["labels"]["model"] for run in found))
    for model, style in zip(models, ("-", "--", ":"), strict=False):
        for colour, way in enumerate(gradient_quality.WAYS):
            runs = sorted(
                chosen(found, model=model, way=way), key=lambda r: r["labels"]["smoothing"]
            )
            left.plot(
                [run["labels"]["smoothing"] for run in runs],
                [run["summary"]["relative_error"] for run in runs],
                style,
                color=f"C{colour}",
                marker=".",
                label=f"{model}, {way.replace('_', ' ')}",
            )
        runs = sorted(
            chosen(found, model=model, way="rge"), key=lambda r: r["labels"]["num_directions"]
        )
        right.plot(
            [run["labels"]["num_directions"] for run in runs],
            [run["summary"]["cosine"] for run in runs],
            style,
            color="C3",
            marker=".",
            label=f"{model}, RGE",
        )
    left.set(xscale="log", yscale="log", xlabel="smoothing", ylabel="relative error of CGE")
    right.set(xscale="log", xlabel="directions", ylabel="cosine to autodiff")
    right.axhline(1.0, color="C0", linewidth=1, label="CGE, smoothing 1e-4")
    right.set_ylim(0, 1.05)
    left.legend(fontsize=7)
    right.legend(fontsize=7)
    figure.savefig(picture, dpi=120)
    plt.close(figure)


FIGURES: dict[str, Callable[[list[dict[str, Any]], Path], None]] = {
    price_aware.STUDY: plot_price_aware,
    gradient_quality.STUDY: plot_gradient_quality,
}
