"""Runs of a few steps, in this process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import deepzero_jax as dz
from deepzero_jax.data import Dataset
from deepzero_jax.models import CNN
from deepzero_jax.sampling import layer_ratio_sampler
from deepzero_jax.training import (
    TrainStep,
    classification_task,
    learning_rate_schedule,
    make_optimizer,
    plan,
    train,
)
from tests.conftest import OLD_EMITTERS, ROOT

TINY = ["--config", str(ROOT / "tests/records/tiny.py")]


def on_devices(count, program):
    """What a program prints last, as JSON, on so many CPU devices."""
    flags = os.environ.get("XLA_FLAGS", "").replace(OLD_EMITTERS, "")
    flags += f" --xla_force_host_platform_device_count={count}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def call(main, *arguments):
    """Runs a program in this process; its exit status."""
    try:
        return main(list(arguments))
    except SystemExit as stop:
        return stop.code


def tiny_dataset():
    rng = np.random.default_rng(0)
    labels = np.arange(60).astype(np.int32) % 3
    images = rng.integers(0, 80, (60, 8, 8, 1)).astype(np.uint8)
    images[np.arange(60), labels * 2 + 1, :, 0] += 150
    return Dataset(images, labels, images[:21], labels[:21], 3, (0.3,), (0.25,))


class Pair(NamedTuple):
    """What a model is asked for."""

    init: Callable
    apply: Callable


def linear_behind(box, num_classes):
    """A linear model of ``tiny_dataset`` or the digits, whose logits go through a black box."""
    init = lambda key, x: {"w": 0.1 * jax.random.normal(key, (8, num_classes))}
    return Pair(init, lambda params, x: box(jnp.mean(x, axis=(1, 3)) @ params["w"]))


def write_down(path, samples):
    """Appends a line to a file: how many samples a call has."""
    with open(path, "a") as file:
        file.write(f"{len(samples)}\n")


def tiny_run(
    folder,
    estimator=None,
    num_steps=8,
    learning_rate=0.1,
    lines=None,
    sampler=None,
    task_of=lambda task: task,
    log=None,
    plan_only=False,
    optimizer=None,
    begin=lambda state: state,
    evaluation_interval=4,
):
    """Trains the smallest CNN; its summary, or the plan."""
    model = CNN(depth=1, width=2, num_classes=3)
    task = task_of(classification_task(model, tiny_dataset(), 12, cut=True))
    estimator = estimator or dz.cge(smoothing=1e-3, reuse="split")
    params, model_state = task.init(jax.random.key(0))
    schedule = learning_rate_schedule("cosine", learning_rate, num_steps, 2)
    sampler = sampler or layer_ratio_sampler(params, {"block1_conv/kernel": 0.5}, interval=3)
    optimizer = optimizer or make_optimizer("sgd", schedule)
    step = TrainStep(task, estimator, optimizer, sampler)
    state = step.init(jax.random.key(1), params, model_state)
    if plan_only:
        return str(plan(step, state, num_steps=num_steps))
    folder.mkdir(exist_ok=True)
    lines = [] if lines is None else lines
    return train(
        step,
        state,
        folder=folder,
        num_steps=num_steps,
        schedule=schedule,
        evaluation_interval=evaluation_interval,
        checkpoint_seconds=0.0,
        begin=begin,
        name="tiny",
        log=log or lines.append,
    )


def correction_of(config, workdir):
    """The correction of a SolverConfig, its fine solutions made first."""
    from deepzero_jax.applications.solver_in_the_loop import CASES, build_correction

    return build_correction(config, CASES[config.case](config, workdir))


def send_sigterm_after(metrics, lines):
    while not metrics.exists() or metrics.read_text().count("\n") < lines:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)
