"""A function of parameters cut into stages, so that a prefix can be evaluated once.

Perturbing a parameter of stage i leaves stages 0…i−1 as they were: DeepZero's
feature reuse evaluates that prefix once and only the suffix for each coordinate
(arXiv 2310.02025, section 4).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
from jax import lax

PyTree = Any


class SplittableModel(Protocol):
    """A Flax Linen module that can run a slice of its layers.

    ``layer_names`` lists the layers that hold parameters, in order; each is the
    first component of its parameters' leaf paths. ``model(carry, train, start,
    stop)`` runs layers ``start`` to ``stop - 1`` on the carry that layer ``start``
    reads: the images for layer 0, the output after the last. For the layers named in
    ``channel_layers``, ``model(carry, train, start, stop, one_channel=True)`` runs one
    output channel with the last-axis slices of the layer's parameters that it needs.
    """

    @property
    def layer_names(self) -> Sequence[str]:
        """Names of the layers that hold parameters, in order."""
        ...

    @property
    def channel_layers(self) -> Sequence[str]:
        """Names of the layers that can run one output channel alone."""
        ...

    def apply(self, variables: PyTree, *args: Any, **kwargs: Any) -> Any:
        """``flax.linen.Module.apply``."""
        ...


@dataclass(frozen=True)
class SplitFunction:
    """``fun(params, *args)`` as a chain of stages, callable as the whole.

    Attributes:
      stages: functions ``stage(params, carry, *args) -> carry``; the first gets
        ``None`` for carry, the last returns what ``fun`` returns.
      first_stage: maps a leaf path to the index of the first stage that reads it.
      move_coordinate: maps a leaf path to a short cut through its stage, or to None.
        ``(params, carry, output, index, value, *args) -> output`` turns the stage's
        output into that with scalar ``index`` of the leaf set to ``value``.
    """

    stages: Sequence[Callable[..., Any]]
    first_stage: Callable[[str], int]
    move_coordinate: Callable[[str], Callable[..., Any] | None] = lambda path: None

    def __call__(self, params: PyTree, *args: Any) -> Any:
        """Runs every stage in order."""
        return self.suffix(0, params, None, *args)

    def carries(self, params: PyTree, *args: Any) -> list[Any]:
        """What each stage reads, from one pass. **Cost**: one query, every carry kept alive."""
        carries = [None]
        for stage in self.stages[:-1]:
            carries.append(stage(params, carries[-1], *args))
        return carries

    def prefix(self, index: int, params: PyTree, *args: Any) -> Any:
        """Runs the stages before ``index``: what stage ``index`` reads."""
        carry = None
        for stage in self.stages[:index]:
            carry = stage(params, carry, *args)
        return carry

    def suffix(self, index: int, params: PyTree, carry: Any, *args: Any) -> Any:
        """Runs stage ``index`` and those after it on the carry of ``prefix(index, …)``."""
        for stage in self.stages[index:]:
            carry = stage(params, carry, *args)
        return carry


def prefix_apply(
    model: SplittableModel, index: int, variables: PyTree, x: jax.Array, train: bool = False
) -> Any:
    """Applies the layers of a model before layer ``index``; new batch statistics are dropped."""
    return model.apply(variables, x, train, 0, index, mutable=["batch_stats"])[0]


def suffix_apply(
    model: SplittableModel, index: int, variables: PyTree, carry: Any, train: bool = False
) -> Any:
    """Applies layer ``index`` of a model and those after it to ``prefix_apply``'s result.

    ``suffix_apply(model, i, v, prefix_apply(model, i, v, x))`` equals
    ``model.apply(v, x)`` bit for bit, for every i.
    """
    return model.apply(variables, carry, train, index, None, mutable=["batch_stats"])[0]


def split_model_loss(model: SplittableModel, output_loss: Callable[..., Any]) -> SplitFunction:
    """Cuts the training loss of a model at every layer that holds parameters.

    Args:
      model: the network, see ``SplittableModel``.
      output_loss: ``(outputs, *targets) -> (loss, metrics)``, ``metrics`` a dictionary.

    Returns:
      ``fun(params, model_state, inputs, *targets) -> (loss, (model_state, metrics))``
      with batch statistics, where the returned ``model_state`` holds the updated
      running statistics.
    """
    names = list(model.layer_names)

    def stage(index: int) -> Callable[..., Any]:
        def run(params: PyTree, carry: Any, model_state: PyTree, inputs: Any, *targets: Any) -> Any:
            hidden, updated = (inputs, {}) if index == 0 else carry
            hidden, mutated = model.apply(
                {"params": params, **model_state},
                hidden,
                True,
                index,
                index + 1,
                mutable=list(model_state),
            )
            # Flax returns the whole collection, this layer's part of it updated.
            own = {
                c: {names[index]: v[names[index]]} for c, v in mutated.items() if names[index] in v
            }
            updated = _merge(updated, own)
            if index + 1 < len(names):
                return hidden, updated
            loss, metrics = output_loss(hidden, *targets)
            return loss, (_merge(model_state, updated), metrics)

        return run

    order = {name: position for position, name in enumerate(names)}
    return SplitFunction(
        stages=tuple(stage(index) for index in range(len(names))),
        first_stage=lambda path: order[path.split("/", 1)[0]],
        move_coordinate=lambda path: _channel_move(model, path, order[path.split("/", 1)[0]]),
    )


def _channel_move(model: SplittableModel, path: str, position: int) -> Callable[..., Any] | None:
    """One coordinate of a convolution changes one output channel: only that one is run."""
    layer, _, leaf_name = path.partition("/")
    if layer not in model.channel_layers:
        return None

    def move(
        params: PyTree,
        carry: Any,
        output: Any,
        index: jax.Array,
        value: jax.Array,
        model_state: PyTree,
        inputs: Any,
        *targets: Any,
    ) -> Any:
        del targets
        num_channels = params[layer][leaf_name].shape[-1]
        channel = index % num_channels
        sliced = {
            name: lax.dynamic_slice_in_dim(leaf, channel, 1, axis=-1)
            for name, leaf in params[layer].items()
        }
        own = sliced[leaf_name]
        moved = own.reshape(-1).at[index // num_channels].set(value, mode="drop")
        sliced[leaf_name] = moved.reshape(own.shape)
        computed = model.apply(
            {"params": {layer: sliced}, **model_state},
            inputs if position == 0 else carry[0],
            True,
            position,
            one_channel=True,
        )
        (first, *rest), treedef = jax.tree.flatten(output[0])
        first = lax.dynamic_update_slice_in_dim(first, computed, channel, axis=-1)
        return treedef.unflatten([first, *rest]), output[1]

    return move


def _merge(old: PyTree, new: PyTree) -> PyTree:
    merged = {collection: dict(values) for collection, values in old.items()}
    for collection, values in new.items():
        merged[collection] = {**merged.get(collection, {}), **values}
    return merged
