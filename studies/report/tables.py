"""The tables of the studies of training."""

import numpy as np

from studies import gradient_quality, price_aware, pruning, spending, trajectory
from studies.report.committed import (
    Result,
    accuracies,
    chosen,
    final_accuracies,
    mean_and_spread,
    slopes_note,
)
from studies.report.markdown import head, row


def quickstart_section(found: list[Result]) -> str:
    """The first run of the README."""
    titles = ["accuracy", "best", "steps", "queries", "training, s", "hardware"]
    lines = [
        "## The quickstart",
        "",
        "The README's first run, on the 360 test digits of scikit-learn. `python -m "
        "studies.quickstart`.",
        "",
        *head("seed", titles),
    ]
    for run in found:
        summary = run["summary"]
        cells = [
            f"{100 * summary['test_accuracy']:.2f}",
            f"{100 * summary['best_test_accuracy']:.2f}",
            f"{summary['num_steps']:,}",
            f"{summary['num_queries']:,}",
            f"{summary['wall_seconds']:.0f}",
            run["hardware"],
        ]
        lines.append(row(run["labels"]["seed"], cells))
    return "\n".join(lines)


def price_aware_section(found: list[Result]) -> str:
    """The table of the study of price-aware sampling."""
    lines = [
        "## Price-aware sampling, at equal price",
        "",
        "All sparse runs of a column cost about the same multiply-adds a step (read off the "
        "engine's trace; seeds differ by up to 9 %); the dense ones cost what they cost. Exact "
        "gradients stand for CGE where it says so. `python -m studies.price_aware`.",
        "",
    ]
    titles = [part.title for part in price_aware.PARTS.values()]
    lines += head("", titles)
    for arm, title in price_aware.ARMS.items():
        cells = [
            mean_and_spread(final_accuracies(chosen(found, part=name, arm=arm)))
            if arm in part.arms
            else "–"
            for name, part in price_aware.PARTS.items()
        ]
        lines.append(row(title, cells))
    if found:
        lines += ["", "![Accuracy at equal price](price_aware.png)"]
    return "\n".join(lines)


def spending_section(found: list[Result]) -> str:
    """The tables of how a price is spent."""
    lines = [
        "## How to spend a price",
        "",
        "The same perturbed multiply-adds on many images, many coordinates or many steps; exact "
        "gradients at price-aware rates stand for CGE. The learning rate is the same in all runs. "
        f"`python -m studies.spending`.{slopes_note(found)}",
    ]
    for name, part in spending.PARTS.items():
        titles = {
            "batch": f"images a step, {spending.NUM_STEPS} steps",
            "steps": f"steps, {spending.BATCH} images each",
        }
        for way, title in titles.items():
            runs = part.runs(way)
            fractions = [spending.fraction(part, *run) for run in runs]
            numbers = [steps if way == "steps" else batch for batch, steps in runs]
            lines += ["", *head(f"{part.title}: {title}", [f"{n:,}" for n in numbers])]
            lines.append(
                row("price of a step, of all coordinates", [f"{100 * f:.3g} %" for f in fractions])
            )
            cells = [
                mean_and_spread(
                    final_accuracies(chosen(found, part=name, batch=batch, steps=steps))
                )
                for batch, steps in runs
            ]
            lines.append(row("test accuracy", cells))
    return "\n".join(lines)


def trajectory_section(found: list[Result]) -> str:
    """How far the first steps stray."""
    lines = [
        "## The first steps at 99 %",
        "",
        "Distance between the parameters and those of the first-order run under the same masks, "
        "by the distance that the latter has travelled. `python -m studies.trajectory`.",
        "",
        *head("", ["steps", "strayed", "cosine of the two paths"]),
    ]
    for way in [way for way in trajectory.WAYS if way != "first_order"]:
        for run in chosen(found, way=way) or [None]:
            if run is None:
                lines.append(row(way, ["–", "not run", "not run"]))
                continue
            strayed, cosine = run["summary"]["strayed"], run["summary"]["cosine"]
            cells = [run["labels"]["steps"], f"{100 * strayed:.2f} %", f"{cosine:.5f}"]
            lines.append(row(way, cells))
    return "\n".join(lines)


