"""The table of rules: how a primitive turns the deltas of its operands into those of its results.

**How to add a rule.** Write a function beside its kin (``elementwise``, ``transcendental``,
``structure``, ``reductions``, ``products``, ``collectives``, ``loops``, ``choices``) and put
``@rule("its primitive", ...)`` above it. What the function takes is declared:

  ``takes="elements"``  ``(bases, deltas, output, **params) -> delta``, arrays that broadcast
                        against each other, deltas None where zero. For elementwise
                        primitives: a channel stays one, the formula then sees it alone.
  ``takes="arrays"``    the same, whole arrays, each delta of its operand's shape. A primitive
                        of several results is given a list of outputs and returns a list.
  ``takes="channel"``   ``(at, channel) -> Channel | None``, for primitives that are linear in
                        their first operand: where the channel goes, None if it does not
                        survive. Dense deltas go through the primitive itself.
  ``takes="deltas"``    ``(at, deltas) -> list of deltas``, one for each result: any kind.
  ``takes="body"``      ``(at, deltas, signs) -> (deltas, stand-ins of the results)``, for loops
                        and branches, which have programs inside, and for choices.

What it cannot take is declared too, and evaluated at the perturbed point and subtracted
instead, as is every primitive without a rule: ``moving`` names the operands that may move
(others may not), ``moved=True`` admits integers and booleans that have moved,
``decides=True`` results that are integers or booleans, ``real=True`` excludes complex
numbers, ``points=True`` admits a ``Point``, which otherwise comes as a ``Channel``.

And what it does to infinities (see ``application``), in ``edges``:
  ``"none"``      an infinite operand makes an infinite result; or the formula is an identity
                  between x, Δ and f(x) that holds for whatever number stands in for x.
  ``"absorbed"``  a finite result may come of an infinite operand (``tanh``).
  ``"made"``      an infinite result may come of finite operands (``log``), and only then may
                  the formula be undefined at finite operands.
Where a formula is then undefined, the difference is that of the evaluations.
A rule of a user's own needs no declaration in this package: ``register_rule``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive

from deepzero_jax.difference.application import Application, widened
from deepzero_jax.difference.edges import Edges, subtracted, with_stand_ins
from deepzero_jax.difference.forms import FORMS, Function
from deepzero_jax.difference.signs import Signs
from deepzero_jax.difference.values import Delta, Moved, Point, Zero, as_channel, is_float

Takes = Literal["elements", "arrays", "channel", "deltas", "body"]
Written = TypeVar("Written", bound=Function)


@dataclass(frozen=True)
class Rule:
    """A function, what it takes, and what it is never given.

    Attributes:
      function: in one of the forms described at the head of this module.
      takes: in which.
      moving: numbers of the operands that may move, or None for all.
      moved: whether operands may be ``Moved``.
      decides: whether results may be integers or booleans.
      real: whether it does not hold for complex numbers.
      points: whether operands may be ``Point``.
      edges: what the primitive and the formula do to infinities.
    """

    function: Function
    takes: Takes
    moving: tuple[int, ...] | None = None
    moved: bool = False
    decides: bool = False
    real: bool = False
    points: bool = False
    edges: Edges = "none"

    def holds(self, at: Application, deltas: Sequence[Delta]) -> bool:
        """Whether the rule was made for these operands."""
        if not self.decides and not all(is_float(output) for output in at.outputs):
            return False
        if self.real and any(map(jnp.iscomplexobj, [*at.bases, *at.outputs])):
            return False
        if not self.moved and any(isinstance(delta, Moved) for delta in deltas):
            return False
        if self.moving is None:
            return True
        return all(isinstance(d, Zero) for i, d in enumerate(deltas) if i not in self.moving)

    def __call__(
        self, at: Application, deltas: list[Delta], signs: Signs
    ) -> tuple[list[Delta], list[jax.Array]]:
        """The deltas of the results, and what stands in for their base values."""
        if not self.points and any(isinstance(delta, Point) for delta in deltas):
            deltas = [as_channel(d, b) for d, b in zip(deltas, at.bases, strict=True)]
        if self.takes == "body":
            return self.function(at, deltas, signs)
        at = with_stand_ins(at, self.edges, signs)
        return FORMS[self.takes](self.function, widened(at), deltas), at.outputs


RULES: dict[str, Rule] = {}
"""The rule of each primitive of JAX, by its name."""
# Rules of users, which stand before those of the table.
OWN_RULES: dict[str, Rule] = {}


def rule(
    *names: str,
    takes: Takes = "deltas",
    moving: tuple[int, ...] | None = None,
    moved: bool = False,
    decides: bool = False,
    real: bool = False,
    points: bool = False,
    edges: Edges = "none",
) -> Callable[[Written], Written]:
    """Puts a function into the table as the rule of some primitives.

    Args:
      *names: of primitives.
      takes: what the function takes, see the head of this module.
      moving: numbers of the operands that may move, None for all.
      moved: whether integer and boolean operands may have moved.
      decides: whether results may be integers or booleans.
      real: whether it does not hold for complex numbers.
      points: whether a ``Point`` is given as it is, not as a ``Channel``.
      edges: what becomes of infinities, see the head of this module.
    """

    def put(function: Written) -> Written:
        made = Rule(function, takes, moving, moved, decides, real, points, edges)
        RULES.update(dict.fromkeys(names, made))
        return function

    return put


def _name(primitive: Primitive | str) -> str:
    return primitive if isinstance(primitive, str) else primitive.name


def register_rule(
    primitive: Primitive | str, formula: Function, *, elementwise: bool = False
) -> None:
    """Registers how differences pass through a primitive of your own.

    It stands before a rule that this library may have, until ``deregister_rule``. What is
    already compiled keeps the rule that it was traced with.

    Args:
      primitive: a JAX primitive or its name.
      formula: ``(primals, deltas, output, **params) -> delta``. ``primals`` and
        ``output`` are base values; ``deltas`` are arrays of the shapes of ``primals``,
        None where zero. It returns ``f(primals + deltas) − f(primals)``, an array like
        ``output`` (a tuple of them for several outputs), best in a form that does not
        cancel.
      elementwise: the formula works element by element, on operands that broadcast
        against each other. A difference in one channel (one output channel of a
        convolution, say) then stays in that channel, and the formula sees that channel
        alone, so it must not ask for the shape of the whole.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> def exp_delta(primals, deltas, output, **params):
      ...     return output * jnp.expm1(deltas[0])
      >>> register_rule("exp", exp_delta, elementwise=True)
      >>> deregister_rule("exp")
    """
    takes = "elements" if elementwise else "arrays"
    OWN_RULES[_name(primitive)] = Rule(formula, takes, edges="absorbed")


def deregister_rule(primitive: Primitive | str) -> None:
    """Takes a rule of ``register_rule`` back; a rule of the library's own holds again.

    Raises:
      ValueError: no rule of yours is registered for the primitive.
    """
    name = _name(primitive)
    if name not in OWN_RULES:
        known = ", ".join(sorted(OWN_RULES)) or "none"
        raise ValueError(f"no rule is registered for {name!r}; registered are: {known}")
    del OWN_RULES[name]


def propagate_equation(
    at: Application, deltas: list[Delta], signs: Signs
) -> tuple[list[Delta], list[jax.Array]]:
    """Deltas of the results of one equation, and what stands in for their base values."""
    name = at.eqn.primitive.name
    chosen = OWN_RULES.get(name) or RULES.get(name)
    if chosen is None or not chosen.holds(at, deltas):
        return subtracted(at, deltas)
    return chosen(at, deltas, signs)
