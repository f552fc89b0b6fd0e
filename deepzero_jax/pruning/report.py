"""Layer ratios on disk and before the eye: JSON, mask, table, bar chart."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from deepzero_jax.coordinates import leaf_paths
from deepzero_jax.files import read_arrays, write_arrays
from deepzero_jax.pictures import pyplot, save_figure
from deepzero_jax.types import Params, PerLeaf, PyTree


def ratios_table(ratios: PerLeaf, sizes: Mapping[str, int]) -> str:
    """The ratios as a table with a line per leaf that is pruned, and the total."""
    pruned = [path for path in ratios if path in sizes and sizes[path] > 0 and ratios[path] > 0]
    width = max([len(path) for path in pruned] + [16])
    lines = [f"{'leaf':<{width}}  {'parameters':>10}  {'kept':>8}  {'kept %':>6}"]
    for path in pruned:
        kept = round(sizes[path] * (1 - ratios[path]))
        share = 100 * (1 - ratios[path])
        lines.append(f"{path:<{width}}  {sizes[path]:>10,}  {kept:>8,}  {share:>6.1f}")
    whole = sum(size for path, size in sizes.items() if path not in pruned)
    total = sum(sizes.values())
    kept = whole + sum(round(sizes[path] * (1 - ratios[path])) for path in pruned)
    lines.append(f"{'(always kept)':<{width}}  {whole:>10,}  {whole:>8,}  {100.0:>6.1f}")
    lines.append(f"{'all':<{width}}  {total:>10,}  {kept:>8,}  {100 * kept / total:>6.1f}")
    return "\n".join(lines)


def plot_ratios(ratios: PerLeaf, title: str, picture: Path) -> None:
    """Draws the kept fraction of every pruned leaf as bars into a PNG."""
    plt = pyplot()
    paths = [path for path, ratio in ratios.items() if ratio > 0]
    kept = [100 * (1 - ratios[path]) for path in paths]
    figure, axis = plt.subplots(figsize=(7, 1.2 + 0.24 * len(paths)), layout="constrained")
    bars = axis.barh(range(len(paths)), kept, color="tab:blue")
    axis.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
    axis.set_yticks(range(len(paths)), [path.removesuffix("/kernel") for path in paths], fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set(xlabel="coordinates kept, % of the layer", title=title)
    save_figure(figure, picture)


def in_layer_order(ratios: PerLeaf, layers: Iterable[str]) -> dict[str, float]:
    """The same ratios, leaves in the order of the layers they belong to.

    Args:
      ratios: ``{leaf path: pruned fraction}``.
      layers: paths or first parts of them, in order; those that it leaves out come last.
    """
    order = {name: position for position, name in enumerate(layers)}
    last = len(order)
    place = lambda path: order.get(path, order.get(path.split("/", 1)[0], last))
    return dict(sorted(ratios.items(), key=lambda item: place(item[0])))


def paths_as_made(params: Params) -> list[str]:
    """The leaf paths of parameters, their layers in the order in which a model made them.

    JAX sorts the names of a mapping, which keeps that order; anything else comes in its own.
    """
    if not isinstance(params, Mapping):
        return leaf_paths(params)
    return [path for name, layer in params.items() for path in leaf_paths({name: layer})]


# After the name of a leaf: its shape.
_SHAPE = "|shape"


def save_mask(path: Path, mask: PyTree) -> None:
    """Writes a boolean pytree: for each leaf, packed bits and its shape."""
    arrays = {}
    for name, leaf in zip(leaf_paths(mask), jax.tree.leaves(mask), strict=True):
        arrays[name] = np.packbits(np.asarray(leaf))
        arrays[name + _SHAPE] = np.asarray(np.shape(leaf), np.int64)
    write_arrays(path, arrays)


def load_mask(path: Path, params: Params) -> PyTree:
    """Reads what ``save_mask`` wrote, for parameters of the same structure.

    Raises:
      ValueError: a mask of another model, or a damaged file.
    """
    leaves, treedef = jax.tree.flatten(params)
    try:
        packed = read_arrays(path)
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read as a mask ({error}); run prune.py in another folder"
        ) from error
    masks = []
    for name, leaf in zip(leaf_paths(params), leaves, strict=True):
        shape = packed.get(name + _SHAPE, np.asarray(np.shape(leaf)))
        fits = name in packed and packed[name].size == -(-np.size(leaf) // 8)
        if not fits or tuple(shape) != np.shape(leaf):
            raise ValueError(f"{path} does not fit leaf {name!r}: it belongs to another model")
        bits = np.unpackbits(packed[name], count=np.size(leaf)).astype(bool)
        masks.append(bits.reshape(np.shape(leaf)))
    return treedef.unflatten(masks)


class LayerRatios(NamedTuple):
    """What a ratios file holds.

    Attributes:
      ratios: ``{leaf path: pruned fraction}``, leaves in the order of the layers.
      num_queries: that the scores have cost.
      origin: the settings that they follow from.
      boxes: counts of the black boxes that were asked for them, also before that.
      num_samples: sent to them for the scores.
    """

    ratios: dict[str, float]
    num_queries: int
    origin: dict[str, object]
    boxes: Sequence[Mapping[str, int]] = ()
    num_samples: int = 0


def load_ratios(path: Path) -> LayerRatios:
    """Reads a ratios file.

    Raises:
      ValueError: not there, damaged, or without ratios.
    """
    try:
        content = json.loads(path.read_bytes())
        ratios = {str(name): float(value) for name, value in content["ratios"].items()}
        boxes = [
            {str(name): int(count) for name, count in counts.items()}
            for counts in content.get("boxes", ())
        ]
        queries = int(content.get("num_queries", 0))
        samples = int(content.get("num_samples", sum(box["num_samples"] for box in boxes)))
        return LayerRatios(ratios, queries, content.get("origin", {}), boxes, samples)
    except OSError as error:
        raise ValueError(f"cannot read the ratios in {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not a ratios file; run prune.py again") from error
