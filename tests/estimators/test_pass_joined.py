"""Leaves whose passes meet share a loop: the numbers stay, the program shrinks."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

import deepzero_jax as dz
from deepzero_jax.difference.meetings import Carried
from deepzero_jax.estimators import coordinatewise, pass_tree
from deepzero_jax.estimators.pass_tree import Stretch, Tree
from tests.estimators.test_pass_difference import (
    FOREIGN,
    Depthwise,
    GroupNormNet,
    foreign_problem,
)
from tests.marks import few, long, thorough
from tests.problems import network_loss, relative_error, some_coordinates


@pytest.fixture
def apart(monkeypatch):
    """``apart(function, *args)`` evaluates with a loop for every leaf."""

    def run(function, *args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(coordinatewise, "joined_loops", lambda *_: [])
            return function(*args, **kwargs)

    return run


def gradient(fun, params, args, coordinates=None, has_aux=False, **options):
    vg = dz.value_and_grad(fun, dz.cge(smoothing=1e-4, **options), has_aux=has_aux)
    # Made anew at every call, so that nothing traced before is taken.
    return jax.jit(lambda p, c: vg(p, *args, coordinates=c)[1])(params, coordinates)


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, core.ClosedJaxpr | core.Jaxpr):
                    yield from equations(getattr(inner, "jaxpr", inner))


def count(name, function, *args):
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    return sum(eqn.primitive.name == name for eqn in equations(jaxpr))


@thorough
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "module", [m if m is GroupNormNet else pytest.param(m, marks=pytest.mark.slow) for m in FOREIGN]
)
def test_networks_of_other_people_keep_their_numbers(module, apart):
    loss, params, images, labels = foreign_problem(module)
    coordinates = some_coordinates(params, per_leaf=3)
    options = {"coordinates": coordinates, "batch_size": 2}
    together = gradient(loss, params, (images, labels), **options)
    alone = apart(gradient, loss, params, (images, labels), **options)
    assert relative_error(together, alone) < 1e-11


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("batch_size", few([4, 1, "auto"]))
@pytest.mark.parametrize("central", [False, True])
def test_chunks_signs_and_padding_keep_their_numbers(central, batch_size, apart):
    loss, params, images, labels = foreign_problem(Depthwise)
    coordinates = jax.tree.map(
        lambda leaf, chosen: jnp.concatenate([chosen, jnp.full(3, leaf.size, jnp.int32)]),
        params,
        some_coordinates(params, per_leaf=5),
    )
    steps = {path: 1e-4 * (1 + n) for n, path in enumerate(dz.leaf_paths(params))}
    vg = dz.value_and_grad(loss, dz.cge(smoothing=steps, central=central, batch_size=batch_size))
    run = lambda: jax.jit(lambda p: vg(p, images, labels, coordinates=coordinates))(params)[1]
    assert relative_error(run(), apart(run)) < 1e-11


@long
def test_the_program_grows_with_the_depth_not_with_its_square():
    def convolutions(name):
        fun, params, args = network_loss(name, batch=2)
        vg = dz.value_and_grad(fun, dz.cge(batch_size=1), has_aux=True)
        return count("conv_general_dilated", vg, params, *args)

    # In the base pass, where its own kernel enters, and for what comes from before it.
    assert convolutions("resnet8") <= 3 * 7
    assert convolutions("resnet20") <= 3 * 19


def test_an_ordinary_network_of_another_library_shares_its_loops(apart):
    loss, params, images, labels = foreign_problem(GroupNormNet)
    run = lambda: count(
        "while", dz.value_and_grad(loss, dz.cge(batch_size=1)), params, images, labels
    )
    assert apart(run) == len(jax.tree.leaves(params))
    assert run() < len(jax.tree.leaves(params)) // 2


@thorough
def test_under_vmap_a_chunk_still_runs_its_own_branch_alone(apart):
    loss, params, images, labels = foreign_problem(GroupNormNet)
    vg = dz.value_and_grad(loss, dz.cge(batch_size=1))
    drawn = jax.tree.map(
        lambda leaf: jnp.asarray(
            np.random.default_rng(0).integers(leaf.size, size=(3, min(leaf.size, 2))), jnp.int32
        ).sort(1),
        params,
    )
    many = jax.vmap(lambda c: vg(params, images, labels, coordinates=c)[1])
    assert count("cond", many, drawn) == count("cond", vg, params, images, labels)
    run = lambda: jax.jit(lambda c: many(c))(drawn)
    np.testing.assert_allclose(
        *(jnp.concatenate([g.ravel() for g in jax.tree.leaves(t)]) for t in (run(), apart(run))),
        rtol=2e-3,
        atol=1e-5,
    )


def test_values_that_may_be_infinite_are_not_handed_on():
    """Where a base value has a stand-in, a pass goes on alone."""

    def loss(params, x):
        hidden = jnp.log(jnp.abs(x @ params["w"] + params["b"]))
        return jnp.sum(jnp.tanh(jnp.where(jnp.isfinite(hidden), hidden, 0) @ params["v"]))

    params = {"w": jnp.eye(3), "b": jnp.zeros(3), "v": jnp.ones((3, 2))}
    x = jnp.array([[0.0, 1.0, 2.0], [3.0, 0.0, -1.0]])
    together = gradient(loss, params, (x,))
    expected = gradient(loss, params, (x,), reuse="none")
    np.testing.assert_allclose(
        jnp.concatenate([g.ravel() for g in jax.tree.leaves(together)]),
        jnp.concatenate([g.ravel() for g in jax.tree.leaves(expected)]),
        rtol=5e-2,
        atol=5e-2,
    )


def deep_problem(depth, width=16):
    keys = jax.random.split(jax.random.key(0), depth + 1)
    # A kernel's and a bias's passes meet as one moved channel, then those of earlier layers.
    params = {
        f"layer{n:02}": {
            "kernel": jax.random.normal(k, (width, width)) / 4,
            "bias": jnp.zeros(width),
        }
        for n, k in enumerate(keys)
    }
    images = jax.random.normal(jax.random.key(1), (8, width))

    def loss(params):
        x = images
        for name in sorted(params, reverse=True):
            x = jnp.tanh(x @ params[name]["kernel"] + params[name]["bias"]) + x
        return jnp.mean(x**2)

    return loss, params


@pytest.fixture
def often(monkeypatch):
    """Passes land at every third junction."""
    monkeypatch.setattr(pass_tree, "_MOST_NESTED", 3)
    monkeypatch.setattr(pass_tree, "_MOST_ZEROS", 1.0)


@pytest.mark.usefixtures("x64", "often")
@pytest.mark.parametrize(
    ("batch_size", "central"), [(4, True), pytest.param(1, False, marks=thorough)]
)
def test_passes_that_land_keep_their_numbers(batch_size, central, apart):
    loss, params = deep_problem(7)
    coordinates = some_coordinates(params, per_leaf=5)
    options = {"coordinates": coordinates, "central": central, "batch_size": batch_size}
    together = gradient(loss, params, (), **options)
    alone = apart(gradient, loss, params, (), **options)
    assert relative_error(together, alone) < 1e-11


def operands_of_branches(depth):
    loss, params = deep_problem(depth)
    vg = dz.value_and_grad(loss, dz.cge(smoothing=1e-4))
    jaxpr = jax.make_jaxpr(vg)(params).jaxpr
    return sum(len(eqn.invars) for eqn in equations(jaxpr) if eqn.primitive.name == "cond")


@pytest.mark.usefixtures("often")
def test_a_program_grows_with_the_depth_not_with_its_square():
    assert operands_of_branches(16) < 2.5 * operands_of_branches(8)


def standardized(layers):
    """By ``jnp.var``, which holds NaN for what it would be of no numbers."""
    x = jax.random.normal(jax.random.key(1), (4, 5))
    for w in layers:
        spread = jnp.sqrt(jnp.var(x, 1, keepdims=True) + 1e-5)
        x = x + jnp.tanh((x - jnp.mean(x, 1, keepdims=True)) / spread @ w)
    return jnp.mean(x**2)


GROWING = {
    "standardized": standardized,
    "concatenated": lambda leaves: jnp.sum(jnp.sin(jnp.concatenate(leaves)) ** 2),
    "stacked": lambda leaves: jnp.sum(jnp.sin(jnp.stack(leaves) @ jnp.ones((5, 2))) ** 2),
    "ravelled": lambda leaves: jnp.sum(jnp.sin(jax.flatten_util.ravel_pytree(leaves)[0]) ** 2),
}


@pytest.mark.parametrize("kind", GROWING)
def test_a_program_grows_with_the_leaves_not_with_their_square(kind):
    def size(number):
        leaves = [jnp.eye(5) * n for n in range(1, number + 1)]
        run = dz.value_and_grad(GROWING[kind], dz.cge(smoothing=1e-4))
        return len(list(equations(jax.make_jaxpr(run)(leaves).jaxpr)))

    assert size(16) < 2.4 * size(8)


def test_passes_land_only_where_few_of_them_would_write_zeros():
    state = lambda number: (Carried(number, "dense", (4,), jnp.dtype("float32")),)
    junctions = [state(number) for number in range(30)]

    def way(position):
        met = junctions[position:]
        return [Stretch(o, s, ()) for o, s in zip([position, *met], [*met, None], strict=True)]

    tree = Tree({position: way(position) for position in range(30)})
    counts, written = [1] * 30, [1000 * (30 - position) for position in range(30)]
    found = tree.landings(counts, written, lambda state: 16)
    assert [junctions.index(landing) for landing in found] == [9, 19, 29]
    # The last leaf has nearly all coordinates, and its passes are short.
    assert tree.landings([1] * 29 + [10**6], written, lambda state: 16 * 10**3) == [junctions[29]]


def mechanism(rates):
    x = jnp.linspace(0.0, 1.0, 8)
    for rate in rates.values():
        x = jnp.tanh(x * rate + 0.1)
    return jnp.mean(x**2)


def rates_of(number):
    return {f"{n:02}": jnp.asarray(0.5 + 0.01 * n) for n in range(number)}


@long
@pytest.mark.usefixtures("x64")
def test_passes_of_light_equations_alone_meet_too():
    slopes = gradient(mechanism, rates_of(20), ())
    assert relative_error(slopes, jax.grad(mechanism)(rates_of(20))) < 1e-3

    def size(number):
        vg = dz.value_and_grad(mechanism, dz.cge())
        return sum(1 for _ in equations(jax.make_jaxpr(vg)(rates_of(number)).jaxpr))

    # Each on its own up to the end it is 4 times as much.
    assert size(64) < 2.5 * size(32)
