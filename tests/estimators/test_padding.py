"""Chunks are filled up by padding, of which a black box is told and not asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import deepzero_jax as dz
from deepzero_jax.coordinates import all_coordinates, is_valid, num_valid
from deepzero_jax.estimators.padding import OnlyAsked
from tests.estimators.test_pass_joined import count
from tests.marks import few
from tests.problems import relative_error

ROWS = 3


def network(depth, width=4):
    """Layers in front of a box of float64 and of the same function in JAX: losses and parameters.

    ``(loss, twin, params, box)``.
    """
    box = dz.black_box(lambda x: np.sin(x).sum(axis=1), (), dtype="float64")
    rng = np.random.default_rng(0)
    params = {
        f"layer{i}": {
            "w": jnp.asarray(rng.normal(size=(width, width)) / 2, jnp.float32),
            "b": jnp.asarray(rng.normal(size=width) / 2, jnp.float32),
        }
        for i in range(depth)
    }
    x = jnp.asarray(rng.normal(size=(ROWS, width)), jnp.float32)

    def behind(answer):
        def loss(params):
            hidden = x
            for layer in params.values():
                hidden = jnp.tanh(hidden @ layer["w"] + layer["b"])
            return jnp.mean(answer(hidden) ** 2)

        return loss

    return behind(box), behind(lambda h: jnp.sin(h).sum(axis=1)), params, box


def drawn(params, number, padding=()):
    """Some coordinates of each leaf, behind ``padding``, and padding behind them."""
    rng = np.random.default_rng(number)

    def of(leaf):
        indices = np.full(leaf.size, leaf.size, np.int32)
        chosen = rng.permutation(leaf.size)[: rng.integers(0, leaf.size)]
        found = [*padding, *chosen]
        indices[: len(found)] = found[: leaf.size]
        return jnp.asarray(indices)

    return jax.tree.map(of, params)


def num_drawn(params, coordinates):
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(coordinates), strict=True)
    return sum(int(num_valid(leaf, indices)) for leaf, indices in pairs)


@pytest.mark.parametrize("batch_size", ["auto", *few([4, 1])])
@pytest.mark.parametrize("central", [False, True])
def test_a_network_in_front_of_a_box_has_its_slopes_and_asks_no_padding(batch_size, central):
    loss, twin, params, box = network(3)
    estimator = dz.cge(smoothing=1e-4, central=central, batch_size=batch_size)
    vg = jax.jit(dz.value_and_grad(loss, estimator))
    exact = jax.grad(twin)(params)
    for number in range(3):
        coordinates, before = drawn(params, number, padding=[-1]), box.num_samples
        _, grads = vg(params, coordinates=coordinates)
        jax.block_until_ready(grads)
        queries = 1 + (1 + central) * num_drawn(params, coordinates)
        assert box.num_samples - before == ROWS * queries
        expected = jax.tree.map(on, exact, coordinates)
        assert relative_error(grads, expected) < (1e-5 if central else 1e-3)


def on(leaf, indices):
    """A leaf, zero off some coordinates."""
    kept = np.zeros(leaf.size, np.float32)
    chosen = indices[is_valid(leaf.size, indices)]
    kept[chosen] = np.asarray(leaf).reshape(-1)[chosen]
    return kept.reshape(leaf.shape)


def test_a_box_stands_in_the_program_as_often_behind_a_deep_network():
    def callbacks(depth):
        loss, _, params, _ = network(depth)
        vg = dz.value_and_grad(loss, dz.cge(smoothing=1e-4))
        return count("pure_callback", lambda c: vg(params, coordinates=c), drawn(params, 0))

    assert callbacks(6) == callbacks(3)


def test_a_call_takes_a_whole_chunk():
    loss, _, params, box = network(3)
    coordinates = drawn(params, 0)
    vg = jax.jit(dz.value_and_grad(loss, dz.cge(smoothing=1e-4)))
    jax.block_until_ready(vg(params, coordinates=coordinates))
    # The base pass, and at most one for each leaf.
    assert box.num_calls <= 1 + len(jax.tree.leaves(params))


def test_copies_that_draw_different_numbers_ask_their_own_alone():
    loss, _, params, box = network(2)
    copies = [drawn(params, number) for number in range(3)]
    together = jax.tree.map(lambda *arrays: jnp.stack(arrays), *copies)
    vg = dz.value_and_grad(loss, dz.cge(smoothing=1e-4))
    many = jax.jit(jax.vmap(lambda c: vg(params, coordinates=c)[1]))
    before = box.num_samples
    grads = jax.block_until_ready(many(together))
    moved = sum(num_drawn(params, c) for c in copies)
    assert box.num_samples - before == ROWS * (1 + moved)
    for place, coordinates in enumerate(copies):
        alone = vg(params, coordinates=coordinates)[1]
        assert relative_error(jax.tree.map(lambda g, p=place: g[p], grads), alone) < 1e-5


@pytest.mark.parametrize("batch_size", ["auto", *few([2, 1])])
def test_inputs_that_all_coordinates_move_alike_are_asked_no_oftener_than_said(batch_size):
    box = dz.black_box(lambda x: np.sum(x**2, axis=1), (), dtype="float64")
    x = jnp.arange(12.0).reshape(ROWS, 4)
    loss = lambda params: jnp.mean(box(x * sum(map(jnp.sum, params.values()))))
    params = {"a": jnp.ones(5), "b": jnp.ones(2), "c": jnp.ones(())}
    estimator = dz.cge(smoothing=1e-3, central=True, batch_size=batch_size)
    vg = jax.jit(dz.value_and_grad(loss, estimator))
    slope = 2 * 8 * np.sum(np.square(x)) / ROWS
    exact = jax.tree.map(lambda leaf: np.full(leaf.shape, slope), params)
    for coordinates in (all_coordinates(params), drawn(params, 3)):
        before = box.num_samples
        grads = jax.block_until_ready(vg(params, coordinates=coordinates)[1])
        said = ROWS * dz.num_queries(estimator, params, coordinates)
        assert 0 < box.num_samples - before <= said
        assert relative_error(grads, jax.tree.map(on, exact, coordinates)) < 1e-5


@pytest.mark.parametrize("way", ["scan", "while", "cond", "callback beside it"])
def test_where_a_box_cannot_be_told_it_is_asked_no_padding_either(way):
    _, _, params, box = network(1)
    x = jnp.linspace(0.1, 1.0, 4)

    def loss(params):
        hidden = jnp.tanh(params["layer0"]["w"] @ x + params["layer0"]["b"])[None]
        if way == "scan":
            return lax.scan(lambda h, _: (h + box(h)[:, None], None), hidden, length=2)[0].sum()
        if way == "while":
            turn = lambda carry: (carry[0] + 1, carry[1] + box(carry[1])[:, None])
            return lax.while_loop(lambda carry: carry[0] < 2, turn, (0, hidden))[1].sum()
        if way == "cond":
            return lax.cond(hidden[0, 0] > 9, jnp.sum, lambda h: jnp.sum(box(h)), hidden)
        shape = jax.ShapeDtypeStruct((1, 4), jnp.float32)
        other = jax.pure_callback(
            lambda h: 2 * np.asarray(h), shape, hidden, vmap_method="expand_dims"
        )
        return jnp.sum(box(other))

    calls = {"scan": 2, "while": 2}.get(way, 1)
    coordinates = drawn(params, 1)
    estimator = dz.cge(smoothing=1e-3, batch_size=4)
    grads = jax.block_until_ready(
        jax.jit(dz.value_and_grad(loss, estimator))(params, coordinates=coordinates)[1]
    )
    assert box.num_samples == calls * dz.num_queries(estimator, params, coordinates)
    assert np.all(np.isfinite(np.concatenate([g.ravel() for g in jax.tree.leaves(grads)])))


def test_copies_of_a_call_that_are_padding_are_zero_and_not_made():
    seen = []

    def call(a, b, no_numbers):
        seen.append(a.shape)
        assert no_numbers.shape == (*a.shape[:-1], 5, 0)
        return [a.sum(axis=-1) + b, np.broadcast_to(b, a.shape[:-1])]

    shapes = tuple(jax.ShapeDtypeStruct((), dtype) for dtype in (np.float32, np.float64))
    only = OnlyAsked(call, shapes)
    a, b = np.arange(24.0).reshape(2, 3, 4), np.ones((2, 1))
    given = a, b, np.zeros((2, 3, 5, 0))
    asked = np.array([[True, False, True]])
    first, second = only(*given, asked)
    assert seen == [(4, 4)]
    np.testing.assert_array_equal(first, np.where(asked, a.sum(axis=-1) + 1, 0))
    np.testing.assert_array_equal(second, np.where(asked, [[1.0] * 3] * 2, 0))
    assert [found.dtype for found in (first, second)] == [np.float32, np.float64]
    none = only(*given, np.zeros((1, 3), bool))
    assert len(seen) == 1
    assert not np.any(none[0])
    whole = only(*given, np.ones((1, 3), bool))
    np.testing.assert_array_equal(whole[0], a.sum(axis=-1) + 1)
