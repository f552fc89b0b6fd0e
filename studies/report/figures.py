"""The figures of docs/results.md."""

from collections.abc import Callable
from pathlib import Path

from deepzero_jax.pictures import pyplot, save_figure
from studies import (
    applications,
    cge_vs_rge,
    defense_gradients,
    equal_queries,
    gradient_quality,
    price_aware,
    pruning,
    sparsity,
)
from studies.report.committed import Result, chosen, final_accuracies
from studies.report.equal_queries_table import plot_equal_queries
from studies.report.ladder_table import longer_runs
from studies.report.sparsity_table import plot_sparsity


def plot_price_aware(found: list[Result], picture: Path) -> None:
    """A panel for each part, a dot for each seed, a line at each arm's mean."""
    plt = pyplot()
    shown = {
        part: [arm for arm in price_aware.PARTS[part].arms if chosen(found, part=part, arm=arm)]
        for part in price_aware.PARTS
    }
    shown = {part: arms for part, arms in shown.items() if arms}
    widths = [len(arms) + 1 for arms in shown.values()]
    figure, axes = plt.subplots(
        1,
        len(shown),
        figsize=(0.8 * sum(widths) + 1, 4),
        width_ratios=widths,
        layout="constrained",
        squeeze=False,
    )
    for axis, (part, arms) in zip(axes[0], shown.items(), strict=True):
        for position, arm in enumerate(arms):
            values = [100 * value for value in final_accuracies(chosen(found, part=part, arm=arm))]
            colour = "tab:gray" if arm == "dense" else "tab:blue"
            mean = sum(values) / len(values)
            axis.hlines(mean, position - 0.35, position + 0.35, color=colour, linewidth=3)
            axis.plot([position] * len(values), values, "k.", markersize=5)
            axis.annotate(f"{mean:.1f}", (position, mean), (6, 4), textcoords="offset points")
        axis.set_xticks(range(len(arms)), [arm.replace("_", "\n") for arm in arms], fontsize=8)
        axis.set_xlim(-0.6, len(arms) - 0.3)
        axis.margins(y=0.12)
        axis.grid(axis="y", alpha=0.3)
        axis.set_title(price_aware.PARTS[part].title.replace(", ", "\n", 1), fontsize=9)
        axis.set_ylabel("test accuracy, %")
    save_figure(figure, picture)


def plot_gradient_quality(found: list[Result], picture: Path) -> None:
    """Relative error against smoothing; cosine of RGE against directions."""
    plt = pyplot()
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
        if not runs:
            continue
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
    save_figure(figure, picture)


def plot_defense_gradients(found: list[Result], picture: Path) -> None:
    """Cosine against the number of pixels, a line for each way of asking."""
    plt = pyplot()
    runs = sorted(
        (run for run in found if "side" in run["labels"]), key=lambda run: run["labels"]["side"]
    )
    pixels = [run["labels"]["side"] ** 2 for run in runs]
    figure, axis = plt.subplots(figsize=(5.5, 3.8), layout="constrained")
    for way, title in defense_gradients.WAYS.items():
        axis.errorbar(
            pixels,
            [run["summary"][way] for run in runs],
            [run["summary"][f"{way}_spread"] for run in runs],
            marker="o",
            capsize=3,
            label=title,
        )
    axis.set(xscale="log", xlabel="pixels of an image", ylabel="cosine to autodiff", ylim=(0, 1.05))
    axis.set_title(f"gradient of the denoiser from {defense_gradients.QUERIES:,} queries")
    axis.grid(alpha=0.3)
    axis.legend()
    save_figure(figure, picture)


def plot_cge_vs_rge(found: list[Result], picture: Path) -> None:
    """Accuracy by epoch and by time of the steps: a column for each depth, a line for each seed."""
    found = longer_runs(found)
    if not found:
        return
    plt = pyplot()
    depths = sorted({run["labels"]["depth"] for run in found})
    figure, axes = plt.subplots(
        2, len(depths), figsize=(5 * len(depths), 6.5), layout="constrained", squeeze=False
    )
    for column, depth in zip(axes.T, depths, strict=True):
        runs = chosen(found, depth=depth)
        for row, (field, unit, title) in enumerate(
            (("epoch", 1, "epoch"), ("seconds", 60, "minutes"))
        ):
            for colour, method in enumerate(cge_vs_rge.METHODS):
                for number, run in enumerate(chosen(runs, method=method)):
                    curve = run["learning_curve"]
                    column[row].plot(
                        [point[field] / unit for point in curve],
                        [100 * point["accuracy"] for point in curve],
                        color=f"C{colour}",
                        linewidth=1.2,
                        label=method.replace("_", " ") if number == 0 else None,
                    )
            column[row].set(xlabel=title, ylabel="test accuracy, %")
            column[row].grid(alpha=0.3)
        column[0].set_title(f"CNN of {cge_vs_rge.SIZES[depth]:,} parameters")
        column[0].legend()
    save_figure(figure, picture)


