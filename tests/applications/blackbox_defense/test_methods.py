import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.applications.blackbox_defense import (
    AutoEncoder,
    Defense,
    DnCNN,
    Examples,
    Start,
    autoencoder_pretraining,
    default_estimator,
    denoiser_pretraining,
    estimated_head,
    make_method,
)
from deepzero_jax.applications.blackbox_defense.methods import untrained
from deepzero_jax.data import Dataset
from deepzero_jax.sampling import dense_sampler
from deepzero_jax.training import TrainStep, cross_entropy, make_optimizer
from studies import defense_gradients
from tests.marks import few, long, thorough

SHAPE, CLASSES, BATCH = (4, 4, 1), 3, 6


@pytest.fixture
def defense():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(16, CLASSES)).astype(np.float32)
    images = rng.integers(0, 256, (24, *SHAPE)).astype(np.uint8)
    host = lambda x: np.tanh(x.reshape(len(x), -1) @ weights) * 3
    labels = host(images / 255.0).argmax(-1).astype(np.int32)
    return Defense(
        Examples(images[6:], labels[6:], images[:6], labels[:6]),
        box=dz.black_box(host, (CLASSES,)),
        twin=lambda x: jnp.tanh(x.reshape(len(x), -1) @ weights) * 3,
        denoiser=DnCNN(depth=3, width=2, use_norm=True),
        autoencoder=AutoEncoder(latent=5, width=3, shape=SHAPE),
        sigma=0.25,
        batch_size=BATCH,
    )


def start_of(defense):
    variables = []
    for pretraining in (denoiser_pretraining, autoencoder_pretraining):
        task = pretraining(defense, jax.random.key(1))
        params, model_state = task.init(jax.random.key(0))
        variables.append({"params": params, **model_state})
    return Start(*variables)


def advance(method, num_steps=2, learning_rate=0.05):
    params, model_state = method.task.init(jax.random.key(0))
    optimizer = make_optimizer("sgd", lambda step: learning_rate)
    step = TrainStep(method.task, method.estimator, optimizer, dense_sampler(params))
    state = step.init(jax.random.key(1), params, model_state)
    run = jax.jit(lambda s, data: step.advance(s, step.select(s), data))
    losses = []
    for _ in range(num_steps):
        state, metrics = run(state, method.task.data)
        losses.append(float(metrics["loss"]))
    return params, state, losses


@pytest.mark.parametrize("chunk_size", few([64, 5]))
@pytest.mark.parametrize("name", few(["zo_ae_ds", "zo_ds", "fo_ds", "deepzero"], 3, long))
def test_every_method_trains_and_counts_what_it_asks(name, chunk_size, defense):
    estimator = default_estimator(name, 1e-2, num_directions=7, chunk_size=chunk_size)
    method = make_method(name, defense, start_of(defense), estimator)
    params, state, losses = advance(method)
    assert np.all(np.isfinite(losses))
    moved = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), params, state.params)
    assert max(jax.tree.leaves(moved)) > 0
    expected = (
        0 if name == "fo_ds" else method.estimator.num_queries(dz.num_queries(dz.cge(), params) - 1)
    )
    assert defense.box.num_samples == 2 * BATCH * expected
    score = method.task.evaluate(state.params, state.model_state, method.task.data)
    assert 0 <= score["stability"] <= 1


@pytest.mark.parametrize(
    ("cosines", "directions", "calls"), [(0, 0, 16), (3, 0, 9), (0, 5, 5), (3, 5, 5)]
)
def test_the_boundary_is_asked_in_pixels_cosines_or_directions(cosines, directions, calls, defense):
    defense = defense._replace(num_cosines=cosines)
    estimator = default_estimator("zo_boundary", 1e-2, directions, chunk_size=64)
    method = make_method("zo_boundary", defense, start_of(defense), estimator)
    _, _, losses = advance(method)
    assert np.all(np.isfinite(losses))
    assert method.estimator.num_queries(0) == 1 + calls
    assert defense.box.num_samples == 2 * BATCH * (1 + calls)


@pytest.mark.parametrize("name", ["deepzero", "fo_ds", "zo_ds", "zo_ae_ds", "zo_boundary"])
def test_methods_say_what_a_probe_is_to_look_at(name, defense):
    method = make_method(name, defense, start_of(defense), default_estimator(name, 1e-2, 7, 64))
    if name == "fo_ds":
        assert method.asked_at is None
        return
    fun, point = method.asked_at(jax.random.key(0))
    probe = dz.probe_smoothing(fun, point, jax.random.key(1))
    samples = BATCH if name == "deepzero" else 1
    assert defense.box.num_samples == samples * probe.num_queries
    assert 0 < probe.smoothing < 1


