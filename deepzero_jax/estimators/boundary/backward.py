"""Forward and backward pass of a differentiable function at inputs of given shapes."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from deepzero_jax.blackbox import BlackBox, answered, without_derivative
from deepzero_jax.coordinates import leaf_paths
from deepzero_jax.estimators.boundary.host import HostSlopes
from deepzero_jax.estimators.boundary.layout import Layout, Start
from deepzero_jax.estimators.boundary.moves import Combined, Moves
from deepzero_jax.estimators.boundary.options import check_real
from deepzero_jax.estimators.boundary.propagated import Propagated, Traced
from deepzero_jax.estimators.smoothing import PROPAGATE, check_resolution, leaf_steps
from deepzero_jax.types import Key, PyTree
from deepzero_jax.varying import split_like, varying_like

if TYPE_CHECKING:
    from deepzero_jax.estimators.boundary.function import Differentiable

# What the forward pass keeps: the answers of a box, or the values of a traced function.
Kept = Any


class Backward:
    """A differentiable function at inputs of given shapes.

    Args:
      of: the function.
      treedef: of its inputs.
      leaves: of its inputs, or their shapes.
    """

    def __init__(self, of: "Differentiable", treedef: PyTree, leaves: Sequence[Any]) -> None:
        self.of, self.treedef = of, treedef
        self.shapes = tuple(leaf.shape for leaf in leaves)
        self.dtypes = tuple(leaf.dtype for leaf in leaves)
        self._like = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        box = of.fun if isinstance(of.fun, BlackBox) else None
        self.host = None if box is None else box.host_call(self._like, treedef)
        found = jax.tree.leaves(self.output_shapes)
        self.output_dtypes = tuple(out.dtype for out in found)
        self.floating = tuple(
            i for i, out in enumerate(found) if jnp.issubdtype(out.dtype, jnp.floating)
        )
        if of.samples:
            self._check_outputs(found)

    def _check_outputs(self, found: Sequence[jax.ShapeDtypeStruct]) -> None:
        count = self.shapes[0][0]
        for out in found:
            if not out.shape or out.shape[0] != count:
                raise ValueError(
                    f"with samples=True every output needs a first axis of {count} samples, got "
                    f"shape {out.shape}; give samples=False for one function of all its inputs"
                )

    @cached_property
    def output_shapes(self) -> PyTree:
        """Like the outputs."""
        if self.host is not None:
            shapes = self.host.results()[: len(self.host.sample_shapes)]
            return self.host.box.outputs.treedef.unflatten(shapes)
        return jax.eval_shape(lambda leaves: self._fun(*leaves), self._like)

    def _fun(self, *leaves: jax.Array) -> PyTree:
        return self.of.fun(*self.treedef.unflatten(leaves))

    def layout(self, moving: tuple[int, ...]) -> Layout:
        """Of the numbers of some leaves."""
        return Layout(self.shapes, self.dtypes, moving, self.of.samples)

    def moves(self, moving: tuple[int, ...]) -> Moves:
        """Which numbers of some leaves go together."""
        floating = tuple(i for i, d in enumerate(self.dtypes) if jnp.issubdtype(d, jnp.floating))
        # The rows of a basis run over all leaves.
        layout = self.layout(moving if self.of.basis is None else floating)
        outputs = jax.tree.leaves(self.output_shapes)
        numbers = sum(math.prod(outputs[i].shape) for i in self.floating)
        return self.of.moves(layout, floating, numbers // max(layout.num_units, 1))

    def num_calls(self, moving: tuple[int, ...]) -> int:
        """Calls of a backward pass that moves some leaves."""
        calls = self.moves(moving).num_calls if moving and self.floating else 0
        sides = 2 if self.of.settings["central"] else 1
        return calls * sides + (2 if self.of.check and calls else 0)

    def forward(self, leaves: Sequence[jax.Array]) -> tuple[PyTree, Kept]:
        """Outputs, and what the backward pass needs of them."""
        host = self.host
        if host is None:
            traced = Traced.of(self._fun, leaves)
            values = traced.values(leaves)
            return traced.outputs(values), values
        results = answered(leaves, lambda: host.asked(*leaves))
        return host.outputs(results), results

    def call(self, leaves: Sequence[jax.Array], key: Key | None) -> PyTree:
        """The outputs, with a derivative of their own."""
        surrogate, constants = self.surrogate()

        @jax.custom_vjp
        def apply(leaves: list[jax.Array], extra: PyTree) -> PyTree:
            del extra
            return self.forward(leaves)[0]

        def forward(leaves: Any, extra: Any) -> tuple[PyTree, PyTree]:
            moved = [
                dtype for leaf, dtype in zip(leaves, self.dtypes, strict=True) if leaf.perturbed
            ]
            check_real("input", moved)
            values = [_refusing(leaf.value) for leaf in leaves]
            outputs, kept = self.forward(values)
            # The structure of the marks tells the backward pass which leaves are differentiated.
            marks = [() if leaf.perturbed else None for leaf in leaves]
            extra = jax.tree.map(lambda e: e.value, extra, is_leaf=_is_primal)
            return outputs, (values, extra, kept, marks)

        def backward(residuals: PyTree, cotangents: PyTree) -> tuple[PyTree, PyTree]:
            values, (key, constants), kept, marks = residuals
            weights = jax.tree.leaves(cotangents, is_leaf=_is_zero)
            weighed = zip(weights, self.output_dtypes, strict=True)
            check_real("output", [dtype for weight, dtype in weighed if not _is_zero(weight)])
            moving = tuple(
                i
                for i, mark in enumerate(marks)
                if mark is not None and jnp.issubdtype(self.dtypes[i], jnp.floating)
            )
            gradients: list[jax.Array | None] = [None] * len(values)
            if moving and not all(_is_zero(weights[i]) for i in self.floating):
                chosen = [_materialised(weights[i]) for i in self.floating]
                found = self.gradient(values, moving, key, kept, chosen, surrogate, constants)
                gradients = self.placed(found, moving, values)
            return gradients, None

        apply.defvjp(forward, backward, symbolic_zeros=True)
        return apply(list(leaves), (key, constants))

    def placed(
        self, found: Combined, moving: tuple[int, ...], leaves: Sequence[jax.Array]
    ) -> list[jax.Array | None]:
        """A gradient [u, m] leaf by leaf, None for those that do not move."""
        layout = self.moves(moving).layout
        gradients: list[jax.Array | None] = [None] * len(self.shapes)
        parts = layout.split(found.gradient)
        for position, part in zip(layout.moving, parts, strict=True):
            if position in moving:
                gradient = jnp.asarray(part).astype(self.dtypes[position])
                # A callback does not say over which mesh axes its answers vary, or are split.
                leaf = leaves[position]
                gradients[position] = split_like(varying_like(gradient, leaf), leaf)
        return gradients

    def surrogate(self) -> tuple[Any, list[jax.Array]]:
        """The surrogate as a function of its constants, which may be traced values, too."""
        if self.of.surrogate is None:
            return None, []
        flat = lambda *leaves: self.of.surrogate(*self.treedef.unflatten(leaves))  # pyright: ignore
        converted, constants = jax.closure_convert(flat, *self._like)
        return converted, [jax.lax.stop_gradient(constant) for constant in constants]

    def gradient(
        self,
        leaves: Sequence[jax.Array],
        moving: tuple[int, ...],
        key: Key | None,
        kept: Kept,
        cotangents: Sequence[jax.Array],
        surrogate: Any = None,
        constants: Sequence[jax.Array] = (),
    ) -> Combined:
        """The gradient [u, m] of the moving leaves.

        Args:
          leaves: of the inputs.
          moving: positions of those that are differentiated.
          key: as of the call.
          kept: by ``forward``.
          cotangents: of the floating-point outputs.
          surrogate: ``(*leaves, *constants) -> outputs``, or None.
          constants: of the surrogate.
        """
        moves = self.moves(moving)
        layout = moves.layout
        steps = self._steps(layout)
        drawn = moves.draw(key)
        if not layout.num_units * layout.size:
            return Combined(jnp.zeros((layout.num_units, layout.size), layout.wide), jnp.zeros(()))
        slopes, lost = self._slopes(moves, Start(leaves, steps, kept, cotangents, drawn))
        known = None
        if surrogate is not None:
            known = self._known(layout, surrogate, leaves, cotangents, constants)
            known = known.astype(layout.wide)
        per_number = jnp.asarray(layout.per_number(steps)).astype(layout.wide)
        found = moves.combine(slopes, drawn, per_number, known, lost)
        if self.host is None and self.of.settings["reuse"] == "none":
            stuck = moves.swallowed([leaves[i] for i in layout.moving], per_number)
            found = found._replace(gradient=jnp.where(stuck, jnp.nan, found.gradient))
        return found

    def _slopes(self, moves: Moves, start: Start) -> tuple[jax.Array, jax.Array | bool]:
        """The slopes, and which of them a box gave no answer for."""
        settings = self.of.settings
        if self.host is None:
            propagated = Propagated(
                Traced.of(self._fun, start.leaves),
                moves,
                settings["central"],
                self.floating,
                settings["reuse"] == "none",
                settings["delta_dtype"],
                settings["batch_size"],
            )
            return propagated.slopes(start), False
        options = settings["central"], self.floating, self.of.check, self.of.record
        asks = HostSlopes(self.host, moves, *options)
        return answered([*start.leaves, *start.cotangents], lambda: asks.slopes(start))

    def _steps(self, layout: Layout) -> list[jax.Array]:
        """Of each moving leaf, as it can be taken."""
        numbered = self.treedef.unflatten(range(len(self.shapes)))
        paths = leaf_paths(numbered[0] if len(numbered) == 1 else numbered)
        smoothing, moving = self.of.settings["smoothing"], layout.moving
        names, dtypes = [paths[i] for i in moving], [self.dtypes[i] for i in moving]
        if isinstance(smoothing, dict):
            smoothing = {p: s for p, s in smoothing.items() if p not in paths or p in names}
        steps = leaf_steps(smoothing, names, dtypes)
        subtracts = self.of.settings["reuse"] == "none" if self.host is None else True
        if subtracts and not (self.host is not None and self.host.box.outputs.is_double):
            in_float64 = 'declare float64 answers (dtype="float64")'
            otherwise = PROPAGATE if self.host is None else in_float64
            check_resolution(steps, names, dtypes, otherwise=otherwise)
        if self.of.basis is not None:
            given = smoothing.values() if isinstance(smoothing, dict) else [smoothing]
            if len({str(step) for step in given}) > 1:
                raise ValueError("a basis runs over all leaves: give one smoothing for all of them")
            return [jnp.asarray(step, layout.wide) for step in given] * (len(names) // len(given))
        return [jnp.asarray(step, dtype) for step, dtype in zip(steps, dtypes, strict=True)]

    def _known(
        self,
        layout: Layout,
        surrogate: Any,
        leaves: Sequence[jax.Array],
        cotangents: Sequence[jax.Array],
        constants: Sequence[jax.Array],
    ) -> jax.Array:
        """The surrogate's gradient [u, m], by autodiff."""

        def outputs(moving: Sequence[jax.Array]) -> list[jax.Array]:
            others = list(leaves)
            for position, leaf in zip(layout.moving, moving, strict=True):
                others[position] = leaf
            found = surrogate(*others, *constants)
            expected = jax.tree.structure(self.output_shapes)
            if jax.tree.structure(found) != expected:
                raise ValueError(
                    f"the surrogate must return {expected}, as the function does, got "
                    f"{jax.tree.structure(found)}"
                )
            found = jax.tree.leaves(found)
            return [found[i] for i in self.floating]

        values, pull = jax.vjp(outputs, [leaves[i] for i in layout.moving])
        for value, cotangent in zip(values, cotangents, strict=True):
            if value.shape != cotangent.shape:
                raise ValueError(
                    f"the surrogate must return shape {cotangent.shape}, as the function does, "
                    f"got {value.shape}"
                )
        weights = [c.astype(v.dtype) for c, v in zip(cotangents, values, strict=True)]
        return jnp.asarray(layout.join(pull(weights)[0]))


def _materialised(cotangent: Any) -> jax.Array:
    if _is_zero(cotangent):
        like: Any = cotangent
        return jnp.zeros(like.shape, like.dtype)
    return cotangent


def _is_zero(cotangent: Any) -> bool:
    return isinstance(cotangent, SymbolicZero)


def _is_primal(value: Any) -> bool:
    return hasattr(value, "perturbed")


_refusing = without_derivative(
    lambda value: value,
    "dz.differentiable has first derivatives only: a second derivative was asked for; take "
    "differences of gradients",
)
