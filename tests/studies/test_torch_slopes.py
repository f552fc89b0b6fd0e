import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepzero_jax.models import init_model, make_model, model_loss
from deepzero_jax.training import cross_entropy
from studies.torch_slopes import torch_loss
from tests.problems import relative_error

pytest.importorskip("torch", reason="PyTorch is of the bench extra")


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.1)])
def test_the_loss_of_a_task_by_pytorch(precision, tolerance):
    model, rng = make_model("resnet8", 10, 4), np.random.default_rng(0)
    params, state = init_model(model, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    images = jnp.asarray(rng.normal(size=(64, 16, 16, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, 64))
    value_and_grad = lambda fun: jax.jit(jax.value_and_grad(fun, has_aux=True))
    arguments = (params, state, images, labels)
    found = value_and_grad(torch_loss(model, precision))(*arguments)
    expected = value_and_grad(model_loss(model, cross_entropy))(*arguments)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) < tolerance


def test_an_unknown_precision_says_so():
    with pytest.raises(ValueError, match="unknown precision 'half'"):
        torch_loss(make_model("resnet8", 10, 4), "half")
