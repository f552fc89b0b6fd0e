import jax.numpy as jnp
import numpy as np
import pytest

from deepzero_jax.sharding import gather_values, make_mesh, shard_coordinates


def test_shards_are_even_and_values_come_back_in_order():
    params = {"a": jnp.zeros(40), "b": jnp.zeros(3)}
    coordinates = {"a": jnp.array([5, 7, 11, 13, 17, 40, 40]), "b": jnp.arange(3)}
    shards = shard_coordinates(params, coordinates, 4)
    assert shards["a"].shape == (4, 2)
    valid = np.sum(np.asarray(shards["a"]) < 40, axis=1)
    assert valid.sum() == 5
    assert valid.max() - valid.min() <= 1
    back = gather_values(coordinates, shards)
    assert back["a"].tolist() == coordinates["a"].tolist()
    assert back["b"].tolist() == [0, 1, 2]


def test_bad_meshes_are_refused():
    with pytest.raises(ValueError, match="there are 1"):
        make_mesh(2)
    with pytest.raises(ValueError, match="at least 1"):
        make_mesh(0)
