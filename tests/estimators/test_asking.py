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
