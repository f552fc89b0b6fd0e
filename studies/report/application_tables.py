"""The tables of the two applications."""

from collections.abc import Iterable

import numpy as np

from studies import applications, defense_gradients
from studies.report.committed import Result, chosen, mean_and_spread
from studies.report.markdown import head, row


def defense_section(found: list[Result]) -> str:
    """The tables of the black-box defense."""
    lines = [
        "## Black-box defense",
        "",
        "Certified accuracy by L2 radius, sigma 0.25, at equal numbers of queries. Paper: DnCNN in "
        "front of a ResNet-50 on ten classes of ImageNet. `python -m studies.applications "
        f"--parts {','.join(['defense_digits', *applications.DEFENSE_VARIATIONS])}`.",
    ]
    for part in applications.DEFENSES:
        runs = [run["summary"] for run in chosen(found, part=part)]
        radii = next(iter(runs[0]["certified_accuracy"].values())) if runs else _RADII
        lines += ["", *head(part, radii)]
        varied = _VARIATIONS if part == "defense_digits" else {}
        for method, (title, paper) in _DEFENSES.items():
            if varied and method in ("zo_boundary", "pretrained"):
                continue  # a variation
            if paper:
                printed = dict(zip(_RADII, paper, strict=True))
                lines.append(row(f"{title}, paper", [printed[radius] for radius in radii]))
            lines.append(row(f"{title}, measured", _certified(runs, method, radii)))
        for variation, title in varied.items():
            others = [run["summary"] for run in chosen(found, part=variation)]
            method = applications.DEFENSE_VARIATIONS[variation]["training.methods"]
            lines.append(row(f"{title}, measured", _certified(others, method, radii)))
        for run in runs[:1]:
            queries = ", ".join(f"{name} {n:,}" for name, n in run["num_queries"].items())
            minutes, time = np.mean([run["wall_seconds"] for run in runs]) / 60, ""
            if part != "defense_cifar10":  # run in two pieces, of which it told the last one's
                time = f" All methods of a seed take {minutes:.0f} min."
            lines += [
                "",
                f"{run['num_images']} test images, {run['num_samples']:,} noisy copies of each. "
                f"The box is right on {100 * run['box_test_accuracy']:.1f} % of all test images. "
                f"Queries of a run: {queries}.{time}",
            ]
            if part == "defense_cifar10":
                lines += ["", _ON_TWO_CORES]
            if part == "defense_digits":
                lines += ["", _WHY, "", "![Certified accuracy of seed 0](defense_digits.png)"]
    return "\n".join(lines)


# Why the paper's order of the methods is not that of the digits; the rows above are its evidence.
_WHY = """\
The paper's order does not hold on digits: ZO-AE-DS leads at radius 0.5 (as it does before FO-DS in
the table for CIFAR-10 of the paper that introduced it), at 0.25 it is level with the box asked at
its pixels, and ZO-DS is up to 2.5 points ahead of DeepZero. At equal queries the methods differ in
the number of their steps: one of DeepZero costs 783 queries, of ZO-DS 65, of ZO-AE-DS 5. Step for
step DeepZero's gradient, exact on a tenth of the coordinates, is as good as that of the white box:
FO-DS in as many steps comes as far, within the spread. Steps are not all, though: four times the
queries bring DeepZero no nearer to FO-DS. Images too large to be asked at their pixels and too rich
for a code are the paper's case; digits are neither. The order against ZO-AE-DS turns as the code
loses more."""


_ON_TWO_CORES = """\
Budgets for two cores, one seed: of 200 images one is half a point, and the spread of a row three.
In as many samples DeepZero comes to 18 steps, ZO-DS to 1,411 in 16 random directions of 3,072
numbers each, ZO-AE-DS to 124, the box asked in 64 directions at its input to 369; FO-DS has 1,000.
The code of ZO-AE-DS, 192 numbers after 4,000 steps of pre-training, loses most: to what it makes of
held-out images the box answers alike for 16.6 %, and training does not mend that."""


def _certified(runs: list[Result], method: str, radii: Iterable[str]) -> list[str]:
    """Certified accuracy of a method by radius."""
    accuracies = [run["certified_accuracy"] for run in runs]
    return [
        mean_and_spread([of_run[method][radius] for of_run in accuracies if method in of_run])
        for radius in radii
    ]


_DEFENSES = {
    "fo_ds": ("FO-DS (white box)", (89.33, 81.67, 68.87, 49.80)),
    "deepzero": ("DeepZero", (86.02, 76.61, 61.80, 43.05)),
    "zo_ae_ds": ("ZO-AE-DS", (63.60, 52.80, 43.13, 32.73)),
    "zo_ds": ("ZO-DS", None),
    "zo_boundary": ("asked at the box's input (zo_boundary)", None),
    "pretrained": ("the denoiser as pre-trained, no query", None),
    "none": ("no defense", None),
}
_RADII = ("0", "0.25", "0.5", "0.75")
_VARIATIONS = {
    "at_boundary": "asked at the box's 64 pixels (zo_boundary)",
    "code_of_2": "ZO-AE-DS with a code of 2 numbers",
    "code_of_1": "ZO-AE-DS with a code of 1 number",
    "as_pretrained": "DeepZero after one step: the denoiser as pre-trained",
    "more_queries": "DeepZero with four times the queries",
    "as_many_steps": "FO-DS in as many steps as DeepZero has (638)",
}