def plot_pruning(found: list[Result], picture: Path) -> None:
    """Fraction of each layer kept, a line for each kind of scores and seed."""
    found = [run for run in found if "ratios_from" in run["labels"]]
    if not found:
        return
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for colour, name in enumerate(pruning.SCORES):
        for number, run in enumerate(chosen(found, ratios_from=name)):
            axis.plot(
                [100 * kept for kept in run["summary"]["kept"].values()],
                color=f"C{colour}",
                marker=".",
                linewidth=1,
                label=name if number == 0 else None,
            )
    layers = [path.removesuffix("/kernel") for path in found[0]["summary"]["kept"]]
    axis.set_xticks(range(len(layers)), layers, rotation=90, fontsize=8)
    axis.set(ylabel="coordinates kept, % of the layer", yscale="log")
    percent = [1, 2, 5, 10, 20, 50, 100]
    low, high = axis.get_ylim()
    axis.set_yticks([tick for tick in percent if low <= tick <= high])
    axis.yaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.set_title("ResNet-20 at 90 % sparsity, a line for each seed")
    axis.grid(alpha=0.3)
    axis.legend()
    save_figure(figure, picture)


def plot_samples_asked(found: list[Result], picture: Path) -> None:
    """Validation error of the solver's corrections against samples asked, a panel for each size."""
    plt = pyplot()
    parts = {part: chosen(found, part=part) for part in ("sol_ks", "sol_ks_large")}
    parts = {part: runs for part, runs in parts.items() if runs and "stages" in runs[0]}
    figure, axes = plt.subplots(
        1, max(1, len(parts)), figsize=(9, 4), layout="constrained", squeeze=False, sharey=True
    )
    titles = {"zo_sol": "at the parameters", "zo_sol_boundary": "at the solver's inputs"}
    for axis, runs in zip(axes[0], parts.values(), strict=False):
        summary = runs[0]["summary"]
        for number, (method, title) in enumerate(titles.items()):
            curves = [c for stage, c in runs[0]["stages"].items() if stage[:-2] == method]
            for curve in curves:
                label = f"asked {title}" if curve is curves[0] else None
                samples = [point["samples"] for point in curve]
                errors = [point["validation_mae"] for point in curve]
                axis.plot(samples, errors, "o-", color=f"C{number}", markersize=3, label=label)
        last = [c[-1]["validation_mae"] for s, c in runs[0]["stages"].items() if s[:-2] == "fo_sol"]
        for error in last:
            label = "differentiated, at its end" if error == last[0] else None
            axis.axhline(error, color="black", linestyle=":", linewidth=1, label=label)
        axis.set_title(f"{summary['num_parameters']:,} parameters")
        axis.set(xscale="log", yscale="log", xlabel="samples asked of the solver")
        axis.set_xlim(right=1e8 if "zo_sol" in summary["num_samples"] else 2e7)
        axis.xaxis.set_minor_formatter("")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=8)
    axes[0][0].set_ylabel("validation error")
    figure.suptitle("Solver in the loop, Kuramoto–Sivashinsky: error against samples, 3 seeds")
    save_figure(figure, picture)


FIGURES: dict[str, Callable[[list[Result], Path], None]] = {
    applications.STUDY: plot_samples_asked,
    price_aware.STUDY: plot_price_aware,
    cge_vs_rge.STUDY: plot_cge_vs_rge,
    defense_gradients.STUDY: plot_defense_gradients,
    pruning.STUDY: plot_pruning,
    sparsity.STUDY: plot_sparsity,
    gradient_quality.STUDY: plot_gradient_quality,
    equal_queries.STUDY: plot_equal_queries,
}