def pruning_section(found: list[Result]) -> str:
    """What ZO-GraSP's scores are worth."""
    lines = [
        "## Scores for the layer ratios",
        "",
        "ResNet-20, first-order, 90 % gradient sparsity, short runs. `python -m studies.pruning`.",
        "",
        *head("ratios from", ["accuracy"]),
    ]
    for name in pruning.SCORES:
        lines.append(row(name, [accuracies(chosen(found, scores=name))]))
    lines += ["", *_kept_table(found)]
    lines += [
        "",
        "ZO-GraSP against GraSP: rank correlation (Spearman) of the scores of all parameters and "
        "of the layer ratios at 90 %, and mean distance of the ratios.",
        "",
        *head("directions q", ["scores", "ratios", "distance"]),
    ]
    counts = sorted({n for run in found if (n := run["labels"].get("num_directions"))})
    for count in counts:
        runs = [run["summary"] for run in chosen(found, num_directions=count)]
        cells = [
            plain_mean([run[name] for run in runs])
            for name in ("scores_spearman", "ratios_spearman", "ratios_mean_distance")
        ]
        lines.append(row(f"{count:,}", cells))
    if not counts:
        lines.append(row("–", ["not run"] * 3))
    return "\n".join(lines)


def _kept_table(found: list[Result]) -> list[str]:
    """Per cent of each layer that the scores keep, mean over seeds; and the picture."""
    kept = {
        name: [run["summary"]["kept"] for run in chosen(found, ratios_from=name)]
        for name in pruning.SCORES
    }
    kept = {name: runs for name, runs in kept.items() if runs}
    if not kept:
        return ["Layer ratios: not run."]
    layers = list(next(iter(kept.values()))[0])
    lines = ["Per cent of each layer kept (mean over seeds, their number):", ""]
    lines += head("layer", [f"{name} ({len(runs)})" for name, runs in kept.items()])
    for layer in layers:
        means = [100 * np.mean([run[layer] for run in runs]) for runs in kept.values()]
        lines.append(row(layer.removesuffix("/kernel"), [f"{mean:.1f}" for mean in means]))
    return [*lines, "", "![Per cent of each layer kept](pruning.png)"]


def plain_mean(values: list[float]) -> str:
    """A mean and how many it is of."""
    return f"{sum(values) / len(values):.3f} ({len(values)})"


def gradient_quality_section(found: list[Result]) -> str:
    """How far estimates are from autodiff."""
    lines = [
        "## Estimates against autodiff",
        "",
        "At initialisation, batch 256, float32. CGE on 500 random coordinates: relative error, and "
        "1 − cosine. RGE on all of them: cosine. `python -m studies.gradient_quality`.",
        "",
    ]
    models = list(dict.fromkeys(run["labels"]["model"] for run in found))
    if not models:
        return "\n".join([*lines, "not run"])
    for model in models:
        lines += head(f"{model}, smoothing", gradient_quality.WAYS)
        for smoothing in gradient_quality.SMOOTHINGS:
            cells = []
            for way in gradient_quality.WAYS:
                runs = chosen(found, model=model, way=way, smoothing=smoothing)
                cells += [
                    f"{run['summary']['relative_error']:.1e}, {1 - run['summary']['cosine']:.0e}"
                    for run in runs
                ] or ["not run"]
            lines.append(row(f"{smoothing:g}", cells))
        lines.append("")
        for count in gradient_quality.DIRECTIONS:
            for run in chosen(found, model=model, way="rge", num_directions=count):
                cosine = run["summary"]["cosine"]
                lines.append(f"- {model}, RGE with {count:,} directions: cosine {cosine:.3f}")
        lines.append("")
    lines += _rounding_table(found, models)
    return "\n".join([*lines, "![Estimates against autodiff](gradient_quality.png)"])


def _rounding_table(found: list[Result], models: list[str]) -> list[str]:
    lines = [
        "Relative error against the same finite difference in float64, a coordinate of every leaf:",
        "",
        *head("network, smoothing", gradient_quality.WAYS),
    ]
    for model in models:
        for smoothing in gradient_quality.ROUNDED:
            cells = []
            for way in gradient_quality.WAYS:
                runs = chosen(found, model=model, rounding_of=way, smoothing=smoothing)
                cells += [f"{run['summary']['relative_error']:.1e}" for run in runs] or ["not run"]
            lines.append(row(f"{model}, {smoothing:g}", cells))
    return [*lines, ""]