def defense_gradients_section(found: list[Result]) -> str:
    """Why one way of asking gets more gradient than another."""
    sides = {side: summary_of(found, side=side) for side in defense_gradients.SIDES}
    latents = {latent: summary_of(found, latent=latent) for latent in defense_gradients.LATENTS}
    lines = [
        "## Where a defense should ask",
        "",
        f"Cosine between the gradient of the denoiser's 7,264 parameters from "
        f"{defense_gradients.QUERIES:,} queries and that by autodiff (mean ± standard deviation "
        "over batches): asked at randomly drawn parameters (DeepZero), or in random directions at "
        "the box's input (ZO-DS). Digits, enlarged. `python -m studies.defense_gradients`.",
        "",
        *head("pixels", [f"{side * side:,}" for side in sides]),
    ]
    for way, title in defense_gradients.WAYS.items():
        cells = [
            f"{run[way]:.3f} ± {run[f'{way}_spread']:.3f}" if run else "not run"
            for run in sides.values()
        ]
        lines.append(row(title, cells))
    kept = [f"{100 * run['agreement']:.1f} %" if run else "not run" for run in latents.values()]
    lines += [
        "",
        "ZO-AE-DS asks at a code, whose gradient is exact in as many queries as it has numbers. "
        "What it pays is what the code loses: how often the box answers alike to a held-out image "
        "and to what the auto-encoder makes of it.",
        "",
        *head("numbers in the code", latents),
        row("same answer", kept),
    ]
    if any(sides.values()):
        lines += ["", "![Where a defense should ask](defense_gradients.png)"]
    return "\n".join(lines)


def summary_of(found: list[Result], **labels: object) -> Result | None:
    """The summary of the one result with these labels, None if it is missing."""
    return next((run["summary"] for run in chosen(found, **labels)), None)


def solver_section(found: list[Result]) -> str:
    """The table of the solver in the loop."""
    lines = [
        "## Solver in the loop",
        "",
        "Mean absolute error of corrected rollouts: mean ± standard deviation over trainings "
        "(their number). `python -m studies.applications --parts "
        "sol_ks,sol_ks_large,sol_wake,sol_wake_large`.",
        "",
        *head("", [title for title, _ in _CORRECTIONS.values()]),
        row("wake flow, paper", [f"{p:.3f}" if p else "" for _, p in _CORRECTIONS.values()]),
    ]
    notes: list[str] = []
    for part, (title, picture) in _SOLVERS.items():
        runs = [run["summary"] for run in chosen(found, part=part)]
        values = {
            method: [value for run in runs for value in run["mae_of_seeds"].get(method, [])]
            for method in _CORRECTIONS
        }
        values["src"] = values["src"][:1]  # nothing is trained
        lines.append(row(title, [absolute(values[method]) for method in _CORRECTIONS]))
        if runs:
            trained = {method: found for method, found in values.items() if found}
            notes += ["", _solver_note(title, runs, trained)]
        if runs and picture:
            pictures = f"({part}_errors.png) ![One test run]({part}_{picture}.png)"
            notes += ["", f"![Error against time]{pictures}"]
    asked = _asked(found)
    return "\n".join([*lines, *notes, *(["", *asked] if asked else [])])


def _asked(found: list[Result]) -> list[str]:
    """Samples of the solver that a training takes, and the picture of errors against them."""
    parts = {part: summary_of(found, part=part) for part in _SOLVERS}
    counted = {part: run for part, run in parts.items() if run and "num_samples" in run}
    if not counted:
        return []
    lines = [
        "Samples that a training asks of the solver for its steps:",
        "",
        *head("", [title for title, _ in _CORRECTIONS.values()]),
    ]
    for part, run in counted.items():
        cells = [
            f"{run['num_samples'][m]:,}" if m in run["num_samples"] else "" for m in _CORRECTIONS
        ]
        lines.append(row(_SOLVERS[part][0], cells))
    return [*lines, "", "![Error against samples asked](applications.png)"]


def _solver_note(title: str, runs: list[Result], values: dict[str, list[float]]) -> str:
    """What the table of one case leaves out."""
    error = {method: float(np.mean(found)) for method, found in values.items()}
    sentences = [title.replace(", measured", "") + f", {runs[0]['num_parameters']:,} parameters:"]
    for method, name in (("zo_sol", "ZO-SOL"), ("zo_sol_boundary", "At the boundary it")):
        if method in error:
            closed = (error["src"] - error[method]) / (error["src"] - error["fo_sol"])
            sentences.append(
                f"{name} closes {100 * closed:.0f} % of the gap between no correction and FO-SOL "
                "(paper, ZO-SOL on the wake: 58 %)."
            )
    worst = {method: max(max(run["mae_of_test_runs"][method]) for run in runs) for method in values}
    listed = ", ".join(f"{method} {value:.4f}" for method, value in worst.items())
    sentences.append(f"Worst of {runs[0]['num_test_runs']} test runs: {listed}.")
    return " ".join(sentences)


def absolute(values: list[float]) -> str:
    """Errors as ``"0.0052 ± 0.0003 (3)"``."""
    if not values:
        return "not run"
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread} ({len(values)})"


_CORRECTIONS = {
    "src": ("SRC, no correction", 0.180),
    "non": ("NON, without the solver", 0.153),
    "zo_sol": ("ZO-SOL, solver queried", 0.119),
    "zo_sol_boundary": ("ZO-SOL at the boundary", None),
    "fo_sol": ("FO-SOL, solver differentiated", 0.074),
}
_SOLVERS = {
    "sol_ks": ("Kuramoto–Sivashinsky, measured", "states"),
    "sol_ks_large": ("Kuramoto–Sivashinsky, large correction, measured", None),
    "sol_wake": ("wake flow, measured", "vorticity"),
    "sol_wake_large": ("wake flow, large correction, measured", None),
}
