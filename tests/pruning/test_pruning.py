import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import deepzero_jax as dz
from deepzero_jax.pruning import prune_mask, prune_params, sparse_updates
from deepzero_jax.pruning.report import (
    in_layer_order,
    load_mask,
    load_ratios,
    plot_ratios,
    ratios_table,
    save_mask,
)
from tests.marks import few

SCORES = {"a": jnp.array([[1.0, -2.0], [3.0, 0.5]]), "b": jnp.array([9.0, 9.0])}


def test_ratios_come_from_one_threshold_and_vectors_are_kept():
    ratios = dz.layer_ratios(SCORES, 0.5)
    assert ratios == {"a": 0.5, "b": 0.0}
    assert prune_mask(SCORES, 0.5)["a"].tolist() == [[False, True], [False, True]]


def test_rankings():
    masks = {
        name: prune_mask(SCORES, 0.75, prune=name)["a"].ravel().tolist()
        for name in ("highest", "lowest", "smallest_magnitude")
    }
    assert [masks[name].index(True) for name in masks] == [1, 2, 2]
    assert all(sum(mask) == 1 for mask in masks.values())


@pytest.mark.parametrize("sparsity", few([0.9, 0.0, 0.3, 0.8, 0.95, 0.99]))
def test_counts_on_resnet20_are_those_of_the_paper(sparsity):
    expected = {0.8: 55_053, 0.9: 28_220, 0.95: 14_803, 0.99: 4_069, 0.0: 269_722}
    model = dz.models.MODELS["resnet20"]()
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    params = jax.tree.map(lambda s: jnp.zeros(s.shape), shapes)
    ratios = dz.layer_ratios(dz.random_scores(jax.random.key(1), params), sparsity)
    coordinates = dz.sample_coordinates(jax.random.key(2), params, ratios)
    count = dz.num_queries(dz.cge(smoothing=1e-3), params, coordinates) - 1
    assert count == expected.get(sparsity, round(268_336 * (1 - sparsity)) + 1_386)


def test_always_kept_can_be_named():
    ratios = dz.layer_ratios({**SCORES, "b": jnp.array([9.0, 8.0])}, 0.5, always_kept=["a"])
    assert ratios["a"] == 0.0
    assert ratios["b"] == 0.5
    with pytest.raises(ValueError, match="always_kept names leaves"):
        dz.layer_ratios(SCORES, 0.5, always_kept=["c"])


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5])
def test_sparsity_out_of_range(sparsity):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        dz.layer_ratios(SCORES, sparsity)


def test_scores_that_are_not_finite():
    with pytest.raises(ValueError, match="not finite"):
        dz.layer_ratios({"a": jnp.array([[jnp.nan, 1.0]])}, 0.5)


def test_scores_that_are_all_equal_rank_nothing():
    scores = {"a": jnp.zeros((2, 3)), "b": -jnp.zeros((3, 1)), "c": jnp.arange(3.0)}
    with pytest.raises(ValueError, match="scores are all 0, which ranks nothing: raise the smooth"):
        dz.layer_ratios(scores, 0.5)
    assert dz.layer_ratios(scores, 0.0)["a"] == 0.0


def test_a_leaf_that_is_always_kept_may_stand_alone():
    ratios = dz.layer_ratios(
        {"aa": jnp.arange(6.0).reshape(2, 3), "b": jnp.eye(2)}, 0.5, always_kept="aa"
    )
    assert ratios["aa"] == 0.0


def test_sparse_gradient_still_moves_by_momentum_and_decay_and_sparse_weights_do_not():
    mask = {"w": jnp.array([True, False])}
    params = {"w": jnp.array([1.0, 1.0])}
    rule = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(1.0, momentum=0.9))
    gradient, weights = optax.chain(sparse_updates(), rule), optax.chain(rule, sparse_updates())
    grads = {"w": jnp.array([1.0, 1.0])}
    moved, _ = gradient.update(grads, gradient.init(params), params, mask=mask)
    assert np.allclose(moved["w"], [-1.1, -0.1])
    frozen, _ = weights.update(grads, weights.init(params), params, mask=mask)
    assert np.allclose(frozen["w"], [-1.1, 0.0])


def test_a_new_mask_recompiles_nothing():
    tx = optax.chain(sparse_updates(), optax.sgd(1.0))
    traces = []

    @jax.jit
    def update(grads, mask):
        traces.append(1)
        return tx.update(grads, tx.init(grads), grads, mask=mask)[0]

    grads = jnp.ones(3)
    for kept in ([True, False, True], [False, True, True]):
        assert (
            np.flatnonzero(update(grads, jnp.array(kept))).tolist() == np.flatnonzero(kept).tolist()
        )
    assert len(traces) == 1


def test_mask_survives_the_disk(tmp_path):
    mask = prune_mask(SCORES, 0.5)
    save_mask(tmp_path / "mask.npz", mask)
    loaded = load_mask(tmp_path / "mask.npz", SCORES)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), mask, loaded))
    assert prune_params(SCORES, loaded)["a"].tolist() == [[0.0, -2.0], [0.0, 0.5]]
    with pytest.raises(ValueError, match="another model"):
        load_mask(tmp_path / "mask.npz", {"c": jnp.zeros(3)})
    same_bytes = {name: jnp.zeros((*leaf.shape[::-1], 1)) for name, leaf in SCORES.items()}
    with pytest.raises(ValueError, match="does not fit leaf"):
        load_mask(tmp_path / "mask.npz", same_bytes)


def test_report(tmp_path):
    ratios = in_layer_order({"out/kernel": 0.5, "in/kernel": 0.75, "in/bias": 0.0}, ["in", "out"])
    assert list(ratios) == ["in/kernel", "in/bias", "out/kernel"]
    table = ratios_table(ratios, {"in/kernel": 8, "in/bias": 2, "out/kernel": 4})
    assert "in/kernel" in table
    assert table.splitlines()[-1].split() == ["all", "14", "6", "42.9"]
    plot_ratios({**ratios, "$^/kernel$": 0.5}, "title", tmp_path / "ratios.png")
    assert (tmp_path / "ratios.png").stat().st_size > 5_000


@pytest.mark.parametrize("content", ["", "{}", '{"ratios": 3}', "not json"])
def test_damaged_ratios_are_named(tmp_path, content):
    path = tmp_path / "ratios.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"not a ratios file; run prune\.py"):
        load_ratios(path)
