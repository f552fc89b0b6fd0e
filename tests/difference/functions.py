"""The functions of the oracle by kind, and how exact each can be in float32."""

import jax.numpy as jnp
from jax import lax

from tests.difference.functions_arrays import ARRAYS
from tests.difference.functions_elementwise import ELEMENTWISE

__all__ = ["ARRAYS", "CANCELLING", "COARSE", "COMPLEX", "ELEMENTWISE"]

COMPLEX = {
    "abs": jnp.abs,
    "angle": jnp.angle,
    "conj": jnp.conj,
    "real": jnp.real,
    "imag": jnp.imag,
    "exp": jnp.exp,
    "log": jnp.log,
    "log1p": jnp.log1p,
    "expm1": jnp.expm1,
    "sqrt": jnp.sqrt,
    "rsqrt": lax.rsqrt,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "tan": jnp.tan,
    "sinh": jnp.sinh,
    "cosh": jnp.cosh,
    "tanh": jnp.tanh,
    "arctan": jnp.arctan,
    "arcsinh": jnp.arcsinh,
    "sigmoid": lax.logistic,
    "square": jnp.square,
    "z z̄": lambda z: z * jnp.conj(z),
    "z³": lambda z: z**3,
    "z⁻²": lambda z: lax.integer_pow(z, -2),
    "z^1.5": lambda z: z**1.5,
    "1 / z": lambda z: 1 / z,
    "z / (z + 1)": lambda z: z / (z + 1),
    "sign": jnp.sign,
    "max": jnp.max,
    "sort": jnp.sort,
    "sum": jnp.sum,
    "prod": jnp.prod,
    "mean": jnp.mean,
    "norm": jnp.linalg.norm,
    "where": lambda z: jnp.where(jnp.real(z) > 0, z, 2j * z),
    "vdot": lambda z: jnp.vdot(z, z),
    "fft": jnp.fft.fft,
    "ifft of square": lambda z: jnp.fft.ifft(z * z),
    "cumsum": jnp.cumsum,
    "equal": lambda z: (z == 1 + 0j) * 1.0,
    "polar": lambda z: jnp.abs(z) * jnp.exp(1j * jnp.angle(z)),
    "matrix": lambda z: jnp.outer(z, jnp.conj(z)) @ z,
    "scan": lambda z: lax.scan(lambda c, v: (c * v + 1, jnp.abs(c)), z[0], z)[1],
    "abs² of a sum": lambda z: jnp.abs(jnp.sum(z)) ** 2,
}


def _names(text):
    return {name.strip() for line in text.splitlines() for name in line.split("|")} - {""}


# Without a closed form: evaluated and subtracted, as exact as that is in float32.
COARSE = _names("""
    jnp.cbrt|jnp.arcsin|jnp.arccos|jnp.arcsinh|jnp.arccosh|jnp.arctanh|jnp.i0|jnp.round
    special.erfinv|special.gammaln|special.digamma|special.i0e|special.i1e|special.i1
    betaln|gammainc|gammaincc|zeta|arctan2(x, 2)|arctan2(1, x)|mod 1.5|angle|ldexp|poisson.logpmf
    sqrt of complex|prod|cumprod|cumlogsumexp|solve|inverse|det
    slogdet|cholesky|triangular solve|qr|svd|eigh|reduce|while that moves|cond that moves
    switch that moves|multiply at|apply at|max at|min at|segment_max|interp|callback
    scan counts what moves
    cg|custom_linear_solve|dirichlet|multinomial|cummax|cummin
    cond in a scan|expm|vmap of cond
    vmap of cond over rows|while|complex angle|complex log|complex log1p|complex sqrt|complex rsqrt
    complex sinh|complex cosh|complex tan|complex tanh|complex arctan|complex arcsinh
    complex sigmoid|complex z^1.5|complex sign|complex max|complex polar
    complex prod|complex where
""")
# The function itself subtracts nearly equal numbers, whose digits no difference can bring back.
CANCELLING = _names("""
    special.kl_div|kl_div|rel_entr|where x / x|grad of softplus|grad of sum|logistic.logpdf|entropy
    batch norm|cosine|jacobian|nn.squareplus|covariance|corrcoef|standardize|var|std|layer norm
    jnp.sinc|dirichlet
""")
