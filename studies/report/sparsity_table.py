"""Accuracy against sparsity: a table and a panel for each network."""

from itertools import product
from pathlib import Path

from deepzero_jax.pictures import pyplot, save_figure
from studies import recipe, sparsity
from studies.report.committed import (
    Result,
    accuracies,
    by_epochs,
    chosen,
    final_accuracies,
    mean_and_spread,
    mean_percent,
    results,
    slopes_note,
)
from studies.report.markdown import head, row
from studies.sparsity import NETWORKS, SPARSITIES, TITLES
from studies.torch_slopes import PRECISIONS


def sparsity_section(found: list[Result]) -> str:
    """The tables of accuracy against sparsity."""
    lines = [
        "## Accuracy against gradient sparsity",
        "",
        "Masks of as many coordinates of each layer as ZO-GraSP's scores keep, redrawn every 5 "
        "epochs (sparse weights: as GraSP's keep, for good). `python -m studies.sparsity`."
        f"{slopes_note(found)}",
    ]
    for name, network in NETWORKS.items():
        runs = chosen(found, network=name)
        columns = [f"{100 * level:g} %" for level in SPARSITIES]
        lines += ["", *head(network.title, columns)]
        for method, title in TITLES.items():
            if method in network.paper:
                lines.append(row(f"{title}, paper (50 epochs)", network.paper[method]))
            cells = [accuracies(chosen(runs, method=method, sparsity=s)) for s in SPARSITIES]
            lines.append(row(f"{title}, measured", cells))
        dense = accuracies(chosen(runs, method="first_order_dense"))
        paper = f"; paper: {network.paper_dense}" if network.paper_dense else ""
        lines += ["", f"Dense first-order, measured: {dense}{paper}."]
    if found:
        lines += ["", "![Accuracy against sparsity](sparsity.png)"]
    return "\n".join(lines)


def recipe_section(found: list[Result]) -> str:
    """The paper's recipe at its full length beside what the paper prints."""
    network, shorter = NETWORKS["resnet20"], results(sparsity.STUDY)
    priced = chosen(found, priced=True)
    found = [
        {**run, "labels": {**_BY_DEFAULT, **run["labels"]}} for run in found if run not in priced
    ]
    at_99 = chosen(found, sparsity=0.99, batch=recipe.BATCH)
    found = chosen(found, masks="as_published", epochs=_EPOCHS)
    batches = sorted({run["labels"]["batch"] for run in found} | {recipe.BATCH}, reverse=True)
    lines = [
        "## The paper's recipe at its full length",
        "",
        f"ResNet-20, first-order, {_EPOCHS} epochs: parameters, data, masks and optimiser as "
        "above; loss and slopes by PyTorch, convolutions in bfloat16 (float32 where the row says "
        "so). "
        "`python -m studies.recipe`.",
        "",
        *head("", ["paper", "measured", "by XLA in float32, shorter"]),
    ]
    for method, levels in recipe.METHODS.items():
        for level in levels:
            printed: object = ""
            title = "first-order, dense"
            if level:
                title = f"{TITLES[method]}, {100 * level:g} %"
                if method in network.paper:
                    printed = network.paper[method][SPARSITIES.index(level)]
            else:
                printed = network.paper_dense
            labels = {"method": method, "sparsity": level}
            before = accuracies(chosen(shorter, network="resnet20", **labels))
            for precision, batch in product(PRECISIONS[::-1], batches):
                runs = chosen(found, precision=precision, batch=batch, **labels)
                note = "" if precision == "bfloat16" else f", {precision}"
                note += "" if batch == recipe.BATCH else f", batches of {batch}"
                shorter_ones = before if batch == recipe.BATCH else ""
                if runs or not note:
                    lines.append(row(f"{title}{note}", [printed, accuracies(runs), shorter_ones]))
    dense = chosen(found, method="first_order_dense", precision="bfloat16")
    if dense:
        lines += ["", _GAP]
    for batch in sorted(set(batches) - {recipe.BATCH}):
        there, here = (chosen(dense, batch=size) for size in (batch, recipe.BATCH))
        if there and here:
            gain = mean_percent(there) - mean_percent(here)
            lines += ["", f"Dense, batches of {batch} beside {recipe.BATCH}: {gain:+.2f} points."]
    for level in sorted({run["labels"]["sparsity"] for run in found} - {0.0}):
        kept, drawn = (
            chosen(found, method=f"first_order_{method}", sparsity=level, batch=recipe.BATCH)
            for method in ("gradient", "price_aware")
        )
        if kept and drawn:
            gain = mean_percent(drawn) - mean_percent(kept)
            title = f"Price-aware rates beside the kept masks, at {100 * level:g} %"
            lines += ["", f"{title}: {gain:+.2f} points."]
    return "\n".join(lines + _masks_table(at_99, priced))


