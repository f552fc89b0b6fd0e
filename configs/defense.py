"""From a DefenseConfig to trained and certified defenses, each stage a run of the loop."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import deepzero_jax as dz
from configs.experiment import choose, choose_all, load_dataset, make_model, numbers_in
from configs.schema import DefenseConfig
from configs.stages import Stages
from deepzero_jax.applications.blackbox_defense.certificate import check_radii
from deepzero_jax.applications.blackbox_defense.certification import (
    Smoothing,
    certified_accuracy,
    certify_images,
    num_abstentions,
    plot_certified,
)
from deepzero_jax.applications.blackbox_defense.denoiser import AutoEncoder, DnCNN
from deepzero_jax.applications.blackbox_defense.methods import (
    METHODS,
    Defense,
    Start,
    autoencoder_pretraining,
    default_estimator,
    denoiser_pretraining,
    make_method,
)
from deepzero_jax.applications.blackbox_defense.onnx_export import export_onnx
from deepzero_jax.applications.blackbox_defense.stability import Classifier, Examples
from deepzero_jax.blackbox import onnx_model
from deepzero_jax.coordinates import kept_per_leaf, leaf_paths
from deepzero_jax.data import DATASETS, Dataset
from deepzero_jax.estimators import first_order
from deepzero_jax.models import MODELS
from deepzero_jax.platform import num_cores
from deepzero_jax.sampling import layer_ratio_sampler
from deepzero_jax.training.folder import write_json
from deepzero_jax.training.task import classification_task

PyTree = Any
_STAGES = ("classifier", "denoiser_pretraining", "autoencoder_pretraining", *METHODS)
STAGE_KEYS = {name: number for number, name in enumerate(_STAGES)}


def smoothing_of(config: DefenseConfig) -> Smoothing:
    """How the defenses are certified."""
    chosen = config.certification
    radii = numbers_in("certification.radii", chosen.radii, "0, 0.25")
    return Smoothing(
        chosen.sigma,
        chosen.num_selection,
        chosen.num_samples,
        chosen.alpha,
        tuple(radii),
        chosen.batch_size,
    )


def check_fields(config: DefenseConfig) -> None:
    """Checks what costs nothing to check, before any data is read."""
    choose("data set", config.data.name, DATASETS)
    choose("model", config.classifier.model, MODELS)
    choose_all("method", config.training.methods, METHODS)
    smoothing = smoothing_of(config)
    if not smoothing.sigma > 0 or not 0 < smoothing.alpha < 1:
        raise ValueError(
            "certification.sigma must be positive and certification.alpha lie in (0, 1), got "
            f"{smoothing.sigma} and {smoothing.alpha}"
        )
    check_radii(smoothing.radii, smoothing.num_samples, smoothing.sigma, smoothing.alpha)
    if not 0 < config.training.fraction <= 1:
        raise ValueError(f"training.fraction must lie in (0, 1], got {config.training.fraction}")
    if config.denoiser.depth < 2:
        raise ValueError(f"denoiser.depth must be at least 2, got {config.denoiser.depth}")


def train_classifier(
    config: DefenseConfig, stages: Stages, dataset: Dataset
) -> tuple[Path, Classifier, dict[str, Any]]:
    """The box: an ONNX file, its white-box twin on images in [0, 1], and its summary."""
    chosen = config.classifier
    model = make_model(chosen.model, chosen.width, dataset.num_classes)
    task = classification_task(model, dataset, chosen.batch_size, chosen.augment)
    num_steps = max(1, round(chosen.num_epochs * task.steps_per_epoch))
    params, model_state, summary = stages.run(
        "classifier", task, first_order(), num_steps, chosen.learning_rate
    )
    variables = {"params": params, **model_state}
    mean, std = (np.asarray(values, np.float32) for values in (dataset.mean, dataset.std))

    def twin(images: jax.Array) -> jax.Array:
        return model.apply(variables, (images - mean) / std)  # pyright: ignore[reportReturnType]

    path = stages.workdir / "classifier.onnx"
    height, width, channels = dataset.train_images.shape[1:]
    shape = (height, width, channels)
    export_onnx(model, variables, shape, dataset.mean, dataset.std, path)
    images = np.asarray(dataset.train_images[:64], np.float32) / 255
    gap = float(
        np.max(np.abs(onnx_model(path)(images) - np.asarray(twin(jax.numpy.asarray(images)))))
    )
    if gap > 1e-3:
        raise ValueError(f"{path} answers otherwise than the network it was made from, by {gap:g}")
    return path, twin, summary


def train_defenses(
    config: DefenseConfig,
    workdir: Path,
    say: Callable[[str], None] = print,
    open_box: Callable[..., Callable[[np.ndarray], np.ndarray]] = onnx_model,
) -> dict[str, Any]:
    """Trains the box and the methods, certifies them, writes ``summary.json`` and the curve.

    Args:
      config: whose fields ``check_fields`` has found right.
      workdir: the run folder.
      say: prints a line.
      open_box: makes the host function of the box from its file.

    Raises:
      ValueError: fewer queries than one step takes, or a stage that cannot be read back.
      InterruptedRunError, NonFiniteError, StepFailedError: from the loop.
    """
    started = time.perf_counter()
    training = config.training
    dataset = load_dataset(config.data)
    stages = Stages(config.seed, STAGE_KEYS, workdir, training.checkpoint_seconds, say)
    defense, box_summary = prepare_defense(config, stages, dataset, open_box)
    names = choose_all("method", training.methods, METHODS)
    start = pretrain(config, stages, defense, names)
    responses: dict[str, Any] = {}
    num_queries: dict[str, int] = {}
    for name in names:
        if name == "none":
            responses[name], num_queries[name] = defense.box, 0
            continue
        responses[name], num_queries[name] = _train_method(name, config, stages, defense, start)
    smoothing = smoothing_of(config)
    records = _certify(config, stages, dataset, responses, smoothing)
    plot_certified(records, smoothing, workdir / "certified_accuracy.png")
    summary = {
        "name": workdir.name,
        "certified_accuracy": {
            name: {f"{r:g}": certified_accuracy(found, r) for r in smoothing.radii}
            for name, found in records.items()
        },
        "abstained": {name: num_abstentions(found) for name, found in records.items()},
        "num_queries": num_queries,
        "box_test_accuracy": box_summary["test_accuracy"],
        "num_images": len(next(iter(records.values()))),
        "sigma": smoothing.sigma,
        "num_samples": smoothing.num_samples,
        "wall_seconds": round(time.perf_counter() - started, 1),
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
    }
    write_json(workdir / "summary.json", summary)
    return summary


def _answers(host: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
    parts = np.array_split(images, max(1, len(images) // 1000))
    answers = [host((part / 255.0).astype(np.float32)).argmax(-1) for part in parts]
    return np.concatenate(answers).astype(np.int32)


def prepare_defense(
    config: DefenseConfig,
    stages: Stages,
    dataset: Dataset,
    open_box: Callable[..., Callable[[np.ndarray], np.ndarray]] = onnx_model,
) -> tuple[Defense, dict[str, Any]]:
    """What all methods share, the box trained, and the summary of its training."""
    path, twin, summary = train_classifier(config, stages, dataset)
    host = open_box(path, num_threads=num_cores())
    box = dz.black_box(host, (dataset.num_classes,), max_batch=config.certification.batch_size)
    held = config.training.held_out
    images = np.asarray(dataset.train_images)
    height, width, channels = images.shape[1:]
    answers = _answers(host, images)
    defense = Defense(
        Examples(images[held:], answers[held:], images[:held], answers[:held]),
        box,
        twin,
        DnCNN(config.denoiser.depth, config.denoiser.width, config.denoiser.use_norm),
        AutoEncoder(config.autoencoder.latent, config.autoencoder.width, (height, width, channels)),
        config.certification.sigma,
        config.training.batch_size,
    )
    return defense, summary


def pretrain(config: DefenseConfig, stages: Stages, defense: Defense, names: list[str]) -> Start:
    """Pre-trained denoiser and, where a method wants it, auto-encoder."""
    kinds: dict[str, Any] = {"denoiser": (denoiser_pretraining, config.denoiser)}
    if "zo_ae_ds" in names:
        kinds["autoencoder"] = (autoencoder_pretraining, config.autoencoder)
    found = {}
    for name, (pretraining, chosen) in kinds.items():
        key = stages.key(f"{name}_pretraining")
        task = pretraining(defense, key)
        params, model_state = task.init(key)
        if chosen.pretraining_steps:
            params, model_state, _ = stages.run(
                f"{name}_pretraining",
                task,
                first_order(),
                chosen.pretraining_steps,
                chosen.learning_rate,
            )
        found[name] = {"params": params, **model_state}
    return Start(**found)


def _train_method(
    name: str, config: DefenseConfig, stages: Stages, defense: Defense, start: Start
) -> tuple[Any, int]:
    """How a trained method answers, and the queries that it has spent."""
    training = config.training
    estimator = default_estimator(name, training.smoothing, training.num_directions, training.chunk)
    method = make_method(name, defense, start, estimator)
    params, _ = method.task.init(stages.key(name))
    sampler = None
    per_step = method.estimator.num_queries(0)
    if name == "deepzero":
        pruned = {p: 1 - training.fraction for p in leaf_paths(params) if p.endswith("kernel")}
        sampler = layer_ratio_sampler(params, pruned, interval=1)
        per_step = estimator.num_queries(sum(kept_per_leaf(params, pruned).values()))
    steps = training.num_queries // per_step
    if name == "fo_ds":
        steps = training.first_order_steps
    if steps < 1:
        raise ValueError(
            f"training.num_queries {training.num_queries:,} is less than the {per_step:,} of one "
            f"step of {name}"
        )
    params, model_state, summary = stages.run(
        name, method.task, method.estimator, steps, training.learning_rate, sampler
    )
    respond = lambda images: method.respond(params, model_state, images)
    return respond, 0 if name == "fo_ds" else summary["num_queries"]


def _certify(
    config: DefenseConfig,
    stages: Stages,
    dataset: Dataset,
    responses: dict[str, Any],
    smoothing: Smoothing,
) -> dict[str, list[dict[str, Any]]]:
    count = min(config.certification.num_images, len(dataset.test_labels))
    images = (np.asarray(dataset.test_images[:count]) / 255.0).astype(np.float32)
    labels = np.asarray(dataset.test_labels[:count])
    records = {}
    stages.say(f"\ncertified accuracy of {count} test images, sigma {smoothing.sigma:g}")
    stages.say("method      " + "".join(f"{f'r = {r:g}':>10}" for r in smoothing.radii))
    for name, respond in responses.items():
        answer = jax.jit(lambda x, respond=respond: jax.numpy.argmax(respond(x), -1))
        path = stages.workdir / name / "certificates.jsonl"
        records[name] = certify_images(
            lambda x, answer=answer: np.asarray(answer(x)),
            images,
            labels,
            smoothing,
            path,
            dataset.num_classes,
            config.seed,
        )
        values = [certified_accuracy(records[name], radius) for radius in smoothing.radii]
        stages.say(f"{name:<12}" + "".join(f"{100 * value:>8.1f} %" for value in values))
    return records
