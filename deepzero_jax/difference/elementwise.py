"""Elementwise rules: differences in closed form, none of which subtracts nearly equal numbers.

In every formula x is a base value, d its delta, y the base output.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deepzero_jax.difference.rules import rule


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


@rule("div", takes="elements")
def div(x, d, y, /, **params):
    """Δ(a / b) = (Δa − (a / b) Δb) / (b + Δb)."""
    if d[1] is None:
        return d[0] / x[1]
    return (_or_zero(d[0]) - y * d[1]) / (x[1] + d[1])


@rule("square", takes="elements")
def square(x, d, y, /, **params):
    """Δ(a²) = Δa (2a + Δa)."""
    return d[0] * (2 * x[0] + d[0])


@rule("integer_pow", takes="elements")
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


@rule("exp", takes="elements")
def exp(x, d, y, /, **params):
    """Δeᵃ = eᵃ expm1(Δa)."""
    return y * jnp.expm1(d[0])


@rule("exp2", takes="elements")
def exp2(x, d, y, /, **params):
    """Δ2ᵃ = 2ᵃ expm1(Δa log 2)."""
    return y * jnp.expm1(d[0] * np.log(2.0))


@rule("expm1", takes="elements")
def expm1(x, d, y, /, **params):
    """Of eᵃ − 1: eᵃ expm1(Δa)."""
    return (y + 1) * jnp.expm1(d[0])


@rule("log", takes="elements")
def log(x, d, y, /, **params):
    """Δ log a = log1p(Δa / a)."""
    return jnp.log1p(d[0] / x[0])


@rule("log1p", takes="elements")
def log1p(x, d, y, /, **params):
    """Of log(1 + a): log1p(Δa / (1 + a))."""
    return jnp.log1p(d[0] / (1 + x[0]))


@rule("sqrt", takes="elements")
def sqrt(x, d, y, /, **params):
    """Δ√a = Δa / (√(a + Δa) + √a)."""
    total = jnp.sqrt(x[0] + d[0]) + y
    return d[0] / jnp.where(total == 0, 1, total)


@rule("rsqrt", takes="elements")
def rsqrt(x, d, y, /, **params):
    """Δ(1/√a) = −Δa r² r′² / (r + r′), r and r′ the old and new value."""
    new = lax.rsqrt(x[0] + d[0])
    return -d[0] * (y * new) * (y * new / (y + new))


@rule("tanh", takes="elements")
def tanh(x, d, y, /, **params):
    """Of tanh a: tanh(Δa) (1 − tanh a tanh(a + Δa))."""
    return jnp.tanh(d[0]) * (1 - y * jnp.tanh(x[0] + d[0]))


@rule("logistic", takes="elements")
def logistic(x, d, y, /, **params):
    """Δσ(a) = σ(a′)(1 − σ(a)) (1 − e^−Δa), or its mirror for Δa < 0 so that nothing overflows."""
    new = lax.logistic(x[0] + d[0])
    new_rest, rest = lax.logistic(-x[0] - d[0]), lax.logistic(-x[0])
    size = -jnp.expm1(-jnp.abs(d[0]))
    return jnp.where(d[0] >= 0, new * rest * size, -y * new_rest * size)


@rule("sin", takes="elements")
def sin(x, d, y, /, **params):
    """Of sin a: 2 cos(a + Δa/2) sin(Δa/2)."""
    return 2 * jnp.cos(x[0] + d[0] / 2) * jnp.sin(d[0] / 2)


@rule("cos", takes="elements")
def cos(x, d, y, /, **params):
    """Δ cos a = −2 sin(a + Δa/2) sin(Δa/2)."""
    return -2 * jnp.sin(x[0] + d[0] / 2) * jnp.sin(d[0] / 2)


@rule("max", takes="elements")
def maximum(x, d, y, /, **params):
    """Δ max(a, b) = max((a − y) + Δa, (b − y) + Δb), where the larger minus y is exactly zero."""
    return jnp.maximum((x[0] - y) + _or_zero(d[0]), (x[1] - y) + _or_zero(d[1]))


@rule("min", takes="elements")
def minimum(x, d, y, /, **params):
    """Δ min(a, b) = min((a − y) + Δa, (b − y) + Δb)."""
    return jnp.minimum((x[0] - y) + _or_zero(d[0]), (x[1] - y) + _or_zero(d[1]))


@rule("abs", takes="elements")
def absolute(x, d, y, /, **params):
    """Δ|a| by |a| = max(a, −a)."""
    return jnp.maximum((x[0] - y) + d[0], (-x[0] - y) - d[0])


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
    direct = lax.erf(x + d) - lax.erf(x)
    return jnp.where(jnp.abs(d) < 0.5, d * slope * (2 / np.sqrt(np.pi)), direct)


@rule("erf", takes="elements")
def erf(x, d, y, /, **params):
    """Δ erf a = 2/√π ∫₀^Δa e^−(a + t)² dt, by quadrature where Δa is small."""
    return _erf_difference(x[0], d[0]).astype(jnp.result_type(y))


@rule("erfc", takes="elements")
def erfc(x, d, y, /, **params):
    """Δ erfc a = −Δ erf a."""
    return -_erf_difference(x[0], d[0]).astype(jnp.result_type(y))


@rule("pow", takes="elements")
def power(x, d, y, /, **params):
    """Δ(aⁿ) = aⁿ expm1(n log1p(Δa / a)) for a constant n and a > 0, else by subtraction."""
    new_base, new_exponent = x[0] + _or_zero(d[0]), x[1] + _or_zero(d[1])
    direct = jnp.power(new_base, new_exponent) - y
    if d[1] is not None:
        return direct
    positive = (x[0] > 0) & (new_base > 0)
    ratio = jnp.where(positive, d[0] / jnp.where(positive, x[0], 1), 0)
    return jnp.where(positive, y * jnp.expm1(x[1] * jnp.log1p(ratio)), direct)


@rule("convert_element_type", takes="elements")
def convert(x, d, y, /, *, new_dtype, **params):
    """A conversion between floating-point types is linear up to rounding."""
    return d[0].astype(new_dtype)


@rule("copy", "stop_gradient", "reduce_precision", takes="elements")
def identity(x, d, y, /, **params):
    """The delta passes; a rounding of the base does not concern it."""
    return d[0]


@rule("optimization_barrier", takes="arrays")
def barrier(x, d, y, /, **params):
    """Each operand passes as it is."""
    return [jnp.zeros_like(base) if move is None else move for base, move in zip(y, d, strict=True)]


@rule("real", takes="elements")
def real(x, d, y, /, **params):
    """Real part, linear."""
    return jnp.real(d[0])


@rule("imag", takes="elements")
def imag(x, d, y, /, **params):
    """Imaginary part, linear."""
    return jnp.imag(d[0])
