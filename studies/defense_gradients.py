"""Which defense gets most gradient for its queries: by pixels, and through an auto-encoder.

python -m studies.defense_gradients --sides 8,16,32,64 --latents 1,2,4,8

A gradient of the denoiser's parameters by one step's queries, asked at the parameters (DeepZero)
or at the box's input (ZO-DS), against autodiff through the box's twin. The digits are enlarged,
each pixel repeated, and the box has a block more for each doubling. ZO-AE-DS asks at the code, a
handful of numbers at any size; what it loses is lost in the auto-encoder, and measured there.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

import deepzero_jax as dz
from deepzero_jax.applications.blackbox_defense import (
    Defense,
    Start,
    default_estimator,
    make_method,
    prepare_defense,
    pretrain,
    stages_of,
)
from deepzero_jax.coordinates import leaf_paths, sample_coordinates
from deepzero_jax.data import Dataset, load_digits
from deepzero_jax.training import Json, read_json
from studies.runner import RUNS, Measurement, configured, main

STUDY = "defense_gradients"
QUERIES = 1152  # of one gradient, as in the paper
BATCHES = 4
WAYS = {"parameters": "DeepZero, at the parameters", "pixels": "ZO-DS, at the box's input"}
SIDES = (8, 16, 32, 64)
LATENTS = (1, 2, 4, 8)
_PRETRAINING = {"denoiser.pretraining_steps": 1000, "training.batch_size": 16}


def enlarged(dataset: Dataset, factor: int) -> Dataset:
    """A data set of images so many times as high and wide, each pixel repeated."""
    grow = lambda images: np.repeat(np.repeat(images, factor, 1), factor, 2)
    return dataset._replace(
        train_images=grow(dataset.train_images), test_images=grow(dataset.test_images)
    )


def defended(side: int, workdir: Path) -> tuple[Defense, Start]:
    """A box for images of so many pixels a side, and a pre-trained denoiser in front of it."""
    factor = side // 8
    model = f"cnn{2 + round(math.log2(factor))}"
    config = configured("defense_digits", {"classifier.model": model, **_PRETRAINING})
    stages = stages_of(config, workdir)
    dataset = enlarged(load_digits(), factor)
    defense, _ = prepare_defense(config, stages, dataset)
    start = pretrain(config, stages, defense, ["deepzero"])
    # The twin answers as the box does, without a call to the host.
    return defense._replace(box=defense.twin), start


def cosines(defense: Defense, start: Start) -> dict[str, list[float]]:
    """``{way: cosines to autodiff, batch by batch}`` at ``QUERIES`` queries a gradient."""
    exact = make_method("fo_ds", defense, start, dz.first_order())
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(start.denoiser["params"]))
    kept = (QUERIES - 1) / size
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    gradient = jax.jit(dz.value_and_grad(exact.task.loss, exact.estimator, has_aux=True))
    estimates = {}
    for way, name in (("parameters", "deepzero"), ("pixels", "zo_ds")):
        estimator = default_estimator(name, 5e-3, QUERIES - 1, chunk_size=64)
        method = make_method(name, defense, start, estimator)
        estimates[way] = jax.jit(
            dz.value_and_grad(method.task.loss, method.estimator, has_aux=True)
        )
    for step in range(BATCHES):
        key, draw = jax.random.split(jax.random.fold_in(jax.random.key(0), step))
        params, model_state = exact.task.init(key)
        batch = exact.task.batch(exact.task.data, jax.random.key(1), jax.numpy.int32(step))
        reference = gradient(params, model_state, *batch)[1]
        ratios = dict.fromkeys(leaf_paths(params), 1 - kept)
        for way, estimate in estimates.items():
            chosen = sample_coordinates(draw, params, ratios) if way == "parameters" else None
            grads = estimate(params, model_state, *batch, key=key, coordinates=chosen)[1]
            found[way].append(float(dz.gradient_quality(grads, reference).cosine))
    return found


def measure_side(side: int, runs: Path) -> Json:
    """Mean and standard deviation of the cosines of both ways."""
    found = cosines(*defended(side, runs / STUDY / f"side-{side}"))
    summary: Json = {}
    for way, values in found.items():
        summary[way] = float(np.mean(values))
        summary[f"{way}_spread"] = float(np.std(values, ddof=1))
    return summary


def measure_latent(latent: int, runs: Path) -> Json:
    """How often the box answers alike to a held-out image and to what the code keeps of it."""
    config = configured(
        "defense_digits",
        {
            "autoencoder.latent": latent,
            "autoencoder.pretraining_steps": 3000,
            "denoiser.pretraining_steps": 0,
            "training.batch_size": 64,
        },
    )
    stages = stages_of(config, runs / STUDY / f"latent-{latent}")
    defense, _ = prepare_defense(config, stages, load_digits())
    pretrain(config, stages, defense, ["zo_ae_ds"])
    summary = read_json(stages.workdir / "autoencoder_pretraining" / "summary.json")
    return {"agreement": summary["stability"]}


def measurements(
    sides: tuple[int, ...] = SIDES, latents: tuple[int, ...] = LATENTS, runs: Path = RUNS
) -> Iterator[Measurement]:
    """The cells.

    Raises:
      ValueError: a side that the digits cannot have.
    """
    for side in sides:
        if side not in SIDES:
            raise ValueError(
                f"--sides must be of {SIDES}: the digits 1, 2, 4 or 8 times; got {side}"
            )
    for side in sides:
        yield Measurement(f"side-{side}", {"side": side}, lambda s=side: measure_side(s, runs))
    for latent in latents:
        yield Measurement(
            f"latent-{latent}", {"latent": latent}, lambda n=latent: measure_latent(n, runs)
        )


if __name__ == "__main__":
    main(STUDY, (measurements,), __doc__ or "")
