"""A run of a few steps, in this process."""

import os
import signal
import time

import jax
import numpy as np

import deepzero_jax as dz
from deepzero_jax.data import Dataset
from deepzero_jax.models import CNN
from deepzero_jax.sampling import layer_ratio_sampler
from deepzero_jax.training.loop import Settings, run
from deepzero_jax.training.optimizer import learning_rate_schedule, make_optimizer
from deepzero_jax.training.step import make_step
from deepzero_jax.training.task import classification_task


def tiny_dataset():
    rng = np.random.default_rng(0)
    labels = np.arange(60).astype(np.int32) % 3
    images = rng.integers(0, 80, (60, 8, 8, 1)).astype(np.uint8)
    images[np.arange(60), labels * 2 + 1, :, 0] += 150
    return Dataset(images, labels, images[:21], labels[:21], 3, (0.3,), (0.25,))


def tiny_run(
    folder,
    estimator=None,
    num_steps=8,
    learning_rate=0.1,
    lines=None,
    sampler=None,
    task_of=lambda task: task,
    say=None,
    **changes,
):
    task = task_of(classification_task(CNN(depth=1, width=2, num_classes=3), tiny_dataset(), 12))
    estimator = estimator or dz.cge(smoothing=1e-3, reuse="split")
    params, model_state = task.init(jax.random.key(0))
    schedule = learning_rate_schedule("cosine", learning_rate, num_steps, 2)
    sampler = sampler or layer_ratio_sampler(params, {"block1_conv/kernel": 0.5}, interval=3)
    step = make_step(task, estimator, make_optimizer("sgd", schedule), sampler)
    folder.mkdir(exist_ok=True)
    lines = [] if lines is None else lines
    settings = Settings("tiny", num_steps, evaluation_interval=4, checkpoint_seconds=0.0)
    return run(
        task,
        estimator,
        step,
        schedule,
        step.init(jax.random.key(1), params, model_state),
        folder,
        settings._replace(**changes),
        say or lines.append,
    )


def send_sigterm_after(metrics, lines):
    while not metrics.exists() or metrics.read_text().count("\n") < lines:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)
