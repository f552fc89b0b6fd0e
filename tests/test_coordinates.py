import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax import sample_coordinates
from deepzero_jax.coordinates import (
    all_coordinates,
    check_coordinates,
    check_float_leaves,
    coordinate_mask,
    kept_per_leaf,
    leaf_paths,
    masked_coordinates,
    num_coordinates,
    num_valid,
    scatter,
    valid_length,
)

PARAMS = {"a": {"kernel": jnp.zeros((4, 5)), "bias": jnp.zeros(5)}, "s": jnp.zeros(())}


def test_paths_name_leaves_in_order():
    assert leaf_paths(PARAMS) == ["a/bias", "a/kernel", "s"]
    assert leaf_paths((1.0, [2.0])) == ["0", "1/0"]


def test_two_leaves_of_one_path_are_refused_whoever_goes_by_paths():
    params = {"a/b": jnp.ones((2, 5)), "a": {"b": jnp.ones((2, 2))}}
    loss = lambda params: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params))
    calls = [
        lambda: dz.leaf_paths(params),
        lambda: dz.layer_ratios(params, 0.5),
        lambda: sample_coordinates(jax.random.key(0), params, {"a/b": 0.5}),
        lambda: dz.coordinate_costs(loss, params),
        lambda: dz.value_and_grad(loss, dz.cge(smoothing=1e-3))(params),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"^two leaves have the path 'a/b': .* rename one"):
            call()


def test_sample_has_static_counts_and_distinct_sorted_indices():
    drawn = sample_coordinates(jax.random.key(0), PARAMS, {"a/kernel": 0.75})
    kernel = np.asarray(drawn["a"]["kernel"])
    assert kernel.shape == (5,)
    assert np.all(np.diff(kernel) > 0)
    assert kernel.min() >= 0 and kernel.max() < 20
    assert drawn["a"]["bias"].tolist() == [0, 1, 2, 3, 4]
    assert drawn["s"].tolist() == [0]


def test_sample_is_uniform():
    draw = jax.jit(lambda key: sample_coordinates(key, PARAMS, {"a/kernel": 0.75}))
    counts = np.zeros(20)
    for seed in range(400):
        counts[np.asarray(draw(jax.random.key(seed))["a"]["kernel"])] += 1
    # 400 draws of 5 of 20: mean 100, standard deviation 8.7.
    assert np.all(np.abs(counts - 100) < 5 * 8.7)


def test_drawing_again_recompiles_nothing():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def draw(key):
        return sample_coordinates(key, PARAMS, {"a/kernel": 0.5})

    chex.clear_trace_counter()
    first, second = draw(jax.random.key(0)), draw(jax.random.key(1))
    assert first["a"]["kernel"].tolist() != second["a"]["kernel"].tolist()


def test_counts_are_rounded_from_ratios():
    assert kept_per_leaf(PARAMS, {"a/kernel": 0.99, "a/bias": 0.5}) == {
        "a/bias": 3,
        "a/kernel": 0,
        "s": 1,
    }


@pytest.mark.parametrize(
    ("ratios", "words"),
    [({"a/kernle": 0.5}, "did you mean 'a/kernel'"), ({"a/kernel": 1.5}, r"\[0, 1\]")],
)
def test_bad_ratios_are_named(ratios, words):
    with pytest.raises(ValueError, match=words):
        sample_coordinates(jax.random.key(0), PARAMS, ratios)


def test_mask_and_coordinates_are_inverse():
    drawn = sample_coordinates(jax.random.key(3), PARAMS, {"a/kernel": 0.5})
    mask = coordinate_mask(PARAMS, drawn)
    assert jax.tree.all(
        jax.tree.map(lambda a, b: bool(jnp.all(a == b)), masked_coordinates(mask), drawn)
    )


def test_padding_scatters_nowhere_and_counts_nothing():
    leaf = jnp.zeros((2, 2))
    values = jnp.array([1.0, 2.0, 3.0])
    assert scatter(leaf, jnp.array([0, 3, 4]), values).tolist() == [[1.0, 0.0], [0.0, 2.0]]
    padded = {"a": {"kernel": jnp.array([1, 20, 20]), "bias": jnp.array([5])}, "s": jnp.array([0])}
    assert num_coordinates(PARAMS, padded) == 2


def test_all_coordinates_counts_everything():
    assert num_coordinates(PARAMS, all_coordinates(PARAMS)) == num_coordinates(PARAMS) == 26