@pytest.mark.parametrize(("name", "error"), [("deepzero", 0.03), ("zo_boundary", 0.01)])
def test_it_is_the_first_order_method_from_queries_alone(name, error, defense):
    start = start_of(defense)
    # The zero convolution at the end lets no gradient through to the others: move it.
    start = start._replace(denoiser=jax.tree.map(lambda leaf: leaf + 0.1, start.denoiser))
    ends = []
    for way in ("fo_ds", name):
        estimator = default_estimator(way, smoothing=1e-3, num_directions=0, chunk_size=64)
        method = make_method(way, defense, start, estimator)
        params, state, _ = advance(method, num_steps=3)
        ends.append(jax.tree.map(jnp.subtract, state.params, params))
    quality = dz.gradient_quality(ends[1], ends[0])
    assert quality.cosine > 0.999
    assert quality.relative_error < error


def test_an_estimated_head_hands_back_the_gradient_of_every_image(defense):
    images = jax.random.uniform(jax.random.key(0), (4, *SHAPE))
    labels = jnp.array([0, 1, 2, 0])
    head = estimated_head(defense.box, dz.cge(smoothing=1e-2, central=True, reuse="none"))
    value, grads = jax.value_and_grad(lambda x: head(x, labels, jax.random.key(1)))(images)
    wanted = jax.value_and_grad(lambda x: cross_entropy(defense.twin(x), labels)[0])(images)
    np.testing.assert_allclose(value, wanted[0], rtol=1e-5)
    np.testing.assert_allclose(grads, wanted[1], rtol=2e-2, atol=1e-3)


def test_what_trains_nothing_answers_as_it_starts(defense):
    start, images = start_of(defense), jnp.ones((2, *SHAPE)) / 3
    np.testing.assert_array_equal(untrained("none", defense, start)(images), defense.box(images))
    method = make_method("deepzero", defense, start, dz.cge(smoothing=1e-2))
    expected = method.respond(*method.task.init(jax.random.key(0)), images)
    np.testing.assert_array_equal(untrained("pretrained", defense, start)(images), expected)


def test_the_box_is_black_and_methods_are_known(defense):
    method = make_method("deepzero", defense, start_of(defense), dz.first_order())
    with pytest.raises(ValueError, match="do not support JVP"):
        advance(method)
    with pytest.raises(ValueError, match="method must be one of"):
        make_method("none", defense, start_of(defense), dz.first_order())
    with pytest.raises(ValueError, match="needs the variables of an auto-encoder"):
        make_method("zo_ae_ds", defense, start_of(defense)._replace(autoencoder=None), dz.cge())


@thorough
def test_asking_at_all_parameters_gives_the_whole_gradient_and_more_queries_more_of_it(
    defense, monkeypatch
):
    start = start_of(defense)
    start = start._replace(denoiser=jax.tree.map(lambda leaf: leaf + 0.1, start.denoiser))
    count = sum(leaf.size for leaf in jax.tree.leaves(start.denoiser["params"]))
    found = {}
    for queries in (count // 4 + 1, count + 1):
        monkeypatch.setattr(defense_gradients, "QUERIES", queries)
        found[queries] = defense_gradients.cosines(defense, start)
    few, all_of_them = found.values()
    assert min(all_of_them["parameters"]) > 0.999
    for way in defense_gradients.WAYS:
        assert np.mean(few[way]) < np.mean(all_of_them[way])


def test_enlarged_images_repeat_their_pixels():
    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1)
    small = Dataset(images, np.zeros(2), images, np.zeros(2), 1, (0.0,), (1.0,))
    large = defense_gradients.enlarged(small, 3)
    assert large.train_images.shape == (2, 6, 6, 1)
    np.testing.assert_array_equal(large.test_images[:, ::3, 2::3], images)


@pytest.mark.parametrize("shape", [(28, 28, 1), (8, 8, 1), (5, 9, 2)])
def test_an_auto_encoder_takes_images_of_any_size(shape):
    network, images = AutoEncoder(latent=4, width=2, shape=shape), jnp.ones((2, *shape))
    variables = network.init(jax.random.key(0), images)
    assert network.apply(variables, images).shape == images.shape
    assert network.apply(variables, images, method=network.encode).shape == (2, 4)
