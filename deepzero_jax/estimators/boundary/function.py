"""A function that ``jax.grad`` passes through, though it can only be evaluated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepzero_jax.blackbox.call import as_input
from deepzero_jax.estimators.boundary.backward import Backward
from deepzero_jax.estimators.boundary.coloured import Colours
from deepzero_jax.estimators.boundary.drawn import DRAWING, Directions, Drawn
from deepzero_jax.estimators.boundary.layout import Layout
from deepzero_jax.estimators.boundary.moves import Combined, Moves
from deepzero_jax.estimators.boundary.options import check_options, check_real
from deepzero_jax.estimators.boundary.structure import Structure, as_pattern
from deepzero_jax.estimators.boundary.students import Record
from deepzero_jax.estimators.contract import CoordinateEstimator, DirectionEstimator, Estimator
from deepzero_jax.keys import check_key
from deepzero_jax.pages import explained
from deepzero_jax.types import Key, PyTree


class Estimate(NamedTuple):
    """What ``Differentiable.estimate`` found.

    Attributes:
      outputs: of the function.
      gradients: like the inputs; None for leaves that are not floating-point.
      spread: estimated standard error of the gradient, as a part of its length, of what was
        drawn; 0 where nothing was. It does not tell the noise of a box, see ``Probe.error``.
    """

    outputs: PyTree
    gradients: PyTree
    spread: jax.Array


@dataclass(frozen=True, eq=False)
class Differentiable:
    """A function through which gradients flow, made by ``differentiable``.

    Attributes:
      fun: the black box, or the traceable function.
      estimator: of its derivative.
      samples: whether first axes are independent samples.
      structure: which inputs reach which outputs, or None.
      basis: rows along which slopes are taken, or None.
      surrogate: a differentiable approximation, or None.
      num_coordinates: drawn for each sample, None for all.
      check: whether the structure is checked in each backward pass.
      record: takes in what a black box is asked, or None.
    """

    fun: Callable[..., PyTree]
    estimator: CoordinateEstimator | DirectionEstimator
    samples: bool = True
    structure: Structure | None = None
    basis: np.ndarray | None = None
    surrogate: Callable[..., PyTree] | None = None
    num_coordinates: int | None = None
    check: bool = False
    record: Record | None = None

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def needs_key(self) -> bool:
        """Whether the backward pass draws something."""
        return self.estimator.needs_key or self.num_coordinates is not None

    @property
    def settings(self) -> Any:
        """Of the estimator."""
        return self.estimator.settings

    def __call__(self, *inputs: PyTree, key: Key | None = None) -> PyTree:
        """The outputs; ``jax.grad`` of anything around this call asks for what it needs.

        Args:
          *inputs: pytrees of arrays; with ``samples``, each leaf [n, …].
          key: consumed by a backward pass that draws; None for one that does not.

        Raises:
          TypeError, ValueError: inputs that do not fit the options.
          BlackBoxError: no usable answer; under ``jit``, see ``dz.blackbox.box_errors``.
        """
        if self.needs_key:
            check_key(key, DRAWING)
        with explained():
            leaves, backward = self._prepared(inputs)
            return backward.call(leaves, key if self.needs_key else None)

    def estimate(self, cotangents: PyTree, *inputs: PyTree, key: Key | None = None) -> Estimate:
        """Outputs and the gradient of ``⟨cotangents, outputs⟩``, with its spread; jit-able.

        What a backward pass does, asked by hand: to look at the spread, and to choose the
        number of directions by it.

        Args:
          cotangents: like the outputs.
          *inputs: as of a call.
          key: as of a call.

        Raises:
          ValueError: cotangents that are not like the outputs, or nothing to move.
        """
        if self.needs_key:
            check_key(key, DRAWING)
        leaves, backward = self._prepared(inputs)
        check_real("input", backward.dtypes)
        check_real("output", backward.output_dtypes)
        moving = tuple(i for i, leaf in enumerate(leaves) if _is_floating(leaf))
        if not moving:
            raise ValueError("there is nothing to move: no input is of a floating-point type")
        weights = _like(cotangents, backward.output_shapes)
        outputs, kept = backward.forward(leaves)
        chosen = [weights[i] for i in backward.floating]
        found = backward.gradient(leaves, moving, key, kept, chosen, *backward.surrogate())
        tree = backward.treedef.unflatten(backward.placed(found, moving, leaves))
        return Estimate(outputs, tree[0] if len(inputs) == 1 else tree, _spread(found))

    def num_queries(self, *inputs: PyTree) -> int:
        """Calls that value and gradient cost, for all floating-point inputs.

        Each is of all samples of the inputs: times their number, it is what a box counts.

        Args:
          *inputs: as of a call; shapes are enough.
        """
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(np.shape(x), jnp.result_type(x)), inputs
        )
        leaves, backward = self._prepared(shapes)
        moving = tuple(i for i, leaf in enumerate(leaves) if _is_floating(leaf))
        return 1 + backward.num_calls(moving)

    def moves(self, layout: Layout, floating: tuple[int, ...], num_outputs: int) -> Moves:
        """Which numbers go together.

        Args:
          layout: of those that move.
          floating: positions of all floating-point leaves.
          num_outputs: floating-point numbers that a unit has for an answer.
        """
        if self.structure is not None:
            everything = Layout(layout.shapes, layout.dtypes, floating, self.samples)
            pattern = as_pattern(self.structure, num_outputs, everything.size)
            return Colours(layout, pattern=pattern[:, layout.positions_in(floating)])
        basis = self._basis_of(layout)
        count = len(basis) if basis is not None else layout.size
        if isinstance(self.estimator, DirectionEstimator):
            options = self.settings["num_directions"], self.settings["distribution"]
            return Directions(layout, basis, *options)
        if self.num_coordinates is None:
            return Moves(layout, basis)
        return Drawn(layout, basis, min(self.num_coordinates, count))

    def _basis_of(self, layout: Layout) -> np.ndarray | None:
        if self.basis is not None and self.basis.shape[1] != layout.size:
            raise ValueError(
                f"basis must be [k, {layout.size}], as a sample has {layout.size} floating-point "
                f"numbers, got {list(self.basis.shape)}"
            )
        return self.basis

    def _prepared(self, inputs: PyTree) -> tuple[list[Any], Backward]:
        flat, treedef = jax.tree.flatten(inputs)
        leaves = [x if isinstance(x, jax.ShapeDtypeStruct) else as_input(x) for x in flat]
        if not leaves:
            raise TypeError("a differentiable function needs an input: pass at least one array")
        if self.samples:
            if any(len(leaf.shape) == 0 for leaf in leaves):
                raise ValueError(
                    "with samples=True every input needs a first axis of samples; give "
                    "samples=False to dz.differentiable for one function of all its inputs"
                )
            counts = {leaf.shape[0] for leaf in leaves}
            if len(counts) > 1:
                raise ValueError(
                    f"with samples=True inputs must have the same number of samples, got "
                    f"{sorted(counts)}; give samples=False for one function of all its inputs"
                )
        return leaves, Backward(self, treedef, leaves)

    def __repr__(self) -> str:
        """As the call that made it."""
        name = getattr(self.fun, "__qualname__", None) or repr(self.fun)
        return f"differentiable({name}, {self.estimator!r})"


def differentiable(
    fun: Callable[..., PyTree],
    estimator: Estimator,
    *,
    samples: bool = True,
    structure: Structure | None = None,
    basis: Any = None,
    surrogate: Callable[..., PyTree] | None = None,
    num_coordinates: int | None = None,
    check: bool = False,
    record: Record | None = None,
) -> Differentiable:
    r"""Lets ``jax.grad`` flow through a function that can only be evaluated.

    A backward pass moves numbers of the inputs, asks again, subtracts from the kept answer
    and contracts with the cotangents v; JAX differentiates the rest. Through a black box that
    happens on the host, in the box's precision; other functions go through the difference
    engine. Inputs of which no derivative is wanted are not moved.

    Args:
      fun: a ``BlackBox`` or any traceable function; what it closes over, pass as an input.
      estimator: ``cge`` (each number in turn) or ``rge`` (each sample its own directions).
      samples: whether first axes are independent samples, of which one call moves a number each.
      structure: a boolean pattern [outputs, inputs] of one sample, dense or sparse (see
        ``windows``), or ``"elementwise"``. Inputs that share no output move together.
      basis: [k, m], rows onto whose span the gradient is projected (see ``cosine_basis``).
      surrogate: ``(*inputs) -> outputs``, whose derivative queries correct, unbiased whatever it
        is: $\hat J^⊤ v = J_s^⊤ v + \frac1q \sum_j [v·(f(x + μ u_j) - f(x))/μ - v·J_s u_j] u_j$.
      num_coordinates: with ``cge``, so many are drawn for each sample, unbiased. None: all.
      check: whether each backward pass checks ``structure``, by two calls more.
      record: takes in what a black box is asked, for ``fit_surrogate``.

    Returns:
      ``f(*inputs, key=None) -> outputs``, under jit, vmap, scan, shard_map and checkpoint (which
      asks again). Integer inputs carry no gradient.

    Raises:
      TypeError, ValueError: options or inputs that do not fit; derivatives of or by complex
        numbers; second derivatives.

    **Cost**: forward one call of all samples; backward m (2m ``central``), or as many as
    colours, rows, directions or drawn coordinates (``dz.num_queries``); live, 128 MB of them.
    A Jacobian of a box by ``jax.jacrev`` costs as many as one gradient.
    Source: Spall, 1992; Curtis, Powell and Reid, 1974 (colours).

    Example:
      >>> import deepzero_jax as dz, jax, jax.numpy as jnp, numpy as np
      >>> box = dz.black_box(np.sin, (3,), dtype="float64")
      >>> f = dz.differentiable(box, dz.cge(smoothing=1e-6))
      >>> loss = lambda w, x: jnp.sum(f(x @ w) ** 2)
      >>> grads = jax.grad(loss)(jnp.ones((5, 3)), jnp.ones((4, 5)))
      >>> print(grads.shape, grads[0, 0].round(3), box.num_samples)
      (5, 3) -2.176 16
    """
    own = isinstance(estimator, CoordinateEstimator | DirectionEstimator)
    if not own or "smoothing" not in estimator.settings:
        raise TypeError(f"differentiable takes an estimator from cge() or rge(), got {estimator!r}")
    rows = None if basis is None else np.asarray(basis, np.float64)
    return Differentiable(
        fun, estimator, samples, structure, rows, surrogate, num_coordinates, check, record
    )


def _like(cotangents: PyTree, outputs: PyTree) -> list[jax.Array]:
    """The leaves of cotangents that are like outputs."""
    found, wanted = jax.tree.leaves(cotangents), jax.tree.leaves(outputs)
    same = jax.tree.structure(cotangents) == jax.tree.structure(outputs)
    shapes = [np.shape(leaf) for leaf in found], [leaf.shape for leaf in wanted]
    if not same or shapes[0] != shapes[1]:
        raise ValueError(
            f"cotangents must be like the outputs, {jax.tree.structure(outputs)} of shapes "
            f"{shapes[1]}, got {jax.tree.structure(cotangents)} of shapes {shapes[0]}"
        )
    return [jnp.asarray(leaf) for leaf in found]


def _is_floating(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _spread(found: Combined) -> jax.Array:
    length = jnp.sqrt(jnp.sum(found.gradient**2))
    return jnp.sqrt(found.variance) / jnp.where(length == 0, 1.0, length)
