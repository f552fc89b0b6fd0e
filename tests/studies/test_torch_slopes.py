import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepzero_jax.models import init_model, make_model, model_loss
from deepzero_jax.training import cross_entropy
from studies import sparsity, spending
from studies.torch_slopes import by_torch, torch_loss
from tests.problems import relative_error


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.1)])
def test_the_loss_of_a_task_by_pytorch(precision, tolerance):
    pytest.importorskip("torch", reason="PyTorch is of the bench extra")
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


def test_a_cell_by_pytorch_is_the_cell_and_says_so():
    options = {"parts": ("resnet20",), "seeds": (0,)}
    cells = list(spending.cells(**options))
    found = list(spending.cells(**options, slopes="torch"))
    assert [cell.name for cell in found] == [cell.name for cell in cells]
    assert [cell.labels for cell in found] == [
        {**cell.labels, "precision": "float32"} for cell in cells
    ]


def test_pytorch_takes_first_order_slopes_of_resnets_alone(tmp_path):
    for cells in (spending.cells(("cnn3",), slopes="torch"), sparsity.cells(slopes="torch")):
        with pytest.raises(ValueError, match="leave --slopes out"):
            list(cells)
    with pytest.raises(ValueError, match="unknown slopes 'jax'"):
        next(spending.cells(slopes="jax"))
    cell = sparsity.cell("resnet8", "first_order_dense", 0.0, 0, 1)
    with pytest.raises(ValueError, match="unknown precision 'half'"):
        by_torch("trial", cell, tmp_path, "half")
