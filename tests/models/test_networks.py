import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepzero_jax.coordinates import num_coordinates
from deepzero_jax.models import (
    CNN,
    MODELS,
    ResNet,
    layer_names,
    max_pool,
    prefix_apply,
    suffix_apply,
)
from tests.marks import few

NUM_PARAMETERS = {
    "cnn1": 730,
    "cnn2": 3_700,
    "cnn3": 6_670,
    "cnn4": 9_640,
    "cnn5": 12_610,
    "resnet8": 75_290,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
}


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.mark.parametrize("name", MODELS)
def test_number_of_parameters(name):
    assert num_coordinates(shapes(MODELS[name]())["params"]) == NUM_PARAMETERS[name]


def test_resnet20_splits_parameters_as_the_paper():
    params = shapes(ResNet())["params"]
    kernels = sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim > 1)
    assert kernels == 268_336
    assert num_coordinates(params) - kernels == 1_386


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", few(["cnn3", "resnet20"]))
def test_prefix_and_suffix_compose_to_the_whole_bit_for_bit(name, train):
    model = MODELS[name](width=4)
    images = jax.random.normal(jax.random.key(0), (3, 16, 16, 3))
    variables = model.init(jax.random.key(1), images)
    whole = model.apply(variables, images, train, mutable=["batch_stats"])[0]
    for index in range(len(layer_names(model)) + 1):
        hidden = prefix_apply(model, index, variables, images, train)
        assert np.array_equal(suffix_apply(model, index, variables, hidden, train), whole), index


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_belongs_to_a_layer_that_can_be_cut(name):
    model = MODELS[name]()
    assert set(shapes(model)["params"]) == set(layer_names(model))


def test_option_a_shortcut_has_no_parameters_and_halves_the_image():
    model = ResNet(width=4)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    hidden = prefix_apply(model, len(layer_names(model)) - 1, variables, jnp.ones((2, 32, 32, 3)))
    assert hidden.shape == (2, 8, 8, 16)


def test_convolutions_are_kaiming_normal():
    kernel = ResNet().init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"][
        "stage3_block2_conv1"
    ]["kernel"]
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
    assert np.max(np.abs(kernel)) > 3 * np.std(kernel)  # not truncated at two deviations


def test_bad_depth_is_named():
    with pytest.raises(ValueError, match="6n"):
        ResNet(depth=21)
    with pytest.raises(ValueError, match="at least 1"):
        CNN(depth=0)


@pytest.mark.parametrize("size", [(8, 6), (7, 5)])
def test_max_pool_is_flax_s_and_so_is_its_derivative(size):
    keys = jax.random.split(jax.random.key(0), 3)
    hidden, tangent = (jax.random.normal(key, (2, *size, 3)) for key in keys[:2])

    def by_windows(hidden):
        return nn.max_pool(hidden, (2, 2), strides=(2, 2))

    pooled, moved = jax.jvp(max_pool, (hidden,), (tangent,))
    expected, expected_moved = jax.jvp(by_windows, (hidden,), (tangent,))
    assert np.array_equal(max_pool(hidden), expected)
    assert np.array_equal(pooled, expected)
    assert np.array_equal(moved, expected_moved)
    cotangent = jax.random.normal(keys[2], expected.shape)
    (grad,) = jax.vjp(max_pool, hidden)[1](cotangent)
    assert np.array_equal(grad, jax.vjp(by_windows, hidden)[1](cotangent)[0])


@pytest.mark.parametrize("size", [(8, 8), (64, 15)])
def test_a_cnn_too_deep_for_its_images_says_how_deep_it_may_be(size):
    images = jnp.zeros((1, *size, 1))
    words = f"^a CNN of depth 4 .* {size[0]} × {size[1]} pixels can be halved 3 times at most: "
    with pytest.raises(ValueError, match=words):
        CNN(depth=4).init(jax.random.key(0), images)
    CNN(depth=3, width=2).init(jax.random.key(0), images)
