import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.models import CNN
from deepzero_jax.split import SplitFunction
from tests.problems import network_loss


def test_split_loss_equals_the_model_with_its_batch_statistics():
    fun, params, (state, images, labels) = network_loss("cnn2")
    loss, (new_state, metrics) = fun(params, state, images, labels)
    logits, mutated = CNN(depth=2, width=4).apply(
        {"params": params, **state}, images, True, mutable=["batch_stats"]
    )
    log_p = jax.nn.log_softmax(logits)[jnp.arange(4), labels]
    assert np.allclose(loss, -jnp.mean(log_p), rtol=1e-6)
    expected, got = jax.tree.leaves(mutated), jax.tree.leaves(new_state)
    assert all(np.array_equal(a, b) for a, b in zip(expected, got, strict=True))
    assert not np.array_equal(got[0], jax.tree.leaves(state)[0])
    assert 0 <= metrics["accuracy"] <= 1


def test_carries_are_prefixes():
    stages = (lambda p, c, x: p["a"] * x, lambda p, c, x: c + p["b"], lambda p, c, x: c * c)
    fun = SplitFunction(stages, {"a": 0, "b": 1}.__getitem__)
    params = {"a": 2.0, "b": 3.0}
    assert fun(params, 5.0) == 169.0
    assert fun.carries(params, 5.0) == [None, 10.0, 13.0]
    assert [fun.prefix(i, params, 5.0) for i in range(3)] == [None, 10.0, 13.0]
    assert fun.suffix(2, params, 13.0, 5.0) == 169.0