def test_wrong_structure_is_named():
    with pytest.raises(ValueError, match="structure of params"):
        check_coordinates(PARAMS, {"a": jnp.arange(2)})
    with pytest.raises(ValueError, match="one-dimensional integer"):
        check_coordinates({"w": jnp.zeros(3)}, {"w": jnp.zeros(2)})


def test_leaves_of_eight_bits_are_refused():
    params = {"w": jnp.ones(3, jnp.float8_e4m3fn)}
    for estimator in (dz.cge(smoothing=0.25), dz.cge(smoothing=0.25, reuse="none")):
        with pytest.raises(TypeError, match=r"params\['w'\] has dtype float8_e4m3fn.*bfloat16"):
            dz.value_and_grad(lambda p: jnp.sum(p["w"].astype(jnp.float32)), estimator)(params)


def test_integer_leaves_are_refused():
    with pytest.raises(TypeError, match=r"params\['n'\] has dtype int32"):
        check_float_leaves({"n": jnp.arange(3), "w": jnp.zeros(2)})


BROKEN = {
    "negative": ([0, -1], "index -1 is negative"),
    "behind padding": ([0, 5, 3], "index 3 stands behind padding"),
    "repeated": ([4, 2, 4], "index 4 stands more than once"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("make", [np.array, jnp.array])
def test_known_indices_are_checked_and_named(kind, make):
    indices, words = BROKEN[kind]
    coordinates = {"a": make(indices), "b": make([1, 0, 2])}
    params = {"a": jnp.zeros(5), "b": jnp.zeros(2)}
    with pytest.raises(ValueError, match=rf"coordinates\['a'\]: {words}"):
        check_coordinates(params, coordinates)
    with pytest.raises(ValueError, match=words):
        num_coordinates(params, coordinates)


def test_repeats_of_unsigned_indices_are_seen():
    with pytest.raises(ValueError, match="index 3 stands more than once"):
        check_coordinates(jnp.zeros(5), np.array([3, 2, 3], np.uint32))


def test_order_is_free_and_padding_may_be_any_large_index():
    check_coordinates(jnp.zeros(5), np.array([3, 0, 4, 9, 5, 5], np.uint32))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("reuse", ["difference", "none"])
def test_traced_indices_count_as_they_stand(kind, reuse, batch_size):
    params = jnp.arange(1.0, 6.0)
    vg = dz.value_and_grad(
        lambda w: jnp.sum(w**2), dz.cge(smoothing=1e-2, reuse=reuse, batch_size=batch_size)
    )
    grads = jax.jit(lambda c: vg(params, coordinates=c)[1])(jnp.array(BROKEN[kind][0]))
    expected = {"negative": [0], "behind padding": [0, 3], "repeated": [2, 4]}[kind]
    assert np.flatnonzero(grads).tolist() == expected
    assert np.allclose(grads[jnp.array(expected)], 2 * params[jnp.array(expected)], rtol=1e-2)


@pytest.mark.parametrize("make", [dz.rge, dz.first_order])
@pytest.mark.parametrize("kind", BROKEN)
def test_traced_indices_mean_the_same_to_every_estimator(kind, make):
    vg = dz.value_and_grad(lambda w: jnp.sum(w**2), make())
    call = lambda c: vg(jnp.ones(5), key=jax.random.key(0), coordinates=c)[1]
    expected = {"negative": [0], "behind padding": [0, 3], "repeated": [2, 4]}[kind]
    assert np.flatnonzero(jax.jit(call)(jnp.array(BROKEN[kind][0]))).tolist() == expected


def test_counts_are_those_of_what_is_evaluated():
    calls = []

    def host(w):
        calls.append(w)
        return np.float32(np.sum(w))

    def fun(w):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return jax.pure_callback(host, shape, w, vmap_method="sequential")

    vg = dz.value_and_grad(fun, dz.cge(smoothing=1e-2, batch_size=1))
    leaf, indices = jnp.zeros(5), jnp.array([3, 1, 3, 5, 5])
    jax.block_until_ready(jax.jit(lambda c: vg(leaf, coordinates=c))(indices))
    assert len(calls) == 1 + int(num_valid(leaf, indices)) == 4
    assert int(jax.jit(num_valid)(leaf, indices)) == int(valid_length(leaf, indices)) == 3
