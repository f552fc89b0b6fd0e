import gc
import os
import subprocess
import sys
import time
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from tests.conftest import ROOT


def squares(samples):
    return np.sum(samples**2, axis=1, keepdims=True)


def counted(function):
    sizes = []

    def host(samples):
        sizes.append(len(samples))
        return function(samples)

    return host, sizes


def test_answers_and_counts_under_jit_vmap_and_scan():
    host, sizes = counted(squares)
    box = dz.black_box(host, (1,))
    x = jax.random.normal(jax.random.key(0), (3, 5, 4))
    expected = np.sum(np.asarray(x) ** 2, axis=2, keepdims=True)
    np.testing.assert_allclose(jax.jit(jax.vmap(box))(x), expected, rtol=1e-6)
    assert sizes == [15]
    _, out = jax.lax.scan(lambda carry, v: (carry, box(v)), 0, x)
    assert out.shape == (3, 5, 1)
    assert (box.num_samples, box.num_calls) == (30, 4)


def test_the_batch_limit_is_kept():
    host, sizes = counted(squares)
    box = dz.black_box(host, (1,), max_batch=4)
    assert box(jnp.ones((10, 2))).shape == (10, 1)
    assert sizes == [4, 4, 2]


def test_the_box_is_black():
    box = dz.black_box(squares, (1,))
    with pytest.raises(ValueError, match="do not support JVP"):
        jax.grad(lambda x: jnp.sum(box(x)))(jnp.ones((2, 3)))


def test_cge_trains_through_a_box_in_few_calls():
    host, sizes = counted(squares)
    box = dz.black_box(host, (1,))
    fun = lambda w, x: jnp.mean(box(x * w))
    x = jax.random.normal(jax.random.key(0), (8, 3))
    w = jnp.array([1.0, -2.0, 0.5])
    vg = jax.jit(dz.value_and_grad(fun, dz.cge(smoothing=1e-3, batch_size=64)))
    value, grads = vg(w, x)
    exact = 2 * w * jnp.mean(x**2, axis=0)
    np.testing.assert_allclose(grads, exact, rtol=2e-2, atol=2e-3)
    assert float(value) == pytest.approx(float(jnp.mean(jnp.sum((x * w) ** 2, 1))), rel=1e-5)
    assert sizes == [8, 24]


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_differentiating_says_so_in_one_line(transform):
    box = dz.black_box(squares, (1,))
    with pytest.raises(ValueError, match="a black box has no derivative") as caught:
        transform(jax.grad(lambda x: jnp.sum(box(x))))(jnp.ones((2, 3)))
    assert "\n" not in str(caught.value)


def test_trees_integers_and_several_inputs_go_in_and_out():
    def host(x, more):
        assert more["token"].dtype == np.int32
        return {
            "sum": x.sum(1) + more["shift"][:, 0] + more["token"],
            "tokens": (more["token"] + 1, more["token"] > 1),
        }

    output = {
        "sum": (),
        "tokens": (jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), bool)),
    }
    box = dz.black_box(host, output)
    x, tokens = jnp.arange(6.0).reshape(3, 2), jnp.arange(3)
    ask = lambda x, shift: box(x, {"shift": jnp.full((3, 1), shift), "token": tokens})
    answers = jax.jit(ask)(x, 1.0)
    assert answers["sum"].tolist() == [2.0, 7.0, 12.0]
    assert answers["tokens"][0].tolist() == [1, 2, 3]
    assert answers["tokens"][1].dtype == bool
    # One axis of vmap over x, one over the shift: all pairs, in one call.
    pairs = jax.vmap(jax.vmap(ask, (None, 0)), (0, None))(
        jnp.stack([x, 2 * x]), jnp.array([1.0, 10.0, 20.0])
    )
    assert pairs["sum"].shape == (2, 3, 3)
    assert pairs["sum"][1, 2].tolist() == [22.0, 31.0, 40.0]
    assert (box.num_samples, box.num_calls) == (3 + 18, 2)


def test_a_box_of_parameters_answers_with_a_number():
    shapes = []

    def episode(params):
        shapes.append({name: leaf.shape for name, leaf in params.items()})
        return float(np.sum(params["w"] ** 2) + params["b"])

    box = dz.black_box(episode, (), batched=False)
    params = {"w": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}
    value, grads = dz.value_and_grad(box, dz.cge(smoothing=1e-3, batch_size=2))(params)
    assert float(value) == 8.0
    np.testing.assert_allclose(grads["w"], [2, 4], atol=5e-3)
    assert box.num_samples == box.num_calls == dz.num_queries(dz.cge(), params)
    assert all(shape == {"w": (2,), "b": ()} for shape in shapes)
    with pytest.raises(ValueError, match="one sample a call"):
        dz.black_box(episode, (), batched=False, max_batch=2)


def test_inputs_that_do_not_fit_together_are_refused():
    box = dz.black_box(lambda x, y: x, (1,))
    with pytest.raises(ValueError, match=r"same number of samples, got \[2, 3\]"):
        box(jnp.ones((2, 1)), jnp.ones((3, 1)))
    with pytest.raises(ValueError, match="need a first axis of samples"):
        box(jnp.ones(2), 1.0)
    with pytest.raises(TypeError, match="at least one array"):
        box()


def test_a_box_reads_as_the_call_that_made_it():
    box = dz.black_box(squares, (1,), timeout=2.0, budget=1000)
    box(jnp.ones((2, 2)))
    assert repr(box) == (
        "black_box(squares, float32[1], timeout=2.0: 2 of 1,000 samples in 1 calls)"
    )


def test_many_samples_cost_little_more_than_the_host_function():
    box = dz.black_box(lambda x: x[:, :1], (1,))
    ask = jax.jit(box)
    x = jnp.ones((64, 8))
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        ask(x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    assert np.median(seconds) < 1e-3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot choose the cores here")
def test_one_core_answers_under_scan():
    # On one core jaxlib 0.10 waits for ever, unless told otherwise (platform.py).
    program = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import deepzero_jax as dz, jax, numpy as np
box = dz.black_box(lambda x: 0.5 * x, (1024,))
step = jax.jit(lambda x: jax.lax.scan(lambda s, _: (box(2 * s), s.sum()), x, length=4))
for _ in range(10):
    last, sums = step(np.ones((5000, 1024), np.float32))
print(last.sum())
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert float(found.stdout) == 5000 * 1024


def test_a_box_is_freed_with_the_programs_that_ask_it():
    def asked(program_of):
        box = dz.black_box(lambda x: np.sum(x**2, axis=1, keepdims=True), (1,))
        jax.block_until_ready(jax.jit(program_of(box))(jnp.ones((4, 3))))
        return weakref.ref(box)

    slopes = lambda box: jax.grad(lambda x: jnp.sum(dz.differentiable(box, dz.cge())(x)))
    values = lambda box: lambda x: box(x)  # its own function: JAX keeps what it is given
    found = [asked(values), asked(slopes)]
    gc.collect()
    assert [box() for box in found] == [None, None]
