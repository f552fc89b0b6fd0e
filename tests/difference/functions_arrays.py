"""Functions of the oracle of a whole matrix [4, 6]: name -> function."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy import special, stats

# Raw, so that importing this starts no backend.
KEY = np.zeros(2, np.uint32)


def _numbers(*shape):
    return np.sin(1.0 + np.arange(np.prod(shape))).reshape(shape).astype(np.float32)


@jax.custom_vjp
def doubled(x):
    return 2 * x * x


doubled.defvjp(lambda x: (2 * x * x, x), lambda x, g: (g,))


@jax.custom_jvp
def tripled(x):
    return 3 * jnp.sin(x)


tripled.defjvp(lambda primals, tangents: (tripled(primals[0]), tangents[0]))
POSITIVE = lambda x: x @ x.T + 3 * jnp.eye(4)
_SQUARE = lambda x: x[:, :4] + 4 * jnp.eye(4)
_indices = np.array([2, 0, 3, 0], np.int32)
_beyond = np.array([1, 7, -9], np.int32)

ARRAYS = {
    "sum": jnp.sum,
    "sum axis": lambda x: jnp.sum(x, 0),
    "mean": lambda x: jnp.mean(x, 1),
    "var": lambda x: jnp.var(x, 1),
    "std": lambda x: jnp.std(x, 1),
    "max": lambda x: jnp.max(x, 1),
    "min": lambda x: jnp.min(x, 0),
    "max of all": jnp.max,
    "ptp": lambda x: jnp.ptp(x, 1),
    "amax where": lambda x: jnp.max(x, 1, where=x > -1, initial=-jnp.inf),
    "prod": lambda x: jnp.prod(x, 1),
    "cumsum": lambda x: jnp.cumsum(x, 1),
    "cumprod": lambda x: jnp.cumprod(x, 1),
    "cummax": lambda x: lax.cummax(x, 1),
    "cummin": lambda x: lax.cummin(x, 1),
    "cumlogsumexp": lambda x: lax.cumlogsumexp(x, 1),
    "diff": lambda x: jnp.diff(x, axis=1),
    "median": lambda x: jnp.median(x, 1),
    "quantile": lambda x: jnp.quantile(x, 0.3, axis=1),
    "sort": lambda x: jnp.sort(x, 1),
    "argsort": lambda x: jnp.take_along_axis(x, jnp.argsort(x, 1), 1),
    "argmax": lambda x: x * jnp.argmax(x, 1, keepdims=True),
    "top_k": lambda x: lax.top_k(x, 3)[0],
    "any": lambda x: jnp.any(x > 1, 1) * 1.0,
    "count": lambda x: jnp.sum(x > 0, 1),
    "norm": lambda x: jnp.linalg.norm(x, axis=1),
    "norm 1": lambda x: jnp.linalg.norm(x, 1, axis=1),
    "norm inf": lambda x: jnp.linalg.norm(x, jnp.inf, axis=1),
    "normalised": lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True),
    "normalised, guarded": lambda x: jnp.where(jnp.linalg.norm(x) > 0, x / jnp.linalg.norm(x), 0.0),
    "softmax": lambda x: jax.nn.softmax(x, 1),
    "log_softmax": lambda x: jax.nn.log_softmax(x, 1),
    "logsumexp": lambda x: jax.nn.logsumexp(x, 1),
    "softmax masked": lambda x: jax.nn.softmax(jnp.where(jnp.arange(6) < 4, x, -jnp.inf), 1),
    "softmax where": lambda x: jax.nn.softmax(x, 1, where=jnp.arange(6) < 4),
    "logsumexp masked": lambda x: jax.nn.logsumexp(jnp.where(jnp.arange(6) < 4, x, -jnp.inf), 1),
    "logsumexp of log": lambda x: jax.nn.logsumexp(jnp.log(jnp.abs(x)), 1),
    "entropy": lambda x: jnp.sum(special.entr(jax.nn.softmax(x, 1)), 1),
    "cross-entropy": lambda x: -jnp.mean(jax.nn.log_softmax(x, 1)[:, 2]),
    "naive softmax": lambda x: jnp.exp(x) / jnp.sum(jnp.exp(x), 1, keepdims=True),
    "layer norm": lambda x: (
        (x - jnp.mean(x, 1, keepdims=True)) * lax.rsqrt(jnp.var(x, 1, keepdims=True) + 1e-5)
    ),
    "batch norm": lambda x: (x - jnp.mean(x, 0)) / jnp.sqrt(jnp.var(x, 0) + 1e-5),
    "standardize": lambda x: jax.nn.standardize(x, axis=1),
    "glu": lambda x: jax.nn.glu(x, axis=1),
    "one_hot": lambda x: x[:, :3] * jax.nn.one_hot(jnp.array([0, 2, 1, 1]), 3),
    "matrix product": lambda x: x @ _numbers(6, 3),
    "x xᵀ": lambda x: x @ x.T,
    "einsum": lambda x: jnp.einsum("ab,cb,ac->a", x, x, jnp.asarray(_numbers(4, 4))),
    "batched product": lambda x: jnp.einsum("ab,abc->ac", x, _numbers(4, 6, 2)),
    "tensordot": lambda x: jnp.tensordot(x, _numbers(4, 6)),
    "outer": lambda x: jnp.outer(x[0], x[1]),
    "kron": lambda x: jnp.kron(x[:2, :2], x[2:, :2]),
    "vdot": lambda x: jnp.vdot(x, x),
    "attention": lambda x: jax.nn.softmax(x @ x.T, -1) @ x,
    "causal attention": lambda x: (
        jax.nn.softmax(jnp.where(np.tri(4, dtype=bool), x @ x.T, -jnp.inf), -1) @ x
    ),
    "mlp": lambda x: jax.nn.relu(x @ _numbers(6, 8)) @ _numbers(8, 2),
    "mlp of tanh": lambda x: jnp.tanh(x @ _numbers(6, 8)) @ _numbers(8, 2),
    "gated": lambda x: jax.nn.sigmoid(x @ _numbers(6, 4)) * (x @ _numbers(6, 4)),
    "solve": lambda x: jnp.linalg.solve(_SQUARE(x), jnp.ones(4)),
    "inverse": lambda x: jnp.linalg.inv(_SQUARE(x)),
    "det": lambda x: jnp.linalg.det(_SQUARE(x)),
    "slogdet": lambda x: jnp.linalg.slogdet(_SQUARE(x))[1],
    "cholesky": lambda x: jnp.linalg.cholesky(POSITIVE(x)),
    "triangular solve": lambda x: jax.scipy.linalg.solve_triangular(_SQUARE(x), x[:, 0]),
    "qr": lambda x: jnp.abs(jnp.linalg.qr(_SQUARE(x))[1]),
    "svd": lambda x: jnp.linalg.svd(x, compute_uv=False),
    "eigh": lambda x: jnp.linalg.eigvalsh(POSITIVE(x)),
    "expm": lambda x: jax.scipy.linalg.expm(0.3 * x[:, :4]),
    "trace": lambda x: jnp.trace(x),
    "matrix power": lambda x: jnp.linalg.matrix_power(x[:, :4], 3),
    "fft": lambda x: jnp.abs(jnp.fft.fft(x)),
    "rfft": lambda x: jnp.abs(jnp.fft.rfft(x)),
    "rfft power": lambda x: jnp.abs(jnp.fft.rfft(x)) ** 2,
    "irfft": lambda x: jnp.fft.irfft(jnp.fft.rfft(x) * jnp.exp(-jnp.arange(4.0))),
    "fft2": lambda x: jnp.real(jnp.fft.fft2(x)),
    "fft shifted": lambda x: jnp.imag(jnp.fft.fftshift(jnp.fft.fft(x))),
    "convolve": lambda x: jnp.convolve(x[0], x[1, :3]),
    "convolve 2d": lambda x: jax.scipy.signal.convolve2d(x, x[:2, :2]),
    "conv": lambda x: lax.conv_general_dilated(
        x.reshape(1, 4, 6, 1),
        jnp.asarray(_numbers(3, 3, 1, 2), x.dtype),
        (1, 1),
        "SAME",
        None,
        None,
        ("NHWC", "HWIO", "NHWC"),
    ),
    "max-pool": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (2, 2), "VALID"),
    "max-pool same": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (3, 3), (1, 1), "SAME"),
    "min-pool": lambda x: lax.reduce_window(x, jnp.inf, lax.min, (2, 2), (2, 2), "VALID"),
    "mean-pool": lambda x: lax.reduce_window(x, 0.0, lax.add, (2, 2), (2, 2), "VALID") / 4,
    "reduce": lambda x: lax.reduce(x, -jnp.inf, jnp.logaddexp, (1,)),
    "reshape": lambda x: x.reshape(3, 8),
    "transpose": lambda x: x.T,
    "slice": lambda x: x[1:, ::2],
    "reverse": lambda x: x[::-1],
    "roll": lambda x: jnp.roll(x, 2, 1),
    "pad": lambda x: jnp.pad(x, 1),
    "pad edge": lambda x: jnp.pad(x, 1, mode="edge"),
    "pad with itself": lambda x: lax.pad(x, x[0, 0], ((1, 1, 0), (0, 0, 1))),
    "pad less": lambda x: lax.pad(x, 0.0, ((-1, 0, 0), (0, 2, 0))),
    "concatenate": lambda x: jnp.concatenate([x, 2 * x, jnp.ones((4, 1))], 1),
    "stack": lambda x: jnp.stack([x, x * x]),
    "split": lambda x: jnp.split(x, 3, 1),
    "unstack": lambda x: jnp.unstack(x)[2],
    "tile": lambda x: jnp.tile(x, (2, 1)),
    "repeat": lambda x: jnp.repeat(x, 2, 1),
    "broadcast": lambda x: jnp.broadcast_to(x[:, None], (4, 2, 6)) * 2,
    "tril": lambda x: jnp.tril(x),
    "diag": lambda x: jnp.diag(x[0]),
    "rot90": jnp.rot90,
    "moveaxis": lambda x: jnp.moveaxis(x, 0, 1),
    "meshgrid": lambda x: jnp.meshgrid(x[0], x[1])[0],
    "take": lambda x: jnp.take(x, _indices, 0),
    "take beyond": lambda x: jnp.take(x, _beyond, 0),
    "take clip": lambda x: jnp.take(x, _beyond, 0, mode="clip"),
    "take wrap": lambda x: jnp.take(x, _beyond, 0, mode="wrap"),
    "take fill": lambda x: jnp.take(x, _beyond, 0, mode="fill", fill_value=3.0),
    "gather where it points": lambda x: x[
        jnp.arange(4), jnp.clip(jnp.nan_to_num(x[:, 0]), 0, 3).astype(int)
    ],
    "dynamic slice": lambda x: lax.dynamic_slice(x, (1, 2), (2, 3)),
    "dynamic index moves": lambda x: lax.dynamic_index_in_dim(x, jnp.argmax(x[0]), 1),
    "update slice": lambda x: lax.dynamic_update_slice(x, x[:2, :2] * 3, (1, 1)),
    "set": lambda x: x.at[_indices[:2]].set(x[:2] * 2),
    "set a number": lambda x: x.at[1].set(7.0),
    "add at": lambda x: x.at[_indices].add(x * x),
    "subtract at": lambda x: x.at[_indices].subtract(x),
    "multiply at": lambda x: x.at[_indices[:3]].multiply(x[:3]),
    "max at": lambda x: x.at[_indices].max(x),
    "min at": lambda x: x.at[_indices].min(x),
    "apply at": lambda x: x.at[_indices[:2]].apply(jnp.exp),
    "set drop": lambda x: x.at[_beyond].set(1.0, mode="drop"),
    "add clip": lambda x: x.at[_beyond].add(x[:3], mode="clip"),
    "segment_sum": lambda x: jax.ops.segment_sum(x, _indices, 4),
    "segment_max": lambda x: jax.ops.segment_max(x, _indices, 4),
    "searchsorted": lambda x: jnp.searchsorted(jnp.array([-1.0, 0.0, 1.0]), x) * 1.0,
    "histogram": lambda x: jnp.histogram(jnp.nan_to_num(x), bins=4, range=(-2, 2))[0],
    "interp": lambda x: jnp.interp(x, jnp.array([-1.0, 0.0, 2.0]), jnp.array([0.0, 1.0, -1.0])),
    "scan": lambda x: lax.scan(lambda c, v: (jnp.tanh(c + v), c * v), x[0], x)[1],
    "scan backwards": lambda x: lax.scan(lambda c, v: (c * v, c), x[0], x, reverse=True)[0],
    "scan counts": lambda x: lax.scan(lambda c, v: ((c[0] + 1, c[1] + v), c[0]), (0, x[0]), x)[0],
    "scan counts what moves": lambda x: lax.scan(lambda c, v: (c + jnp.sum(v > 0), v * c), 0, x)[1],
    "scan of logs": lambda x: lax.scan(
        lambda c, v: (jnp.where(v > 0, jnp.log(v), c), jnp.exp(jnp.log(v))), x[0], x
    ),
    "scan in a scan": lambda x: lax.scan(
        lambda c, v: (lax.scan(lambda a, b: (a + b * c, a), 0.0, v)[0], c), 1.0, x
    )[1],
    "scan of nothing": lambda x: lax.scan(lambda c, v: (c + v, c), x[0], x[:0])[0],
    "gru": lambda x: lax.scan(
        lambda h, v: ((1 - jax.nn.sigmoid(h + v)) * h + jax.nn.sigmoid(h + v) * jnp.tanh(v), h),
        jnp.zeros(6),
        x,
    )[1],
    "associative_scan": lambda x: lax.associative_scan(jnp.add, x),
    "lax.map": lambda x: lax.map(lambda v: jnp.sum(v) * v, x),
    "while that moves": lambda x: lax.while_loop(
        lambda v: jnp.sum(jnp.nan_to_num(v, posinf=1e9, neginf=1e9)) < 30.0,
        lambda v: v * 1.5 + 1.0,
        x,
    ),
    "cond that moves": lambda x: lax.cond(x[0, 0] > 0, jnp.exp, jnp.sin, x),
    "cond of logs": lambda x: lax.cond(
        True, lambda v: jnp.where(v > 0, jnp.log(v), 0.0), jnp.sin, x
    ),
    "cond in a scan": lambda x: lax.scan(
        lambda c, v: (lax.cond(c < 2, lambda u: u + 1, lambda u: u, c), v * c), 0, x
    )[1],
    "switch that moves": lambda x: lax.switch(
        jnp.argmax(x[0, :3]), [jnp.sin, jnp.cos, jnp.tanh], x
    ),
    "newton": lambda x: lax.fori_loop(0, 4, lambda i, y: (y + (x * x + 1) / y) / 2, 1 + x * x),
    "runge-kutta": lambda x: lax.fori_loop(
        0, 3, lambda i, y: y + 0.1 * jnp.sin(y + 0.05 * jnp.sin(y)), x
    ),
    "burgers": lambda x: lax.fori_loop(
        0, 3, lambda i, u: u - 0.01 * u * (jnp.roll(u, -1, 1) - jnp.roll(u, 1, 1)), x
    ),
    "custom_linear_solve": lambda x: lax.custom_linear_solve(
        lambda v: 2 * v, x, lambda mv, b: b / 2, symmetric=True
    ),
    "cg": lambda x: jax.scipy.sparse.linalg.cg(lambda v: 3 * v, x[0], maxiter=3)[0],
    "custom_vjp": doubled,
    "custom_jvp": tripled,
    "normal": lambda x: x + jax.random.normal(KEY, x.shape, x.dtype),
    "uniform": lambda x: x * jax.random.uniform(KEY, x.shape, jnp.float32),
    "dropout": lambda x: jnp.where(
        jax.random.uniform(KEY, x.shape, jnp.float32) < 0.5, x / 0.5, 0.0
    ),
    "categorical": lambda x: jax.random.categorical(KEY, jnp.float32(x)) * 1.0,
    "gumbel softmax": lambda x: jax.nn.softmax(x + jax.random.gumbel(KEY, x.shape, jnp.float32)),
    "permutation": lambda x: jax.random.permutation(KEY, x),
    "bernoulli of x": lambda x: jnp.sum(
        jax.random.uniform(KEY, x.shape, jnp.float32) < jax.nn.sigmoid(x)
    ),
    "grad": jax.grad(lambda x: jnp.sum(jnp.sin(x @ x.T))),
    "grad of softmax": jax.grad(lambda x: jnp.sum(jax.nn.softmax(x) ** 2)),
    "grad of max": jax.grad(lambda x: jnp.sum(jnp.max(x, 1) ** 2)),
    "hessian": lambda x: jax.hessian(lambda v: jnp.sum(v**3) * v[0])(x[0]),
    "jacobian": lambda x: jax.jacfwd(jnp.tanh)(x[0]),
    "grad of a scan": jax.grad(lambda x: lax.scan(lambda c, v: (c * jnp.sum(v), c), 1.0, x)[0]),
    "linearize": lambda x: jax.linearize(jnp.sin, x)[1](x),
    "vmap of vmap": jax.vmap(jax.vmap(lambda v: jnp.exp(v) * v)),
    "vmap of sort": jax.vmap(jnp.sort),
    "vmap of scan": jax.vmap(lambda v: lax.scan(lambda c, u: (c + u, c * u), 0.0, v)[1]),
    "vmap of while": jax.vmap(
        lambda v: lax.fori_loop(0, 3, lambda i, c: c + jnp.sin(v), jnp.zeros_like(v))
    ),
    "vmap of cond over rows": jax.vmap(lambda v: lax.cond(v[0] > 0, jnp.sin, jnp.cos, v)),
    "jit in jit": jax.jit(lambda x: jax.jit(jnp.tanh)(x) @ x.T),
    "remat of a scan": jax.checkpoint(
        lambda x: lax.scan(lambda c, v: (jnp.sin(c + v), c), x[0], x)[0]
    ),
    "callback": lambda x: jax.pure_callback(
        np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="expand_dims"
    ),
    "covariance": lambda x: jnp.cov(x),
    "corrcoef": lambda x: jnp.corrcoef(x),
    "cross": lambda x: jnp.cross(x[:, :3], x[:, 3:]),
    "distances": lambda x: jnp.sum((x[:, None] - x[None]) ** 2, -1),
    "euclidean": lambda x: jnp.sqrt(jnp.sum((x[:, None] - x[None]) ** 2, -1)),
    "cosine": lambda x: x[0] @ x[1] / (jnp.linalg.norm(x[0]) * jnp.linalg.norm(x[1]) + 1e-6),
    "trapezoid": lambda x: jnp.trapezoid(x, axis=1),
    "gradient": lambda x: jnp.gradient(x, axis=1),
    "multinomial": lambda x: stats.multivariate_normal.logpdf(x[0], jnp.zeros(6), jnp.eye(6)),
    "dirichlet": lambda x: jnp.sum(special.gammaln(jnp.abs(x) + 1), 1),
    "masked mean": lambda x: jnp.sum(jnp.where(x > 0, x, 0)) / jnp.sum(x > 0),
    "safe mean": lambda x: jnp.where(
        jnp.any(x > 3), jnp.sum(jnp.where(x > 3, x, 0)) / jnp.sum(x > 3), 0.0
    ),
    "tree": lambda x: {"a": x * x, "b": (jnp.sum(x), x > 0)},
    "bilinear": lambda x: (x[:, :3] @ x[:3, :]) * x,
    "power iteration": lambda x: lax.fori_loop(
        0, 3, lambda i, v: (v @ x.T @ x) / (1 + jnp.abs(v).sum()), jnp.ones(6)
    ),
    "sinkhorn": lambda x: lax.fori_loop(
        0, 2, lambda i, u: u - jax.nn.logsumexp(u, 1, keepdims=True), x
    ),
    "resize": lambda x: jax.image.resize(x, (8, 3), "linear"),
    "map_coordinates": lambda x: jax.scipy.ndimage.map_coordinates(
        x, [jnp.array([0.5, 1.2]), jnp.array([2.3, 0.1])], order=1
    ),
}
