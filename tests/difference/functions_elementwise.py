"""Functions of the oracle that work element by element: name -> function of one array."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy import special, stats


def _names(text):
    return {name.strip() for line in text.splitlines() for name in line.split("|")} - {""}


UNARY = {
    f"jnp.{name}": getattr(jnp, name)
    for name in sorted(
        _names("""
    abs|negative|square|exp|exp2|expm1|log|log2|log10|log1p|sqrt|cbrt|reciprocal|sin|cos|tan
    sinh|cosh|tanh|arcsin|arccos|arctan|arcsinh|arccosh|arctanh|floor|ceil|round|trunc|sign
    sinc|i0|nan_to_num|positive|fabs|deg2rad|rad2deg|signbit|isfinite|isnan|real|imag|conj
""")
    )
}
ACTIVATIONS = {
    f"nn.{name}": getattr(jax.nn, name)
    for name in sorted(
        _names("""
    relu|relu6|sigmoid|softplus|soft_sign|silu|log_sigmoid|leaky_relu|hard_sigmoid|hard_silu
    hard_tanh|elu|celu|selu|gelu|sparse_plus|sparse_sigmoid|mish|squareplus
""")
    )
}
SPECIAL = {
    f"special.{name}": getattr(special, name)
    for name in sorted(
        _names("""
    erf|erfc|erfinv|gammaln|digamma|i0e|i1e|i1|ndtr|log_ndtr|logit|expit|entr
