"""The training loss of a model with a cut table, as a chain of stages."""

from collections.abc import Callable

import jax
from jax import lax

from deepzero_jax.models.cuts import Layer, cut_table
from deepzero_jax.models.functional import OutputLoss
from deepzero_jax.split import MoveCoordinate, SplitFunction, Stage
from deepzero_jax.types import Params, PyTree


def split_model_loss(model: object, output_loss: OutputLoss) -> SplitFunction:
    """Cuts the training loss of a model at every layer that holds parameters.

    Args:
      model: a network with a cut table, see ``models.cuts``.
      output_loss: ``(outputs, *targets) -> (loss, metrics)``, ``metrics`` a dictionary.

    Returns:
      ``fun(params, model_state, inputs, *targets) -> (loss, (model_state, metrics))``,
      as ``model_loss`` gives it, which ``reuse="split"`` can take apart.

    Raises:
      ValueError: a model without a cut table.

    **Cost** of a call: one query.

    Example:
      >>> from deepzero_jax.models import CNN
      >>> fun = split_model_loss(CNN(depth=1), lambda logits: (logits.mean(), {}))
      >>> len(fun.stages), fun.first_stage("classifier/bias")
      (3, 2)
    """
    layers = list(cut_table(model))
    order = {layer.name: position for position, layer in enumerate(layers)}
    last = len(layers) - 1

    def stage(position: int, layer: Layer) -> Stage:
        def run(
            params: Params, carry: PyTree, model_state: PyTree, inputs: PyTree, *targets: PyTree
        ) -> PyTree:
            hidden, updated = (inputs, {}) if position == 0 else carry
            hidden, own = layer.run({"params": params, **model_state}, hidden, True)
            updated = _merge(updated, own)
            if position < last:
                return hidden, updated
            loss, metrics = output_loss(hidden, *targets)
            return loss, (_merge(model_state, updated), metrics)

        return run

    def position_of(path: str) -> int:
        return order[path.split("/", 1)[0]]

    return SplitFunction(
        stages=tuple(stage(position, layer) for position, layer in enumerate(layers)),
        first_stage=position_of,
        move_coordinate=lambda path: _channel_move(
            layers[position_of(path)], path.partition("/")[2], position_of(path) == 0
        ),
    )


def _channel_move(layer: Layer, leaf_name: str, is_first: bool) -> MoveCoordinate | None:
    """One coordinate of a convolution changes one output channel: only that one is run."""
    run_channel: Callable[[PyTree, PyTree], jax.Array] | None = layer.run_channel
    if run_channel is None:
        return None

    def move(
        params: Params,
        carry: PyTree,
        output: PyTree,
        index: jax.Array,
        value: jax.Array,
        model_state: PyTree,
        inputs: PyTree,
        *targets: PyTree,
    ) -> PyTree:
        del targets
        whole = params[layer.name]
        num_channels = whole[leaf_name].shape[-1]
        channel = index % num_channels
        sliced = {
            name: lax.dynamic_slice_in_dim(leaf, channel, 1, axis=-1)
            for name, leaf in whole.items()
        }
        own = sliced[leaf_name]
        moved = own.reshape(-1).at[index // num_channels].set(value, mode="drop")
        sliced[leaf_name] = moved.reshape(own.shape)
        variables = {"params": {layer.name: sliced}, **model_state}
        computed = run_channel(variables, inputs if is_first else carry[0])
        (first, *rest), treedef = jax.tree.flatten(output[0])
        first = lax.dynamic_update_slice_in_dim(first, computed, channel, axis=-1)
        return treedef.unflatten([first, *rest]), output[1]

    return move


def _merge(old: PyTree, new: PyTree) -> PyTree:
    merged = {collection: dict(values) for collection, values in old.items()}
    for collection, values in new.items():
        merged[collection] = {**merged.get(collection, {}), **values}
    return merged
