"""Exponentials, logarithms, roots and their kin: closed forms that do not cancel.

In every formula x is a base value, d its delta, y the base output.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deepzero_jax.difference.elementwise import or_zero
from deepzero_jax.difference.platforms import PLAIN, forms
from deepzero_jax.difference.rules import rule

# Numbers here are Python's: NumPy's have a type, and with ``jax_enable_x64`` it would rule.
_LOG_2 = math.log(2)
# Up to here in the exponent a difference of exponentials is a series, from here on a subtraction.
_SERIES = 0.35


def _grown(old, new, exponent):
    """``new − old`` of exponentials, where new = old e^exponent.

    old expm1(exponent) is undefined where old is too small for its type and the exponent
    large.
    """
    if forms() == PLAIN:  # an exponential is not priced by the products of its series
        return old * jnp.expm1(exponent)
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
    return _grown(y, jnp.exp2(x[0] + d[0]), d[0] * _LOG_2)


@rule("expm1", takes="elements", edges="made")
def expm1(x, d, y, /, **params):
    """Of eᵃ − 1, as Δeᵃ: from the output no digits of eᵃ could be had below −14."""
    return _grown(jnp.exp(x[0]), jnp.exp(x[0] + d[0]), d[0])


@rule("log", takes="elements", real=True, edges="made")
def log(x, d, y, /, **params):
    """Δ log a = log1p(Δa / a)."""
    return jnp.log1p(d[0] / x[0])


@rule("log2", takes="elements", real=True, edges="made")
def log2(x, d, y, /, **params):
    """Δ log₂ a = log1p(Δa / a) / log 2."""
    return jnp.log1p(d[0] / x[0]) / _LOG_2


@rule("polynomial", takes="elements")
def polynomial(x, d, y, /, **params):
    """Of a₀ + a₁ x + a₂ x² + …, operands in this order after x: Horner's scheme of (p, Δp)."""
    base, move = x[0], or_zero(d[0])
    total, change = x[-1], or_zero(d[-1])
    for value, delta in zip(x[-2:0:-1], d[-2:0:-1], strict=True):
        change = change * (base + move) + total * move + or_zero(delta)
        total = total * base + value
    return jnp.broadcast_to(change, jnp.shape(y))


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
    """Of tanh a: sinh(Δa) / (cosh a cosh(a + Δa)), sinh as a series where Δa is small.

    Elsewhere subtracted, of u = e^−|a| so that nothing cancels. tanh(Δa) (1 − tanh a tanh a′)
    would cancel from 4 on.
    """
    new = x[0] + d[0]
    u, v = jnp.exp(-jnp.abs(x[0])), jnp.exp(-jnp.abs(new))
    bottom = (1 + u * u) * (1 + v * v)
    series = 1.0
    for k in range(9 if jnp.result_type(y) == jnp.float64 else 4, 0, -1):
        series = 1 + d[0] * d[0] / (2 * k * (2 * k + 1)) * series
    small = 2 * u * v * d[0] * series
    beside = jnp.sign(x[0]) * (u * u - v * v)
    across = jnp.sign(d[0]) * (1 - u * u * v * v)
    apart = jnp.where(x[0] * jnp.sign(new) > 0, beside, across)
    return 2 * jnp.where(jnp.abs(d[0]) < _SERIES, small, apart) / bottom


@rule("tan", takes="elements", real=True, edges="made")
def tan(x, d, y, /, **params):
    """Of tan a: sin(Δa) / (cos a cos(a + Δa))."""
    return jnp.sin(d[0]) / (jnp.cos(x[0]) * jnp.cos(x[0] + d[0]))


@rule("sinh", takes="elements", real=True, edges="made")
def sinh(x, d, y, /, **params):
    """Of sinh a: 2 cosh(a + Δa/2) sinh(Δa/2)."""
    return 2 * jnp.cosh(x[0] + d[0] / 2) * jnp.sinh(d[0] / 2)


@rule("cosh", takes="elements", real=True, edges="made")
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


# Nodes and weights of Gauss-Legendre quadrature on [0, 1].
_NODES, _WEIGHTS = (
    ((np.polynomial.legendre.leggauss(6)[0] + 1) / 2).tolist(),
    (np.polynomial.legendre.leggauss(6)[1] / 2).tolist(),
)


def _erf_difference(x: jax.Array, d: jax.Array) -> jax.Array:
    """erf(x + d) − erf(x): the integral of its derivative where d is small, else subtraction."""
    slope = 0.0
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        slope = slope + weight * jnp.exp(-jnp.square(x + node * d))
    new = x + d
    # On one side of zero erf runs into ±1, erfc does not.
    side = jnp.where(x * jnp.sign(new) > 0, jnp.sign(x), 0)
    tails = side * (lax.erfc(side * x) - lax.erfc(side * new))
    direct = jnp.where(side == 0, lax.erf(new) - lax.erf(x), tails)
    return jnp.where(jnp.abs(d) < 0.5, d * slope * (2 / math.sqrt(math.pi)), direct)


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
    """Δ(aⁿ) as Δe^(n log a) where a does not change its sign, else by subtraction."""
    new_base, new_exponent = x[0] + or_zero(d[0]), x[1] + or_zero(d[1])
    new = jnp.power(new_base, new_exponent)
    kept = x[0] * jnp.sign(new_base) > 0
    base = jnp.where(kept, x[0], 1)
    grown = new_exponent * jnp.log1p(jnp.where(kept, or_zero(d[0]) / base, 0))
    if d[1] is not None:
        grown = grown + d[1] * jnp.log(base)
    return jnp.where(kept, _grown(y, new, grown), new - y)
