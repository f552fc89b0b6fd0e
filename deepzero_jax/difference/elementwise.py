"""Elementwise rules: differences in closed form, none of which subtracts nearly equal numbers.

In every formula x is a base value, d its delta, y the base output.
"""

import jax
import jax.numpy as jnp
from jax import lax

from deepzero_jax.difference.application import Application
from deepzero_jax.difference.program import apply
from deepzero_jax.difference.rules import rule
from deepzero_jax.difference.values import Delta, Moved, dense, minus


def or_zero(delta: jax.Array | None) -> jax.Array | float:
    """A delta as a term of a sum."""
    return 0.0 if delta is None else delta


@rule("add", "add_any", takes="elements")
def add(x, d, y, /, **params):
    """Δ(a + b) = Δa + Δb."""
    if d[0] is None:
        return jnp.broadcast_to(d[1], jnp.shape(y))
    return jnp.broadcast_to(d[0] if d[1] is None else d[0] + d[1], jnp.shape(y))


@rule("sub", takes="elements")
def sub(x, d, y, /, **params):
    """Δ(a − b) = Δa − Δb."""
    if d[0] is None:
        return jnp.broadcast_to(-d[1], jnp.shape(y))
    return jnp.broadcast_to(d[0] if d[1] is None else d[0] - d[1], jnp.shape(y))


@rule("neg", takes="elements")
def neg(x, d, y, /, **params):
    """Δ(−a) = −Δa."""
    return -d[0]


@rule("mul", takes="elements", edges="absorbed")
def mul(x, d, y, /, **params):
    """Δ(ab) = Δa (b + Δb) + a Δb."""
    if d[1] is None:
        return d[0] * x[1]
    if d[0] is None:
        return x[0] * d[1]
    return d[0] * (x[1] + d[1]) + x[0] * d[1]


@rule("div", takes="elements", edges="made")
def div(x, d, y, /, **params):
    """Δ(a / b) = (Δa − (a / b) Δb) / (b + Δb)."""
    if d[1] is None:
        return d[0] / x[1]
    return (or_zero(d[0]) - y * d[1]) / (x[1] + d[1])


@rule("square", takes="elements")
def square(x, d, y, /, **params):
    """Δ(a²) = Δa (2a + Δa)."""
    return d[0] * (2 * x[0] + d[0])


@rule("one_minus_square", takes="elements")
def one_minus_square(x, d, y, /, **params):
    """Δ(1 − a²) = −Δa (2a + Δa)."""
    return -d[0] * (2 * x[0] + d[0])


@rule("integer_pow", takes="elements", edges="made")
def integer_pow(x, d, y, /, **params):
    """Δ(aⁿ) = Δa Σ (a + Δa)ᵏ aⁿ⁻¹⁻ᵏ; for n < 0 by Δ(1 / p) = −Δp / (p (p + Δp))."""
    exponent = params["y"]
    size = abs(exponent)
    new = x[0] + d[0]
    total = 0.0
    for k in range(size):
        total = total + new**k * x[0] ** (size - 1 - k)
    power = d[0] * total
    return power if exponent >= 0 else -power * y / new**size


@rule("max", takes="elements", real=True)
def maximum(x, d, y, /, **params):
    """Δ max(a, b) = max((a − y) + Δa, (b − y) + Δb), where the larger minus y is exactly zero."""
    return jnp.maximum(minus(x[0], y) + or_zero(d[0]), minus(x[1], y) + or_zero(d[1]))


@rule("min", takes="elements", real=True)
def minimum(x, d, y, /, **params):
    """Δ min(a, b) = min((a − y) + Δa, (b − y) + Δb)."""
    return jnp.minimum(minus(x[0], y) + or_zero(d[0]), minus(x[1], y) + or_zero(d[1]))


@rule("clamp", takes="elements", real=True)
def clamp(x, d, y, /, **params):
    """Between a lower and an upper bound, as max and min."""
    low, inside, high = (minus(x[i], y) + or_zero(d[i]) for i in range(3))
    return jnp.minimum(jnp.maximum(low, inside), high)


@rule("floor", takes="elements", edges="absorbed")
def floor(x, d, y, /, **params):
    """Of ⌊a⌋: ⌊(a − y) + Δa⌋, so that a small step down from an integer counts."""
    return jnp.floor((x[0] - y) + d[0])


@rule("ceil", takes="elements", edges="absorbed")
def ceil(x, d, y, /, **params):
    """Of ⌈a⌉: ⌈(a − y) + Δa⌉."""
    return jnp.ceil((x[0] - y) + d[0])


@rule("abs", takes="elements", edges="absorbed")
def absolute(x, d, y, /, **params):
    """Δ|a| by |a| = max(a, −a); of a complex number (2 Re(ā Δa) + |Δa|²) / (|a| + |a + Δa|)."""
    if not jnp.iscomplexobj(x[0]):
        return jnp.maximum(minus(x[0], y) + d[0], minus(-x[0], y) - d[0])
    total = y + jnp.abs(x[0] + d[0])
    square = 2 * jnp.real(jnp.conj(x[0]) * d[0]) + jnp.square(jnp.abs(d[0]))
    return square / jnp.where(total == 0, 1, total)


@rule("lt", "le", "gt", "ge", "eq", "ne", decides=True, real=True)
def compare(at: Application, deltas: list[Delta]) -> list[Delta]:
    """(a − b) + Δa − Δb against 0: a + Δa would round a small step away.

    Summed from either side, so that a value is found equal to the maximum that it is. An
    infinity has no such form: it is compared as it is.
    """
    d_x, d_y = (dense(d, b) for d, b in zip(deltas, at.bases, strict=True))
    x, y = at.bases
    direct = apply(at.eqn, [x + d_x, y + d_y])[0]
    left, right = ((x - y) + d_x) - d_y, d_x - ((y - x) + d_y)
    side = jnp.where(jnp.abs(left) < jnp.abs(right), left, right)
    side = jnp.broadcast_to(side, jnp.shape(direct))
    closer = apply(at.eqn, [side, jnp.zeros_like(side)])[0]
    return [Moved(jnp.where(jnp.isfinite(side), closer, direct))]


@rule("convert_element_type", takes="elements")
def convert(x, d, y, /, *, new_dtype, **params):
    """A conversion between floating-point types is linear up to rounding."""
    return d[0].astype(new_dtype)


@rule("copy", "stop_gradient", "reduce_precision", takes="elements")
def identity(x, d, y, /, **params):
    """The delta passes; a rounding of the base does not concern it."""
    return d[0]


@rule("optimization_barrier", moved=True, decides=True, points=True)
def barrier(at: Application, deltas: list[Delta]) -> list[Delta]:
    """Each operand passes as it is."""
    return deltas


@rule("conj", takes="elements")
def conj(x, d, y, /, **params):
    """The conjugate, linear."""
    return jnp.conj(d[0])


@rule("complex", takes="elements")
def complex_(x, d, y, /, **params):
    """Real and imaginary part, linear."""
    zero = jnp.zeros_like(d[1] if d[0] is None else d[0])
    first, second = (zero if part is None else part for part in d)
    return jnp.broadcast_to(lax.complex(first, second), jnp.shape(y))


@rule("real", takes="elements")
def real(x, d, y, /, **params):
    """Real part, linear."""
    return jnp.real(d[0])


@rule("imag", takes="elements")
def imag(x, d, y, /, **params):
    """Imaginary part, linear."""
    return jnp.imag(d[0])
