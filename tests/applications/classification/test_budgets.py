"""What a run folder has spent on a box before the first step: counted, kept, held to budgets."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.applications.classification import (
    build,
    plan_run,
    prepare_run,
    train_prepared,
)
from deepzero_jax.applications.classification.config import Estimator, Model, Pruning
from deepzero_jax.blackbox import BlackBoxError
from deepzero_jax.training import RunFolderError, kept_probe
from tests.applications.classification.test_boxes import PRUNED, Pair
from tests.marks import few, long


class Server:
    """What charges for samples, by whichever process they are sent, and fails at one of them."""

    def __init__(self):
        self.sent, self.last, self.budget, self.boxes = 0, None, None, []

    def __call__(self, x):
        self.sent += len(x)
        if self.last is not None and self.sent > self.last:
            raise KeyboardInterrupt
        return np.tanh(x)


SERVER = Server()


@pytest.fixture
def server():
    SERVER.__init__()
    return SERVER


def make_model(num_classes):
    box = dz.black_box(SERVER, (num_classes,), budget=SERVER.budget)
    SERVER.boxes.append(box)
    init = lambda key, x: {"w": 0.1 * jax.random.normal(key, (8, num_classes))}
    return Pair(init, lambda params, x: box(jnp.mean(x, axis=(1, 3)) @ params["w"]))


FIXED = replace(PRUNED, model=Model(name=f"{__name__}:make_model"))
PROBED = replace(FIXED, estimator=Estimator(smoothing="auto", reuse="none"))


def prepared(record, folder):
    return prepare_run(build(record), folder, lambda line: None)


def stopped(server, after, record, folder):
    """A process that ends when it has sent more samples than so many."""
    server.last = server.sent + after
    with pytest.raises(KeyboardInterrupt):
        prepared(record, folder)
    server.last = None


def with_steps(record, num_steps):
    return replace(record, training=replace(record.training, num_steps=num_steps))


@pytest.mark.parametrize(
    "other", few([PROBED, FIXED, replace(FIXED, pruning=Pruning())], rest=long)
)
def test_what_a_folder_has_spent_counts_whatever_its_config(other, server, tmp_path):
    stopped(server, 100, PROBED, tmp_path)  # while it probes
    stopped(server, 30, with_steps(FIXED, 5), tmp_path)  # while it scores
    last = with_steps(other, 3)
    summary = train_prepared(prepared(last, tmp_path), tmp_path, "run", lambda line: None)
    assert sum(summary["box_samples"].values()) == server.sent == server.boxes[-1].num_samples
    assert summary["box_samples"]["probing"] > 100
    assert summary["box_samples"]["pruning"] > 30


@pytest.mark.parametrize("other", [PROBED, FIXED])
def test_a_budget_holds_over_configs(other, server, tmp_path):
    server.budget = 1_000
    stopped(server, 500, PROBED, tmp_path)
    server.budget = server.sent + 47
    with pytest.raises(BlackBoxError, match=r"of the budget of .* only 47 are left"):
        prepared(with_steps(other, 5), tmp_path)
    assert server.sent == server.budget - 47


@long
def test_a_probe_is_kept_when_it_is_found_for_its_config_alone(server, tmp_path):
    record = replace(PROBED, pruning=Pruning())
    probing = prepared(record, tmp_path / "whole").experiment.probing
    stopped(server, probing.num_samples + 10, PROBED, tmp_path)  # while it scores
    sent = server.sent
    again = prepared(PROBED, tmp_path)
    assert again.experiment.probing == probing
    assert server.sent == sent + 48
    assert "probed: noise" in str(plan_run(build(PROBED), tmp_path, lambda line: None))
    told = str(plan_run(build(with_steps(PROBED, 5)), tmp_path, lambda line: None))
    assert "to be probed before the first step" in told
    prepared(with_steps(PROBED, 5), tmp_path)
    assert server.sent == sent + 48 + probing.num_samples


def test_a_probe_file_of_something_else_is_named(server, tmp_path):
    (tmp_path / "probe.json").write_text('{"config": null, "probe": {"noise": 1}}')
    with pytest.raises(RunFolderError, match=r"probe\.json does not hold a probe; move it away"):
        kept_probe(tmp_path)


# At most 60 queries of 12 images to probe, 48 samples to score, and 13 or 25 queries for a step.
@pytest.mark.parametrize(
    ("record", "least"),
    [
        (PROBED, 720 + 48 + 13 * 12),
        (FIXED, 48 + 13 * 12),
        (replace(PROBED, pruning=Pruning()), 720 + 25 * 12),
    ],
)
def test_a_budget_that_does_not_reach_the_first_step_is_refused_first(
    record, least, server, tmp_path
):
    server.budget = least - 1
    with pytest.raises(BlackBoxError, match=rf"first step the run sends {least:,} samples"):
        prepared(record, tmp_path)
    assert server.sent == 0
    server.budget = least + 21  # the images of an evaluation
    train_prepared(prepared(with_steps(record, 1), tmp_path), tmp_path, "run", lambda line: None)