""")
    )
}
ELEMENTWISE = {
    **UNARY,
    **ACTIVATIONS,
    **SPECIAL,
    "gelu exact": functools.partial(jax.nn.gelu, approximate=False),
    "rsqrt": lax.rsqrt,
    "logistic": lax.logistic,
    "lax.erf": lax.erf,
    "lax.erfc": lax.erfc,
    "x + 1": lambda x: x + 1,
    "1 - x": lambda x: 1 - x,
    "3 x": lambda x: 3 * x,
    "x / 3": lambda x: x / 3,
    "1 / x": lambda x: 1 / x,
    "x / x²+1": lambda x: x / (x * x + 1),
    "x / (1 + |x|)": lambda x: x / (1 + jnp.abs(x)),
    "(x + 1) / (x - 1)": lambda x: (x + 1) / (x - 1),
    "x exp(-x)": lambda x: x * jnp.exp(-x),
    "exp(-x²)": lambda x: jnp.exp(-x * x),
    "1 / (1 + exp(-x))": lambda x: 1 / (1 + jnp.exp(-x)),
    "exp(log x)": lambda x: jnp.exp(jnp.log(x)),
    "exp(-1 / x²)": lambda x: jnp.exp(-1 / (x * x)),
    "log(1 + exp x)": lambda x: jnp.log(1 + jnp.exp(x)),
    "tanh(1 / x)": lambda x: jnp.tanh(1 / x),
    "atan(1 / x)": lambda x: jnp.arctan(1 / x),
    "sqrt(x²)": lambda x: jnp.sqrt(x * x),
    "sin²": lambda x: jnp.sin(x) ** 2,
    "x⁰": lambda x: lax.integer_pow(x, 0),
    "x³": lambda x: x**3,
    "x⁷": lambda x: x**7,
    "x⁻¹": lambda x: lax.integer_pow(x, -1),
    "x⁻³": lambda x: lax.integer_pow(x, -3),
    "x^1.7": lambda x: x**1.7,
    "x^-0.5": lambda x: x**-0.5,
    "2^x": lambda x: 2.0**x,
    "x^x": lambda x: x**x,
    "x^2.0": lambda x: jnp.power(x, 2.0),
    "max(x, 1/4)": lambda x: jnp.maximum(x, 0.25),
    "min(x, -1)": lambda x: jnp.minimum(x, -1),
    "max(x, -inf)": lambda x: jnp.maximum(x, -jnp.inf),
    "min(x, inf)": lambda x: jnp.minimum(jnp.inf, x),
    "max(x, inf)": lambda x: jnp.maximum(x, jnp.inf),
    "max(x, -x)": lambda x: jnp.maximum(x, -x),
    "max(log x, -5)": lambda x: jnp.maximum(jnp.log(x), -5),
    "min(1 / x, 10)": lambda x: jnp.minimum(1 / x, 10),
    "min(relu x, 6)": lambda x: jnp.tanh(jnp.maximum(x, 0)),
    "clip": lambda x: jnp.clip(x, -1, 2),
    "clip above": lambda x: jnp.clip(x, None, 0.5),
    "lax.clamp": lambda x: lax.clamp(-1.0, x, x * x),
    "where x > 1": lambda x: jnp.where(x > 1, x * x, -x),
    "where x >= 1": lambda x: jnp.where(x >= 1, 2.0, x),
    "where x == 0": lambda x: jnp.where(x == 0, 5.0, x),
    "where x != 1": lambda x: jnp.where(x != 1, 5.0, x),
    "where log": lambda x: jnp.where(x > 0, jnp.log(x), 0.0),
    "where sqrt": lambda x: jnp.where(x >= 0, jnp.sqrt(x), 0.0),
    "where 1 / x": lambda x: jnp.where(x == 0, 0.0, 1 / x),
    "where x / x": lambda x: jnp.where(x == 0, 1.0, jnp.sin(x) / x),
    "guarded log": lambda x: jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1.0)), 0.0),
    "heaviside": lambda x: jnp.heaviside(x, 0.5),
    "select three": lambda x: jnp.select([x < -1, x < 1], [x, x * x], jnp.exp(-x)),
    "piecewise": lambda x: jnp.piecewise(x, [x < 0, x >= 0], [jnp.abs, jnp.sin]),
    "nan_to_num(x / 0)": lambda x: jnp.nan_to_num(x / 0.0, posinf=1.0, neginf=-1.0, nan=0.5),
    "nan_to_num(log x)": lambda x: jnp.nan_to_num(jnp.log(x), nan=7.0, neginf=-9.0),
    "integers": lambda x: (x > 0).astype(jnp.int32) * x,
    "floor to integer": lambda x: jnp.floor(jnp.clip(x, -50, 50)).astype(jnp.int32) * 0.5,
    "fraction": lambda x: x - jnp.floor(x),
    "mod 1.5": lambda x: jnp.mod(x, 1.5),
    "xlogy(x, x)": lambda x: special.xlogy(x, x),
    "xlog1py(x, x)": lambda x: special.xlog1py(x, x),
    "x log x": lambda x: x * jnp.log(x),
    "kl_div": lambda x: special.kl_div(x, 0.3),
    "rel_entr": lambda x: special.rel_entr(x, 0.3),
    "betaln": lambda x: special.betaln(x, 2.0),
    "gammainc": lambda x: special.gammainc(2.0, x),
    "gammaincc": lambda x: special.gammaincc(2.0, x),
    "zeta": lambda x: special.zeta(x, 2.0),
    "logaddexp": lambda x: jnp.logaddexp(x, 0.7),
    "logaddexp(x, 2x)": lambda x: jnp.logaddexp(x, 2 * x),
    "logaddexp2": lambda x: jnp.logaddexp2(x, 0.7),
    "hypot": lambda x: jnp.hypot(x, 2.0),
    "arctan2(x, 2)": lambda x: jnp.arctan2(x, 2.0),
    "arctan2(1, x)": lambda x: jnp.arctan2(1.0, x),
    "copysign": lambda x: jnp.copysign(2.0, x),
    "ldexp": lambda x: jnp.ldexp(x, 3),
    "norm.logpdf": stats.norm.logpdf,
    "norm.cdf": stats.norm.cdf,
    "logistic.logpdf": stats.logistic.logpdf,
    "laplace.logpdf": stats.laplace.logpdf,
    "cauchy.logpdf": stats.cauchy.logpdf,
    "expon.logpdf": stats.expon.logpdf,
    "poisson.logpmf": lambda x: stats.poisson.logpmf(3, x),
    "bernoulli": lambda x: x * jnp.log(0.3) + (1 - x) * jnp.log(0.7),
    "huber": lambda x: jnp.where(jnp.abs(x) < 1, 0.5 * x * x, jnp.abs(x) - 0.5),
    "smooth hinge": lambda x: jnp.square(jnp.maximum(1 - x, 0)),
    "log cosh": lambda x: jnp.log(jnp.cosh(x)),
    "sigmoid cross-entropy": lambda x: jnp.maximum(x, 0) - 0.3 * x + jnp.log1p(jnp.exp(-abs(x))),
    "swish twice": lambda x: jax.nn.silu(jax.nn.silu(x)),
    "softplus of softplus": lambda x: jax.nn.softplus(jax.nn.softplus(x) - 3),
    "barrier": lambda x: sum(lax.optimization_barrier((x, jnp.sin(x), 3.0))),
    "barrier of integers": lambda x: lax.optimization_barrier(((x > 0).astype(int), x))[0] * x,
    "stop_gradient": lambda x: lax.stop_gradient(x) * x,
    "reduce_precision": lambda x: jnp.sin(lax.reduce_precision(x, 11, 52)),
    "to complex": lambda x: jnp.abs(lax.complex(x, 2 * x)),
    "exp(ix)": lambda x: jnp.real(jnp.exp(1j * x)),
    "|1 + ix|": lambda x: jnp.abs(1 + 1j * x),
    "angle": lambda x: jnp.angle(1 + 1j * x),
    "sqrt of complex": lambda x: jnp.imag(jnp.sqrt(x + 0j)),
    "poly": lambda x: jnp.polyval(jnp.array([1.0, -2.0, 0.5]), x),
    "jit": jax.jit(lambda x: jnp.exp(jnp.sin(x))),
    "remat": jax.checkpoint(lambda x: jnp.exp(jnp.sin(x))),
    "grad of sum": jax.grad(lambda x: jnp.sum(jnp.tanh(x) ** 3)),
    "grad of softplus": jax.grad(lambda x: jnp.sum(jax.nn.softplus(x))),
    "jvp": lambda x: jax.jvp(jnp.sin, (x,), (x * x,))[1],
    "vmap": jax.vmap(lambda x: jnp.tanh(x) + x),
    "second derivative": jax.vmap(jax.grad(jax.grad(lambda x: x**3 * jnp.sin(x)))),
    "vmap of cond": jax.vmap(lambda x: lax.cond(x > 0, jnp.sin, jnp.cos, x)),
    "fori": lambda x: lax.fori_loop(0, 3, lambda i, v: jnp.sin(v) + 0.1 * v * i, x),
    "fori of log": lambda x: lax.fori_loop(0, 2, lambda i, v: jnp.where(v > 0, jnp.log(v), 2.0), x),
    "scan of tanh": lambda x: lax.scan(lambda c, k: (jnp.tanh(c * k), c), x, jnp.arange(3.0))[1],
    "cond": lambda x: lax.cond(True, jnp.exp, jnp.sin, x),
    "switch": lambda x: lax.switch(1, [jnp.sin, lambda v: jnp.exp(jnp.log(v)), jnp.cos], x),
    "while": lambda x: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * 0.5), (0, x))[
        1
    ],
}
