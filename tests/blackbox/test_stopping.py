"""Boxes that are to stop: they wait no more and send nothing twice; what is answered goes on."""

import threading
import time

import jax
import jax.numpy as jnp
import pytest

import deepzero_jax as dz
from deepzero_jax.blackbox import (
    AskingStoppedError,
    RetryLaterError,
    box_errors,
    stop_asking_when,
    was_stopped,
)
from tests.blackbox.test_box import squares


def stopping_after(seconds):
    """A question that is answered by yes after a while."""
    asked = threading.Event()
    threading.Timer(seconds, asked.set).start()
    return stop_asking_when(asked.is_set)


def refuses(samples):
    raise RetryLaterError("busy", 60.0)


def fails(samples):
    raise FloatingPointError("diverged")


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("workers", [None, 2])
@pytest.mark.parametrize("on_failure", ["raise", "nan"])
@pytest.mark.parametrize(("host", "backoff"), [(refuses, 0.0), (fails, 60.0)])
def test_a_wait_ends_when_it_is_to_stop(host, backoff, on_failure, workers, jitted):
    given = {"backoff": backoff, "on_failure": on_failure, "workers": workers}
    box = dz.black_box(host, (1,), **given)
    ask = jax.jit(box) if jitted else box
    start = time.monotonic()
    with (
        stopping_after(0.3),
        pytest.raises(AskingStoppedError, match=r"busy|diverged"),
        box_errors(),
    ):
        jax.block_until_ready(ask(jnp.ones((4, 3))))
    assert time.monotonic() - start < 5
    assert box.num_calls == 1


def test_jax_says_it_in_words_of_its_own():
    box = dz.black_box(refuses, (1,))
    with (
        stop_asking_when(lambda: bool(box.num_calls)),
        pytest.raises(jax.errors.JaxRuntimeError) as caught,
    ):
        jax.block_until_ready(jax.jit(box)(jnp.ones((4, 3))))
    assert was_stopped(caught.value)
    assert not was_stopped(dz.BlackBoxError("AskingStoppedError: words of a host"))


@pytest.mark.parametrize("workers", [None, 3])
def test_calls_that_are_answered_go_on_to_the_end(workers):
    stop = threading.Event()

    def host(samples):
        stop.set()
        return squares(samples)

    box = dz.black_box(host, (1,), max_batch=1, workers=workers)
    with stop_asking_when(stop.is_set):
        assert (box(jnp.ones((9, 3))) == 3).all()
        assert (box(jnp.ones((2, 3))) == 3).all()
    assert box.num_calls == 11


def test_nothing_is_sent_beside_what_would_be_sent_again():
    stop = threading.Event()

    def host(samples):
        if samples[0, 0] == 2:
            stop.set()
            raise FloatingPointError("diverged")
        return samples

    box = dz.black_box(host, (1,), max_batch=1, backoff=0.0)
    with stop_asking_when(stop.is_set), pytest.raises(AskingStoppedError, match="diverged"):
        box(jnp.arange(8.0)[:, None])
    assert (box.num_calls, box.num_answered) == (3, 2)
    assert (box(jnp.zeros((4, 1))) == 0).all()


def test_what_was_given_up_is_not_gone_on_with_by_another_box():
    first, second = dz.black_box(refuses, (1,)), dz.black_box(squares, (1,))
    with stop_asking_when(lambda: first.num_calls == 1):
        assert second(jnp.ones((1, 3))) == 3
        for _ in range(2):
            with pytest.raises(AskingStoppedError):
                first(jnp.ones((1, 3)))
        with pytest.raises(AskingStoppedError):
            second(jnp.ones((1, 3)))
    assert (first.num_calls, second.num_calls) == (1, 1)
    assert second(jnp.ones((1, 3))) == 3


def test_a_call_that_was_given_up_is_not_waited_for():
    box = dz.black_box(lambda x: time.sleep(8), (1,), timeout=0.2, retries=0, on_failure="nan")
    assert jnp.isnan(box(jnp.ones((1, 3)))).all()
    slow = dz.black_box(squares, (1,), timeout=7.0)
    slow._engine = box._engine
    start = time.monotonic()
    with stopping_after(0.2), pytest.raises(AskingStoppedError, match="still running"):
        slow(jnp.ones((1, 3)))
    assert time.monotonic() - start < 3


def test_what_asks_on_when_the_watch_is_left_stops_too():
    stop, box, errors = threading.Event(), dz.black_box(refuses, (1,)), []

    def ask():
        try:
            box(jnp.ones((1, 3)))
        except AskingStoppedError as error:
            errors.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    with stop_asking_when(stop.is_set):
        thread.start()
        while not box.num_calls:
            time.sleep(0.01)
        stop.set()
    thread.join(5)
    assert len(errors) == box.num_calls == 1
