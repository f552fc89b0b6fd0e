import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from tests.marks import few
from tests.problems import quadratic, quadratic_problem, relative_error, some_coordinates

ESTIMATORS = {
    "cge": dz.cge(smoothing=1e-2, reuse="none"),
    "cge central": dz.cge(smoothing=1e-2, central=True, reuse="none"),
    "cge leaf by leaf": dz.cge(
        smoothing={"w": 1e-2, "b/0": 2e-2, "b/1": 1e-2, "s": 3e-2}, reuse="none"
    ),
    "rge": dz.rge(smoothing=1e-2, num_directions=7, reuse="none"),
    "rge central": dz.rge(
        smoothing=1e-2, num_directions=7, distribution="sphere", central=True, reuse="none"
    ),
}


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("partial", few([True, False]))
def test_told_losses_give_the_numbers_of_value_and_grad(name, partial):
    params, target = quadratic_problem()
    estimator = ESTIMATORS[name]
    coordinates = some_coordinates(params) if partial else None
    key = jax.random.key(3) if estimator.needs_key else None
    points, tell = dz.ask(estimator, params, key=key, coordinates=coordinates)
    count = dz.num_queries(estimator, params, coordinates)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(points)} == {count}
    losses = [
        float(quadratic(jax.tree.map(lambda leaf, i=i: leaf[i], points), target))
        for i in range(count)
    ]
    value, grads = tell(losses)
    vg = dz.value_and_grad(quadratic, estimator)
    wanted = vg(params, target, key=key, coordinates=coordinates)
    assert value == pytest.approx(float(wanted[0]), rel=1e-6)
    assert relative_error(grads, wanted[1]) < 1e-4
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize(
    "estimator",
    [
        dz.cge(smoothing=1e-9),
        dz.cge(smoothing=1e-8, central=True),
        dz.rge(smoothing=1e-9, num_directions=200, distribution="rademacher"),
        dz.rge(smoothing=1e-8, num_directions=200, distribution="rademacher", central=True),
    ],
    ids=["cge", "cge central", "rge", "rge central"],
)
def test_vectors_of_numpy_stay_float64(estimator):
    at = {"a": np.array([1.0, 3.0]), "c": np.float64(2.0)}
    points, tell = dz.ask(estimator, at, key=jax.random.key(0))
    losses = points["a"] @ [2.0, -1.0] + 5 * points["c"]
    _, grads = tell(losses)
    assert points["a"].dtype == grads["a"].dtype == np.float64
    rtol = 1e-4 if "num_directions" not in estimator.settings else 0.7
    np.testing.assert_allclose(grads["a"], [2, -1], rtol=rtol)
    np.testing.assert_allclose(grads["c"], 5, rtol=rtol)


def test_a_probe_of_a_numpy_loss_serves_to_ask():
    loss = lambda w: float(np.sum(w**2))
    probe = dz.probe_smoothing(loss, np.ones(3), jax.random.key(0))
    points, tell = dz.ask(dz.cge(smoothing=probe), np.ones(3))
    np.testing.assert_allclose(tell([loss(point) for point in points])[1], [2, 2, 2], rtol=1e-5)
    with pytest.raises(ValueError, match="give NumPy arrays in float64") as caught:
        dz.ask(dz.cge(smoothing=probe), jnp.ones(3))
    assert "reuse" not in str(caught.value)


def test_padding_is_no_point():
    points, _ = dz.ask(dz.cge(), jnp.ones(4), coordinates=jnp.array([2, 4, 4]))
    np.testing.assert_allclose(points[1] - points[0], [0, 0, 1e-4, 0], atol=1e-7)
    assert points.shape == (2, 4)


def test_bad_questions_and_answers_are_refused():
    with pytest.raises(ValueError, match="pass key="):
        dz.ask(dz.rge(), jnp.ones(3))
    with pytest.raises(TypeError, match="from cge"):
        dz.ask(dz.first_order(), jnp.ones(3))
    _, tell = dz.ask(dz.cge(), jnp.ones(3))
    with pytest.raises(ValueError, match=r"4 in all, got \(3,\)"):
        tell([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="that of point 2 is nan"):
        tell([1.0, 2.0, np.nan, 3.0])
