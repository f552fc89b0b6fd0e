"""Pictures of corrected rollouts: error against time, and a state against time."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from deepzero_jax.pictures import pyplot, save_figure

_NAMES = {
    "src": "SRC, no correction",
    "non": "NON, trained without the solver",
    "zo_sol": "ZO-SOL, queried for the parameters",
    "zo_sol_boundary": "ZO-SOL, queried at the boundary",
    "fo_sol": "FO-SOL, solver differentiated",
}
_COLOURS = {
    "src": "gray",
    "non": "tab:orange",
    "zo_sol": "tab:blue",
    "zo_sol_boundary": "tab:green",
    "fo_sol": "black",
}


def plot_errors(errors: Mapping[str, np.ndarray], dt: float, picture: Path) -> None:
    """Mean absolute error against time.

    Args:
      errors: of each method, [seeds, runs, frames].
      dt: time between frames.
      picture: where it goes.
    """
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for method, values in errors.items():
        times = dt * np.arange(1, values.shape[-1] + 1)
        of_seeds = values.mean(1)
        style = "--" if method == "fo_sol" else "-"
        axis.plot(
            times, of_seeds.mean(0), style, color=_COLOURS[method], label=_NAMES[method], zorder=3
        )
        axis.fill_between(
            times, of_seeds.min(0), of_seeds.max(0), color=_COLOURS[method], alpha=0.2, linewidth=0
        )
    runs = next(iter(errors.values())).shape[1]
    axis.set(
        xlabel="time",
        ylabel="mean absolute error",
        yscale="log",
        title=f"{runs} test runs; bands: all seeds",
    )
    axis.grid(alpha=0.3)
    axis.legend()
    save_figure(figure, picture)


def plot_states(
    truth: np.ndarray, found: Mapping[str, np.ndarray], dt: float, length: float, picture: Path
) -> None:
    """One test run on a line, state against time, and how far each method is from it.

    Args:
      truth: [frames, points].
      found: rollouts of the methods, likewise.
      dt: time between frames.
      length: of the domain.
      picture: where it goes.
    """
    plt = pyplot()
    extent = (0, dt * (len(truth) - 1), 0, length)
    figure, axes = plt.subplots(
        1 + len(found), 1, figsize=(7, 1.5 * (1 + len(found))), sharex=True, layout="constrained"
    )
    options = {"aspect": "auto", "origin": "lower", "extent": extent}
    top = np.abs(truth).max()
    shown = axes[0].imshow(truth.T, cmap="RdBu_r", vmin=-top, vmax=top, **options)
    axes[0].set_title("high fidelity", fontsize=9, loc="left")
    figure.colorbar(shown, ax=axes[0], label="u")
    largest = max(np.abs(frames - truth).max() for frames in found.values())
    for axis, (method, frames) in zip(axes[1:], found.items(), strict=True):
        error = np.abs(frames - truth)
        shown = axis.imshow(error.T, cmap="magma", vmin=0, vmax=largest, **options)
        title = f"{_NAMES[method]}: mean absolute error {error[1:].mean():.4f}"
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_ylabel("x")
    axes[0].set_ylabel("x")
    axes[-1].set_xlabel("time")
    figure.colorbar(shown, ax=axes[1:], label="error of u")
    save_figure(figure, picture)


def plot_vorticity(
    curls: Mapping[str, np.ndarray], solid: np.ndarray, time: float, picture: Path
) -> None:
    """The wake at the end of a test run: the true one, and that of each method.

    Args:
      curls: vorticity [along − 1, across − 1]; ``"truth"`` and methods.
      solid: bool [along, across], the cylinder.
      time: since the start of the run.
      picture: where it goes.
    """
    plt = pyplot()
    figure, axes = plt.subplots(
        len(curls), 1, figsize=(5.5, 2.4 * len(curls)), sharex=True, layout="constrained"
    )
    top = 0.6 * np.abs(curls["truth"]).max()
    names = {"truth": f"high fidelity, time {time:g}", **_NAMES}
    images = []
    for axis, (name, curl) in zip(np.atleast_1d(axes), curls.items(), strict=True):
        images.append(axis.imshow(curl.T, cmap="RdBu_r", vmin=-top, vmax=top, origin="lower"))
        axis.contourf(solid.T, levels=[0.5, 1], colors="gray")
        axis.set_title(names[name], fontsize=9, loc="left")
        axis.set(xticks=[], yticks=[])
    figure.colorbar(images[0], ax=axes, label="vorticity", shrink=0.5)
    save_figure(figure, picture)
