"""Trained and certified defenses, each stage a run of the loop."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.applications.blackbox_defense import config as fields
from deepzero_jax.applications.blackbox_defense.box import check_box, check_fit, find_box
from deepzero_jax.applications.blackbox_defense.budgets import (
    estimators_of,
    num_steps,
    pruned,
)
from deepzero_jax.applications.blackbox_defense.certification import (
    certified_accuracy,
    certify_images,
    num_abstentions,
    plot_certified,
)
from deepzero_jax.applications.blackbox_defense.config import DefenseConfig
from deepzero_jax.applications.blackbox_defense.denoiser import AutoEncoder, DnCNN
from deepzero_jax.applications.blackbox_defense.labels import ask_labels
from deepzero_jax.applications.blackbox_defense.methods import (
    METHODS,
    Defense,
    Start,
    untrained,
)
from deepzero_jax.applications.blackbox_defense.places import places_of
from deepzero_jax.applications.blackbox_defense.pretraining import (
    autoencoder_pretraining,
    denoiser_pretraining,
)
from deepzero_jax.applications.blackbox_defense.stability import Classifier, Examples
from deepzero_jax.bars import bar
from deepzero_jax.blackbox import HostFunction, black_box, onnx_model
from deepzero_jax.data import Dataset
from deepzero_jax.estimators import first_order
from deepzero_jax.estimators.probing import MOST_QUERIES
from deepzero_jax.platform import num_cores
from deepzero_jax.programs import Program, Run, cache_folder, run_of
from deepzero_jax.registry import present
from deepzero_jax.sampling import layer_ratio_sampler
from deepzero_jax.training import Json, Stages, Task, predicted_classes, write_json
from deepzero_jax.types import Key, Log

_STAGES = ("classifier", "denoiser_pretraining", "autoencoder_pretraining", *METHODS)
STAGE_KEYS = {name: number for number, name in enumerate(_STAGES)}
# Makes the host function of the box from its file.
OpenBox = Callable[..., HostFunction]
# Images [n, h, w, c] → logits [n, classes].
Respond = Callable[[jax.Array], jax.Array]


def stages_of(config: DefenseConfig, workdir: Path, log: Log = print) -> Stages:
    """The stages of a run folder."""
    return Stages(config.seed, STAGE_KEYS, workdir, config.training.checkpoint_seconds, log)


def check_sizes(config: DefenseConfig, dataset: Dataset) -> None:
    """Raises ValueError unless images that are not held out fill a batch, and queries a step."""
    chosen, available = config.training, len(dataset.train_labels)
    left = available - chosen.held_out
    if left < chosen.batch_size:
        raise ValueError(
            f"training.held_out {chosen.held_out:,} leaves {max(left, 0):,} of the {available:,} "
            f"training images, and training.batch_size is {chosen.batch_size:,}; hold out fewer"
        )
    # The same methods before a box that is never asked, from shapes alone.
    few = slice(chosen.batch_size)
    labels = np.zeros(chosen.batch_size, np.int32)
    images = np.asarray(dataset.train_images[few])
    never = lambda images: jnp.zeros((len(images), dataset.num_classes))
    defense = _defense(config, Examples(images, labels, images, labels), never, never)
    key = jax.random.key(0)
    shapes = lambda pretraining: jax.eval_shape(pretraining(defense, key).init, key)
    together = lambda found: {"params": found[0], **found[1]}
    start = Start(*(together(shapes(p)) for p in (denoiser_pretraining, autoencoder_pretraining)))
    probed = MOST_QUERIES if chosen.smoothing == "auto" else 0
    for name in chosen.methods:
        if METHODS[name] is not None:
            estimator = estimators_of(name, config)(1.0)
            method = present(METHODS, name).make(defense, start, estimator)
            num_steps(name, config, method, estimator, probed)


def train_defenses(
    config: DefenseConfig,
    workdir: Path,
    log: Log = print,
    open_box: OpenBox = onnx_model,
) -> Json:
    """Trains the box and the methods, certifies them, writes ``summary.json`` and the curve.

    Args:
      config: whose fields ``check_fields`` has found right.
      workdir: the run folder.
      log: takes a line for the person who watches.
      open_box: makes the host function of the box from its file.

    Raises:
      ValueError: too few images, fewer queries than one step takes, or a stage that cannot be read
        back.
      RunFolderError: the folder is of another config, or another process works in it.
      InterruptedRunError, NonFiniteError, StepFailedError: from the loop.
    """
    with run_of(config, workdir, log) as run:
        return _train(config, run, open_box)


def _train(config: DefenseConfig, run: Run, open_box: OpenBox = onnx_model) -> Json:
    check_box(config)
    dataset = config.data.load(cache_folder())
    check_fit(config, dataset)
    check_sizes(config, dataset)
    run.hold()
    run.claim()
    workdir, log = run.workdir, run.log
    stages = stages_of(config, workdir, log)
    defense, box_accuracy = prepare_defense(config, stages, dataset, open_box)
    names = config.training.methods
    log(f"\n{places_of(config, defense)}")
    start = pretrain(config, stages, defense, names)
    responses: dict[str, Respond] = {}
    num_queries: dict[str, int] = {}
    for name in names:
        if METHODS[name] is None:
            responses[name], num_queries[name] = untrained(name, defense, start), 0
            continue
        responses[name], num_queries[name] = _train_method(name, config, stages, defense, start)
    certification = config.certification
    records = _certify(config, stages, dataset, responses)
    plot_certified(records, certification, workdir / "certified_accuracy.png")
    summary = {
        "name": workdir.name,
        "certified_accuracy": {
            name: {f"{r:g}": certified_accuracy(found, r) for r in certification.radii}
            for name, found in records.items()
        },
        "abstained": {name: num_abstentions(found) for name, found in records.items()},
        "num_queries": num_queries,
        "box_samples": stages.box_samples,
        "box_test_accuracy": box_accuracy,
        "num_images": len(next(iter(records.values()))),
        "sigma": certification.sigma,
        "num_samples": certification.num_samples,
        "wall_seconds": stages.wall_seconds,
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
    }
    write_json(workdir / "summary.json", summary)
    return summary


def prepare_defense(
    config: DefenseConfig,
    stages: Stages,
    dataset: Dataset,
    open_box: OpenBox = onnx_model,
) -> tuple[Defense, float | None]:
    """What all methods share, and the test accuracy of the box where it was measured."""
    path, twin, test_accuracy = find_box(config, stages, dataset)
    host = open_box(path, num_threads=num_cores())
    box = black_box(host, (dataset.num_classes,), max_batch=config.certification.batch_size)
    held = config.training.held_out
    images = np.asarray(dataset.train_images)
    answers = ask_labels(box, path, images, stages)
    examples = Examples(images[held:], answers[held:], images[:held], answers[:held])
    return _defense(config, examples, box, twin), test_accuracy


def _defense(
    config: DefenseConfig, examples: Examples, box: Classifier, twin: Classifier | None
) -> Defense:
    height, width, channels = examples.images.shape[1:]
    return Defense(
        examples,
        box,
        twin,
        DnCNN(config.denoiser.depth, config.denoiser.width, config.denoiser.use_norm),
        AutoEncoder(config.autoencoder.latent, config.autoencoder.width, (height, width, channels)),
        config.certification.sigma,
        config.training.batch_size,
        config.training.boundary_cosines,
    )


def pretrain(
    config: DefenseConfig, stages: Stages, defense: Defense, names: Iterable[str]
) -> Start:
    """Pre-trained denoiser and, where a method wants it, auto-encoder."""
    kinds: list[
        tuple[str, Callable[[Defense, Key], Task], fields.Denoiser | fields.AutoEncoder]
    ] = [("denoiser", denoiser_pretraining, config.denoiser)]
    if any(training.needs_code for name in names if (training := METHODS[name])):
        kinds.append(("autoencoder", autoencoder_pretraining, config.autoencoder))
    found = {}
    for name, pretraining, chosen in kinds:
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
) -> tuple[Respond, int]:
    """How a trained method answers, and the queries that it has spent."""
    training, way = config.training, present(METHODS, name)
    make = estimators_of(name, config)
    automatic, probing = training.smoothing == "auto", None
    estimator = make(1.0 if automatic else float(training.smoothing))
    method = way.make(defense, start, estimator)
    if automatic and method.asked_at is not None:
        probing = stages.probing(name, *method.asked_at(stages.key(name)))
        estimator = probing.estimator(make)
        method = way.make(defense, start, estimator)
    sampler = None
    if way.at_fraction:
        params, _ = method.task.init(stages.key(name))
        sampler = layer_ratio_sampler(params, pruned(config, params), interval=1)
    probed = 0 if probing is None else probing.probe.num_queries
    steps = num_steps(name, config, method, estimator, probed)
    trained = stages.run(
        name, method.task, method.estimator, steps, training.learning_rate, sampler, probing
    )
    respond = lambda images: method.respond(trained.params, trained.model_state, images)
    return respond, trained.summary["num_queries"] if way.queries else 0


def _certify(
    config: DefenseConfig, stages: Stages, dataset: Dataset, responses: Mapping[str, Respond]
) -> dict[str, list[Json]]:
    certification = config.certification
    count = min(certification.num_images, len(dataset.test_labels))
    images = (np.asarray(dataset.test_images[:count]) / 255.0).astype(np.float32)
    labels = np.asarray(dataset.test_labels[:count])
    records = {}
    stages.log(f"\ncertified accuracy of {count} test images, sigma {certification.sigma:g}")
    stages.log("method      " + "".join(f"{f'r = {r:g}':>10}" for r in certification.radii))
    for name, respond in responses.items():
        answer = jax.jit(lambda x, respond=respond: predicted_classes(respond(x)))
        with stages.asking("certification"), bar(f"certifying {name}", stages.log):
            records[name] = certify_images(
                lambda x, answer=answer: np.asarray(answer(x)),
                images,
                labels,
                certification,
                stages.workdir / name / "certificates.jsonl",
                dataset.num_classes,
                config.seed,
            )
        values = [certified_accuracy(records[name], radius) for radius in certification.radii]
        stages.log(f"{name:<12}" + "".join(f"{100 * value:>8.1f} %" for value in values))
    return records


def describe(summary: Json) -> str:
    """The result of a run in a line."""
    accuracies = {
        name: of[min(of, key=float)] for name, of in summary["certified_accuracy"].items()
    }
    words = ", ".join(f"{name} {100 * value:.1f} %" for name, value in accuracies.items())
    return f"certified accuracy at the least radius: {words}; see summary.json and the pictures"


PROGRAM = Program(_train, describe)