def _masks_table(found: list[Result], priced: list[Result]) -> list[str]:
    """What runs make of masks that are made in other ways, and what a step of CGE costs."""
    lengths = by_epochs(chosen(found, method="first_order_gradient"))
    if len(chosen(found, masks="as_published")) == len(found):
        return []
    lines = [
        "",
        "What the way in which masks are made has to do with it: sparse gradient, 99 %.",
        "",
        *head(
            "masks",
            [*(f"{epochs:g} epochs" for epochs, _ in lengths), *(_PRICED if priced else ())],
        ),
    ]
    for made, title in _MASKS.items():
        cells = [mean_and_spread(final_accuracies(chosen(runs, masks=made))) for _, runs in lengths]
        for run in chosen(priced, masks=made):
            spent, stages = run["summary"]["multiply_adds"], run["summary"]["of_stages"]
            shares = (f"{100 * stages[name] / spent:.0f}" for name in stages)
            cells += [f"{run['summary']['kept']:,}", f"{spent:.3g}", " / ".join(shares)]
        lines.append(row(title, cells))
    drawn = chosen(found, method="first_order_price_aware")
    if drawn:
        of_length = [chosen(drawn, epochs=epochs) for epochs, _ in lengths]
        cells = [mean_and_spread(final_accuracies(runs)) for runs in of_length]
        lines.append(
            row(
                "price-aware rates at the price of the first",
                [*cells, *([""] * len(_PRICED) if priced else [])],
            )
        )
    prices = [chosen(priced, masks=made) for made in ("as_published", "as_released")]
    gains = []
    for epochs, runs in lengths:
        ours, theirs = (chosen(runs, masks=made) for made in ("as_published", "as_released"))
        if ours and theirs:
            gain = mean_percent(theirs) - mean_percent(ours)
            gains.append(f"{gain:+.2f} points in {epochs:g} epochs")
    if gains and all(prices):
        before, after = (found[0]["summary"]["multiply_adds"] for found in prices)
        lines += [
            "",
            "The ratios of the paper's code keep as many coordinates, but of dearer layers, for "
            f"{after / before:.2f} times the multiply-adds of a step of CGE: {', '.join(gains)}.",
        ]
    return lines


# Epochs of the paper's runs.
_EPOCHS = 50
# What a run of the recipe is of that does not say it.
_BY_DEFAULT = {"masks": "as_published", "batch": recipe.BATCH}
_MASKS = {
    "as_published": "ratios by ZO-GraSP, drawn every 5 epochs",
    "as_released": "ratios as in the paper's code, drawn every 5 epochs",
    "each_epoch": "ratios by ZO-GraSP, drawn every epoch",
}
_PRICED = (
    "coordinates a step",
    "their multiply-adds",
    "% of them for stem / stages 1 to 3 / classifier",
)
# Beside the dense row.
_GAP = """\
The settings are those of the paper's published code, which has no first-order run. What the paper
prints for the dense one is above what the authors of the network print for it, 91.25 % after 164
epochs at a batch of 128 (He et al. 2016, table 6)."""


def plot_sparsity(found: list[Result], picture: Path) -> None:
    """A panel for each network with sparse runs, a colour for each method; the paper's dashed."""
    plt = pyplot()
    drawn = [run for run in found if run["labels"]["method"] in TITLES]
    shown = [name for name in NETWORKS if chosen(drawn, network=name)]
    rows = max(1, len(shown))
    figure, axes = plt.subplots(
        rows, 1, figsize=(8.5, 4.2 * rows), layout="constrained", squeeze=False
    )
    percent = [f"{100 * value:g}" for value in SPARSITIES]
    for axis, name in zip(axes[:, 0], shown, strict=False):
        network, runs = NETWORKS[name], chosen(found, network=name)
        for colour, (method, title) in enumerate(TITLES.items()):
            lengths = by_epochs(chosen(runs, method=method))
            for marker, (epochs, ran) in zip("osv^", lengths, strict=False):
                axis.plot(
                    [mean_percent(chosen(ran, sparsity=value)) for value in SPARSITIES],
                    color=f"C{colour}",
                    marker=marker,
                    zorder=3 - colour / 10,  # the black-box methods in front of what they are near
                    label=f"{title}, {epochs:g} epochs",
                )
            if method in network.paper:
                label = f"{title}, paper, 50 epochs"
                line = network.paper[method]
                axis.plot(line, ".--", color=f"C{colour}", linewidth=1, label=label)
        for epochs, ran in by_epochs(chosen(runs, method="first_order_dense")):
            label = f"first-order, dense, {epochs:g} epochs"
            axis.axhline(mean_percent(ran), color="tab:gray", label=label)
        if network.paper_dense:
            label = "first-order, dense, paper"
            axis.axhline(
                network.paper_dense, color="tab:gray", linestyle="--", linewidth=1, label=label
            )
        axis.set_xticks(range(len(percent)), percent)
        axis.set_xlim(-0.2, len(percent) - 0.8)
        axis.set(xlabel="sparsity, %", ylabel="test accuracy, %", title=network.title)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, bbox_to_anchor=(1.02, 1), loc="upper left")
    save_figure(figure, picture)
