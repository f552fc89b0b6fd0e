"""What a box does when its host function fails, hangs or answers nonsense."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.blackbox import BlackBoxError, RetryLaterError
from tests.blackbox.test_box import counted, squares


def test_failures_are_tried_again_and_counted():
    failures = iter([RuntimeError("busy"), np.full((1, 1), np.nan)])

    def host(samples):
        failure = next(failures, None)
        if isinstance(failure, Exception):
            raise failure
        return squares(samples) if failure is None else failure

    box = dz.black_box(host, (1,), retries=3, backoff=0.01)
    assert box(jnp.ones((2, 3))).tolist() == [[3.0], [3.0]]
    # Both; the first alone, not finite; the second; the first again.
    assert (box.num_samples, box.num_answered, box.num_failed, box.num_calls) == (5, 2, 3, 4)


@pytest.mark.parametrize("fail", ["raise", "nan"])
@pytest.mark.parametrize("seed", range(5))
def test_a_sample_is_retried_and_not_a_batch(fail, seed):
    rng = np.random.default_rng(seed)

    def host(samples):
        failed = rng.random(len(samples)) < 0.02
        if fail == "raise" and failed.any():
            raise ConnectionError(f"{failed.sum()} samples failed")
        return np.where(failed[:, None], np.nan, squares(samples))

    box = dz.black_box(host, (1,), backoff=0.0, retries=4)
    x = jax.random.normal(jax.random.key(seed), (201, 3))
    np.testing.assert_allclose(box(x), squares(np.asarray(x)), rtol=1e-6)
    assert box.num_answered == 201
    assert box.num_samples <= 201 * (1.1 if fail == "nan" else 3)


def test_a_refused_call_is_sent_again_whole():
    sizes = []

    def host(samples):
        sizes.append(len(samples))
        if len(sizes) in (2, 4):
            raise RetryLaterError("too many requests", 0.01)
        return squares(samples)

    box = dz.black_box(host, (1,), backoff=0.0, max_batch=8)
    assert (box(jnp.ones((24, 3))) == 3).all()
    assert sizes == [8] * 5
    assert (box.num_samples, box.num_answered, box.num_calls) == (40, 24, 5)


@pytest.mark.parametrize("retries", [0, 2])
def test_a_call_that_is_always_refused_ends(retries):
    def host(samples):
        raise RetryLaterError("too many requests")

    for on_failure in ("raise", "nan"):
        box = dz.black_box(host, (1,), backoff=0.0, retries=retries, on_failure=on_failure)
        if on_failure == "nan":
            assert jnp.isnan(box(jnp.ones((24, 3)))).all()
        else:
            with pytest.raises(BlackBoxError, match="RetryLaterError: too many requests"):
                box(jnp.ones((24, 3)))
        assert (box.num_calls, box.num_samples) == (1 + retries, 24 * (1 + retries))


def test_a_sample_that_always_fails_is_named_or_dropped():
    def host(samples):
        if (samples[:, 0] > 99).any():
            raise FloatingPointError("diverged")
        return squares(samples)

    x = jnp.arange(100.0)[:, None] + 1.0
    box = dz.black_box(host, (1,), backoff=0.0)
    with pytest.raises(BlackBoxError, match=r"with 1 sample, failed .* FloatingPointError: diverg"):
        box(x)
    box = dz.black_box(host, (1,), backoff=0.0, on_failure="nan")
    answers = box(x)
    assert jnp.isnan(answers).sum() == 1
    assert jnp.isnan(answers[-1, 0])
    assert (box.num_answered, box.num_dropped) == (99, 1)
    assert box.num_failed == box.num_samples - 99


def test_no_retries_are_no_further_calls():
    host, sizes = counted(lambda samples: 1 / 0)
    box = dz.black_box(host, (1,), retries=0, max_batch=4)
    with pytest.raises(
        BlackBoxError, match="call 1 of the black box, with 4 samples, failed: Zero"
    ):
        box(jnp.ones((10, 2)))
    assert sizes == [4]
    box = dz.black_box(host, (1,), retries=0, max_batch=4, on_failure="nan")
    assert jnp.isnan(box(jnp.ones((10, 2)))).all()
    assert box.num_dropped == 10


@pytest.mark.parametrize(
    ("answer", "dtype", "words"),
    [
        (lambda x: np.zeros(len(x)), "float32", r"must have shape \(2, 1\), got \(2,\)"),
        (lambda x: np.full((len(x), 1), 1e300), "float32", "2 of 2 answers are not finite"),
        (lambda x: np.full((len(x), 1), np.inf), "float32", "2 of 2 answers are not finite"),
        (lambda x: np.ones((len(x), 1), complex), "float32", "real numbers, got dtype complex128"),
        (lambda x: np.full((len(x), 1), "a"), "float32", "real numbers, got dtype <U1"),
        (lambda x: [[1.0], [1.0, 2.0]], "float32", "an array of numbers"),
        (lambda x: None, "float32", "real numbers, got dtype object"),
        (lambda x: np.full((len(x), 1), 2.5), "int32", "whole numbers for dtype int32"),
        (lambda x: np.full((len(x), 1), 3e9), "int32", "in the range of int32"),
        (lambda x: np.full((len(x), 1), 300), "uint8", "in the range of uint8"),
        (lambda x: np.full((len(x), 1), np.nan), "int32", "2 of 2 answers are not finite"),
    ],
)
def test_answers_are_checked_after_conversion(answer, dtype, words):
    box = dz.black_box(answer, (1,), dtype=dtype, retries=0)
    with pytest.raises(BlackBoxError, match=words):
        box(jnp.ones((2, 3)))
    assert (box.num_samples, box.num_answered) == (2, 0)


def test_answers_of_another_structure_are_refused():
    box = dz.black_box(lambda x: {"z": x}, {"y": (3,)})
    with pytest.raises(BlackBoxError, match=r"must have the structure .*'y'"):
        box(jnp.ones((2, 3)))
    assert box.num_calls == 1  # another attempt would not mend it


def test_errors_are_short_also_from_inside_jit():
    box = dz.black_box(lambda x: 1 / 0, (1,), retries=0)
    for ask in (box, jax.jit(box), jax.jit(lambda x: jax.lax.map(box, x[None]))):
        with pytest.raises(BlackBoxError) as caught, dz.blackbox.box_errors():
            jax.block_until_ready(ask(jnp.ones((2, 3))))
        assert "with 2 samples, failed: ZeroDivisionError: division by zero" in str(caught.value)
        assert "\n" not in str(caught.value)
    vg = dz.value_and_grad(lambda w: jnp.sum(box(w[None])), dz.cge())
    with pytest.raises(BlackBoxError, match="ZeroDivisionError"):
        vg(jnp.ones(3))
    with pytest.raises(ZeroDivisionError), dz.blackbox.box_errors():
        raise ZeroDivisionError


def test_the_budget_is_samples_sent_failed_attempts_included():
    failing = [True]

    def host(samples):
        if failing and failing.pop():
            raise RuntimeError("busy")
        return squares(samples)

    box = dz.black_box(host, (1,), budget=8, backoff=0.0)
    box(jnp.ones((3, 2)))
    assert box.num_samples == 6
    with pytest.raises(BlackBoxError, match="budget of 8 samples does not hold 3 more after 6"):
        box(jnp.ones((3, 2)))
    assert (box.num_samples, box.num_calls) == (6, 4)
    box.budget = 9
    box(jnp.ones((3, 2)))
    assert box.num_samples == 9


def test_a_call_that_the_budget_does_not_hold_sends_nothing():
    host, sizes = counted(squares)
    box = dz.black_box(host, (1,), max_batch=2, budget=5)
    with pytest.raises(BlackBoxError, match="does not hold 6 more after 0"):
        box(jnp.ones((6, 2)))
    assert sizes == []


def test_counts_are_kept_and_restored():
    box, other = dz.black_box(squares, (1,), budget=9), dz.black_box(squares, (1,), budget=9)
    box(jnp.ones((3, 2)))
    other.restore(box.counts())
    assert other.counts() == box.counts()
    with pytest.raises(BlackBoxError, match="does not hold 7 more after 3"):
        other(jnp.ones((7, 2)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_batch": 0}, "max_batch must be an integer of at least 1, got 0"),
        ({"max_batch": 2.5}, "max_batch must be an integer"),
        ({"max_batch": True}, "max_batch must be an integer"),
        ({"retries": -1}, "retries must be an integer of at least 0, got -1"),
        ({"retries": 1.0}, "retries must be an integer"),
        ({"retries": None}, "retries must be an integer"),
        ({"timeout": 0}, "timeout must be a finite number of seconds above 0, got 0"),
        ({"timeout": -1}, "timeout must be"),
        ({"timeout": np.nan}, "timeout must be"),
        ({"timeout": np.inf}, "timeout must be"),
        ({"timeout": True}, "timeout must be"),
        ({"timeout": "1"}, "timeout must be"),
        ({"backoff": np.nan}, "backoff must be"),
        ({"backoff": -0.1}, "backoff must be"),
        ({"backoff": None}, "backoff must be"),
        ({"budget": 0}, "budget must be an integer of at least 1"),
        ({"budget": 1e6}, "budget must be an integer"),
        ({"budget": np.nan}, "budget must be an integer"),
        ({"on_failure": "skip"}, "on_failure must be 'raise' or 'nan', got 'skip'"),
        ({"on_failure": "nan", "dtype": "int32"}, "needs floating-point answers"),
        ({"thread_safe": 1}, "thread_safe must be True or False"),
        ({"batched": 0}, "batched must be True or False"),
        ({"workers": 0}, "workers must be an integer of at least 1"),
        ({"workers": True}, "workers must be an integer"),
        ({"workers": 2.0}, "workers must be an integer"),
        ({"workers": "4"}, "workers must be a number of threads"),
        ({"workers": 2, "thread_safe": False}, "in several threads at once"),
        ({"dtype": "complex64"}, "dtype must be real"),
        ({"dtype": ("float32", "float64")}, "dtype must be one type.*ShapeDtypeStruct"),
        ({"dtype": None}, "dtype must be one type"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises((ValueError, TypeError), match=words):
        dz.black_box(squares, (1,), **options)


@pytest.mark.parametrize("output", [3, "float32", {"a": None, "b": 2}])
def test_a_bad_output_is_refused(output):
    with pytest.raises(TypeError, match="output must be a shape"):
        dz.black_box(squares, output)


class Unreadable:
    def __array__(self, *args, **kwargs):
        raise TypeError("on another device")


@pytest.mark.parametrize("options", [{}, {"workers": 1}, {"workers": map}, {"on_failure": "nan"}])
@pytest.mark.parametrize("answer", [Unreadable(), {1: 2.0, "a": 3.0}])
def test_answers_that_cannot_be_read_are_asked_for_once(answer, options):
    box = dz.black_box(lambda x: answer, (1,), backoff=0.0, **options)
    with pytest.raises(BlackBoxError, match="answers must be"):
        box(jnp.ones((64, 1)))
    assert box.num_calls == 1


@pytest.mark.parametrize(
    "options", [{}, {"workers": map}, {"workers": 1}, {"timeout": 10}, {"workers": 2}]
)
def test_a_host_function_may_answer_in_the_same_array_again(options):
    if options == {"workers": 2}:
        rooms = threading.local()
        room = lambda: vars(rooms).setdefault("sums", np.zeros((4, 1)))
    else:
        sums = np.zeros((4, 1))
        room = lambda: sums
    host = lambda x: np.sum(x, axis=1, keepdims=True, out=room())
    for _ in range(5):
        answers = dz.black_box(host, (1,), max_batch=4, **options)(jnp.arange(40.0)[:, None])
        assert answers[:, 0].tolist() == list(range(40))


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_a_failed_attempt_has_changed_is_sent_again_as_it_was(batched, dtype):
    calls = []

    def host(x):
        x *= 1e-3  # to other units, in place
        calls.append(len(x))
        if len(calls) == 1:
            raise OSError("no licence")
        return x.sum(-1)

    box = dz.black_box(host, (), batched=batched, dtype=dtype, backoff=0.0)
    x = jnp.array([1.0, 2.0])
    np.testing.assert_allclose(box(x[None] if batched else x), 3e-3, rtol=1e-6)


def test_counts_without_a_name_are_refused():
    box = dz.black_box(squares, (1,))
    with pytest.raises(ValueError, match="lack num_dropped; restore takes what"):
        box.restore({name: 0 for name in box.counts() if name != "num_dropped"})
