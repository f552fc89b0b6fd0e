"""Elementwise rules: differences in closed form, none of which subtracts nearly equal numbers.

In every formula x is a base value, d its delta, y the base output.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deepzero_jax.difference.application import Application
from deepzero_jax.difference.program import apply
from deepzero_jax.difference.rules import rule
from deepzero_jax.difference.values import Delta, Moved, dense


def _or_zero(delta: jax.Array | None) -> jax.Array | float:
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


@rule("mul", takes="elements")
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
    return (_or_zero(d[0]) - y * d[1]) / (x[1] + d[1])


@rule("square", takes="elements")
def square(x, d, y, /, **params):
    """Δ(a²) = Δa (2a + Δa)."""
    return d[0] * (2 * x[0] + d[0])


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


# Up to here in the exponent a difference of exponentials is a series, from here on a subtraction.
_SERIES = 0.35


def _grown(old, new, exponent):
    """``new − old`` of exponentials, where new = old e^exponent.

    old expm1(exponent) is undefined where old is too small for its type and the exponent
    large, and takes twice the time.
    """
    wide = jnp.result_type(exponent) in (jnp.float64, jnp.complex128)
    series = 1.0
    for k in range(14 if wide else 7, 1, -1):
        series = 1 + exponent / k * series
    return jnp.where(jnp.abs(exponent) < _SERIES, old * (exponent * series), new - old)


@rule("exp", takes="elements", edges="made")
def exp(x, d, y, /, **params):
    """Δeᵃ = eᵃ (Δa + Δa²/2 + …)."""
    return _grown(y, jnp.exp(x[0] + d[0]), d[0])


@rule("exp2", takes="elements", edges="made")
def exp2(x, d, y, /, **params):
    """Δ2ᵃ as Δe^(a log 2)."""
    return _grown(y, jnp.exp2(x[0] + d[0]), d[0] * np.log(2.0))


@rule("expm1", takes="elements", edges="made")
def expm1(x, d, y, /, **params):
    """Of eᵃ − 1, as Δeᵃ: from the output no digits of eᵃ could be had below −14."""
    return _grown(jnp.exp(x[0]), jnp.exp(x[0] + d[0]), d[0])


@rule("log", takes="elements", real=True, edges="made")
def log(x, d, y, /, **params):
    """Δ log a = log1p(Δa / a)."""
    return jnp.log1p(d[0] / x[0])


@rule("log1p", takes="elements", real=True, edges="made")
def log1p(x, d, y, /, **params):
    """Of log(1 + a): log1p(Δa / (1 + a))."""
    return jnp.log1p(d[0] / (1 + x[0]))


@rule("sqrt", takes="elements", real=True, edges="made")
def sqrt(x, d, y, /, **params):
    """Δ√a = Δa / (√(a + Δa) + √a)."""
    total = jnp.sqrt(x[0] + d[0]) + y
    return d[0] / jnp.where(total == 0, 1, total)


@rule("rsqrt", takes="elements", real=True, edges="made")
def rsqrt(x, d, y, /, **params):
    """Δ(1/√a) = −Δa r² r′² / (r + r′), r and r′ the old and new value."""
    new = lax.rsqrt(x[0] + d[0])
    return -d[0] * (y * new) * (y * new / (y + new))


@rule("tanh", takes="elements", real=True, edges="absorbed")
def tanh(x, d, y, /, **params):
    """Of tanh a: sinh(Δa) / (cosh a cosh(a + Δa)), in exponentials that do not overflow.

    tanh(Δa) (1 − tanh a tanh(a + Δa)) cancels from 4 on.
    """
    old, new, size = jnp.abs(x[0]), jnp.abs(x[0] + d[0]), jnp.abs(d[0])
    # size ≤ old + new, so the exponent is not positive.
    top = -jnp.expm1(-2 * size) * jnp.exp(size - old - new)
    return 2 * jnp.sign(d[0]) * top / ((1 + jnp.exp(-2 * old)) * (1 + jnp.exp(-2 * new)))


@rule("tan", takes="elements", edges="made")
def tan(x, d, y, /, **params):
    """Of tan a: sin(Δa) / (cos a cos(a + Δa))."""
    return jnp.sin(d[0]) / (jnp.cos(x[0]) * jnp.cos(x[0] + d[0]))


@rule("sinh", takes="elements", edges="made")
def sinh(x, d, y, /, **params):
    """Of sinh a: 2 cosh(a + Δa/2) sinh(Δa/2)."""
    return 2 * jnp.cosh(x[0] + d[0] / 2) * jnp.sinh(d[0] / 2)


@rule("cosh", takes="elements", edges="made")
def cosh(x, d, y, /, **params):
    """Of cosh a: 2 sinh(a + Δa/2) sinh(Δa/2)."""
    return 2 * jnp.sinh(x[0] + d[0] / 2) * jnp.sinh(d[0] / 2)


@rule("atan", takes="elements", real=True, edges="made")
def atan(x, d, y, /, **params):
    """Of arctan a: the angle between (1, a) and (1, a + Δa)."""
    return jnp.arctan2(d[0], 1 + x[0] * (x[0] + d[0]))


@rule("logistic", takes="elements", real=True, edges="absorbed")
def logistic(x, d, y, /, **params):
    """Δσ(a) = σ(a′)(1 − σ(a)) (1 − e^−Δa), or its mirror for Δa < 0 so that nothing overflows."""
    new = lax.logistic(x[0] + d[0])
    new_rest, rest = lax.logistic(-x[0] - d[0]), lax.logistic(-x[0])
    size = -jnp.expm1(-jnp.abs(d[0]))
    return jnp.where(d[0] >= 0, new * rest * size, -y * new_rest * size)


@rule("sin", takes="elements", edges="absorbed")
def sin(x, d, y, /, **params):
    """Of sin a: 2 cos(a + Δa/2) sin(Δa/2)."""
    return 2 * jnp.cos(x[0] + d[0] / 2) * jnp.sin(d[0] / 2)


@rule("cos", takes="elements", edges="absorbed")
def cos(x, d, y, /, **params):
    """Δ cos a = −2 sin(a + Δa/2) sin(Δa/2)."""
    return -2 * jnp.sin(x[0] + d[0] / 2) * jnp.sin(d[0] / 2)


def minus(value, y):
    """How far an operand is from the result, zero where both are the same infinity."""
    return jnp.where(value == y, 0, value - y)


@rule("max", takes="elements", real=True)
def maximum(x, d, y, /, **params):
    """Δ max(a, b) = max((a − y) + Δa, (b − y) + Δb), where the larger minus y is exactly zero."""
    return jnp.maximum(minus(x[0], y) + _or_zero(d[0]), minus(x[1], y) + _or_zero(d[1]))


@rule("min", takes="elements", real=True)
def minimum(x, d, y, /, **params):
    """Δ min(a, b) = min((a − y) + Δa, (b − y) + Δb)."""
    return jnp.minimum(minus(x[0], y) + _or_zero(d[0]), minus(x[1], y) + _or_zero(d[1]))


@rule("clamp", takes="elements", real=True)
def clamp(x, d, y, /, **params):
    """Between a lower and an upper bound, as max and min."""
    low, inside, high = (minus(x[i], y) + _or_zero(d[i]) for i in range(3))
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
        return jnp.maximum((x[0] - y) + d[0], (-x[0] - y) - d[0])
    total = y + jnp.abs(x[0] + d[0])
    square = 2 * jnp.real(jnp.conj(x[0]) * d[0]) + jnp.square(jnp.abs(d[0]))
    return square / jnp.where(total == 0, 1, total)


@rule("lt", "le", "gt", "ge", "eq", "ne", decides=True, real=True)
def compare(at: Application, deltas: list[Delta]) -> list[Delta]:
    """(a − b) + (Δa − Δb) against 0: a + Δa would round a small step away.

    An infinity has no such form: it is compared as it is.
    """
    moved = [b + dense(d, b) for d, b in zip(deltas, at.bases, strict=True)]
    direct = apply(at.eqn, moved)[0]
    (x, y), (d_x, d_y) = at.bases, (dense(d, b) for d, b in zip(deltas, at.bases, strict=True))
    side = jnp.broadcast_to((x - y) + (d_x - d_y), jnp.shape(direct))
    closer = apply(at.eqn, [side, jnp.zeros_like(side)])[0]
    return [Moved(jnp.where(jnp.isfinite(side), closer, direct))]


# Nodes and weights of Gauss-Legendre quadrature on [0, 1].
_NODES, _WEIGHTS = (
    (np.polynomial.legendre.leggauss(6)[0] + 1) / 2,
    np.polynomial.legendre.leggauss(6)[1] / 2,
)


def _erf_difference(x: jax.Array, d: jax.Array) -> jax.Array:
    """erf(x + d) − erf(x): the integral of its derivative where d is small, else subtraction."""
    slope = 0.0
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        slope = slope + weight * jnp.exp(-jnp.square(x + node * d))
    new = x + d
    # On one side of zero erf runs into ±1, erfc does not.
    side = jnp.where((x > 0) & (new > 0), 1.0, jnp.where((x < 0) & (new < 0), -1.0, 0.0))
    tails = side * (lax.erfc(side * x) - lax.erfc(side * new))
    direct = jnp.where(side == 0, lax.erf(new) - lax.erf(x), tails)
    return jnp.where(jnp.abs(d) < 0.5, d * slope * (2 / np.sqrt(np.pi)), direct)


@rule("erf", takes="elements", real=True, edges="absorbed")
def erf(x, d, y, /, **params):
    """Δ erf a = 2/√π ∫₀^Δa e^−(a + t)² dt, by quadrature where Δa is small."""
    return _erf_difference(x[0], d[0]).astype(jnp.result_type(y))


@rule("erfc", takes="elements", real=True, edges="absorbed")
def erfc(x, d, y, /, **params):
    """Δ erfc a = −Δ erf a."""
    return -_erf_difference(x[0], d[0]).astype(jnp.result_type(y))


@rule("pow", takes="elements", real=True, edges="made")
def power(x, d, y, /, **params):
    """Δ(aⁿ) as Δe^(n log a) for a > 0, else by subtraction."""
    new_base, new_exponent = x[0] + _or_zero(d[0]), x[1] + _or_zero(d[1])
    new = jnp.power(new_base, new_exponent)
    positive = (x[0] > 0) & (new_base > 0)
    base = jnp.where(positive, x[0], 1)
    grown = new_exponent * jnp.log1p(jnp.where(positive, _or_zero(d[0]) / base, 0))
    if d[1] is not None:
        grown = grown + d[1] * jnp.log(base)
    return jnp.where(positive, _grown(y, new, grown), new - y)


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
