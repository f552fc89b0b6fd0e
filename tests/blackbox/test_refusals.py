"""Hosts that are too busy for now: asked again when they say, and for as long as they answer."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.blackbox import BlackBoxError, RetryLaterError
from tests.blackbox.test_box import squares


@pytest.mark.parametrize("on_failure", ["raise", "nan"])
@pytest.mark.parametrize("workers", [None, 3])
def test_a_limited_rate_loses_no_sample_and_holds_all_workers_back(workers, on_failure):
    lock, seen = threading.Lock(), {"calls": 0, "refused": 0, "early": 0, "until": 0.0}

    def host(samples):
        with lock:
            now = time.monotonic()
            seen["calls"] += 1
            seen["early"] += now < seen["until"]
            if now < seen["until"] or seen["calls"] % 8 == 0:
                seen["refused"] += 1
                seen["until"] = max(seen["until"], now + 0.05)
                raise RetryLaterError("slow down", seen["until"] - now)
        return squares(samples)

    given = {"max_batch": 1, "retries": 1, "workers": workers, "on_failure": on_failure}
    box = dz.black_box(host, (1,), backoff=0.0, **given)
    assert (box(jnp.ones((64, 3))) == 3).all()
    assert seen["early"] <= seen["refused"] * (0 if workers is None else 2 / 3)
    # What is refused is sent, and counted.
    assert (box.num_samples, box.num_failed) == (seen["calls"], seen["refused"])
    assert box.num_failed <= 9 * (workers or 1)


@pytest.mark.parametrize("workers", [None, 2])
@pytest.mark.parametrize("retries", [1, 2])
def test_a_host_that_refuses_for_ever_ends_the_asking(retries, workers):
    for on_failure in ("raise", "nan"):
        calls = []

        def host(samples, calls=calls):
            calls.append(1)
            if len(calls) > 6:
                raise RetryLaterError("the day's quota is spent")
            return squares(samples)

        given = {"retries": retries, "on_failure": on_failure, "workers": workers}
        box = dz.black_box(host, (1,), max_batch=1, backoff=0.0, **given)
        if on_failure == "nan":
            assert int(jnp.isnan(box(jnp.ones((64, 3)))).sum()) == 64 - 6
        else:
            with pytest.raises(BlackBoxError, match="RetryLaterError: the day's quota is spent"):
                box(jnp.ones((64, 3)))
        # With the last answers, and then in as many rounds as there are attempts.
        assert box.num_calls <= 6 + (workers or 1) * (retries + 2)


def test_what_one_call_of_a_box_is_told_holds_its_others_back():
    seen = []

    def host(samples):
        seen.append((float(samples[0, 0]), time.monotonic()))
        if len(seen) == 1:
            raise RetryLaterError("slow down", 0.6)
        return samples

    box = dz.black_box(host, (1,), backoff=0.0, thread_safe=True)
    # As callbacks of two devices ask.
    ask = lambda number: box.answer(jax.tree.structure((0,)), [np.full((1, 1), number)], 1)
    first = threading.Thread(target=ask, args=(0.0,))
    first.start()
    while not box.num_samples:
        time.sleep(0.01)
    time.sleep(0.1)
    ask(1.0)
    first.join()
    assert sorted(number for number, _ in seen) == [0, 0, 1]
    assert min(at for _, at in seen[1:]) - seen[0][1] >= 0.6


def test_a_sample_that_is_always_refused_takes_no_other_with_it():
    def host(samples):
        if samples[0, 0] == 2:
            raise RetryLaterError("too large")
        return samples

    box = dz.black_box(host, (1,), max_batch=1, retries=1, backoff=0.0, on_failure="nan")
    answers = np.asarray(box(jnp.arange(6.0)[:, None]))[:, 0]
    np.testing.assert_array_equal(answers, [0, 1, np.nan, 3, 4, 5])


def test_no_retries_are_none_of_a_refusal_either():
    calls = []

    def host(samples):
        calls.append(1)
        if len(calls) == 2:
            raise RetryLaterError("slow down")
        return samples

    box = dz.black_box(host, (1,), max_batch=1, retries=0, backoff=0.0, on_failure="nan")
    assert jnp.isnan(box(jnp.ones((4, 1))))[:, 0].tolist() == [False, True, False, False]
    assert box.num_calls == 4


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3", 3.0), ("0.5", 0.5), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), (2.0, 2.0), (None, None)]
    + [(words, None) for words in ("soon", "", "-3", "²", "nan", "inf")],
)
def test_a_header_says_when(header, seconds):
    assert RetryLaterError("busy", header).retry_after == seconds
