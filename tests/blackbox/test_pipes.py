"""Programs that hang, end, say too much or too often, and who ends them."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.blackbox import BlackBoxError, subprocess_simulator
from deepzero_jax.blackbox.pipes import Program
from tests.conftest import ROOT
from tests.marks import few


def shell(words):
    """A program that starts at once; to send a line back is to answer with the samples."""
    return subprocess_simulator(["/bin/sh", "-c", words])


HANGS_AT_NINE = """
while read -r line; do
  case $line in *9*) sleep 60;; esac
  echo "$line"
done
"""


def is_running(number):
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(number)], capture_output=True, text=True)
    return shown.stdout.strip()[:1] not in ("", "Z")


@pytest.mark.parametrize(
    "options",
    few([{"workers": 2}, {}, {"thread_safe": True}, {"workers": ThreadPoolExecutor(2)}]),
)
def test_a_program_that_hangs_is_ended_and_takes_no_other_sample_with_it(options):
    host = shell(HANGS_AT_NINE)
    given = {"max_batch": 1, "timeout": 1.0, "retries": 1, "on_failure": "nan", "backoff": 0.0}
    box = dz.black_box(host, (), **given, **options)
    for _ in range(2):
        answers = np.asarray(box(jnp.array([1.0, 9.0, 2.0, 3.0])))
        np.testing.assert_array_equal(answers, [1.0, np.nan, 2.0, 3.0])
    assert (box.num_abandoned, box.num_dropped) == (4, 2)
    host.close()


def test_a_program_that_hangs_can_be_closed():
    host = shell(HANGS_AT_NINE)
    errors = []

    def ask():
        try:
            host(np.array([9.0]))
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.2)
    host.close()
    thread.join(2.0)
    assert not thread.is_alive()
    assert errors == ["/bin/sh ended with status -9"]
    assert host(np.array([1.0])).tolist() == [1.0]
    host.close()


def test_each_thread_asks_a_program_of_its_own():
    host = shell('while read -r line; do sleep 0.3; echo "[$$]"; done')
    box = dz.black_box(host, (), dtype="int32", max_batch=1, workers=4, timeout=2.2, retries=0)
    start = time.monotonic()
    first, again = (set(np.asarray(box(jnp.ones(8))).tolist()) for _ in range(2))
    assert len(first) == 4
    assert first == again
    assert time.monotonic() - start < 4.5  # 4.8 one after the other
    host.close()


@pytest.mark.parametrize("status", [0, 3])
def test_a_program_that_ends_after_each_answer_is_started_for_each(status):
    host = shell(f'read -r line; echo "$line"; sleep 0.02; exit {status}')
    box = dz.black_box(host, (), max_batch=1, retries=0)
    assert box(jnp.arange(9.0)).tolist() == list(range(9))
    assert (box.num_samples, box.num_failed) == (9, 0)
    host.close()


def test_samples_of_a_call_that_is_given_up_are_sent_to_no_other_program(tmp_path):
    sent = tmp_path / "sent"
    host = shell(f'read -r line; echo "$line" | tee -a {sent}; exec sleep 60')
    given = {"max_batch": 1, "retries": 0, "timeout": 1.0, "on_failure": "nan"}
    box = dz.black_box(host, (), **given)
    assert np.isnan(np.asarray(box(jnp.arange(3.0)))).tolist() == [False, True, False]
    assert sent.read_text().split() == ["[0.0]", "[2.0]"]
    host.close()


def test_a_program_that_ends_without_an_answer_has_failed():
    host = shell('read -r line; echo "$line"; read -r line; exit 0')
    box = dz.black_box(host, (), max_batch=1, retries=0, on_failure="nan")
    assert np.isnan(np.asarray(box(jnp.ones(4)))).tolist() == [False, True] * 2
    host.close()


def test_an_answer_that_comes_late_is_not_taken_for_that_of_other_samples():
    host = shell('while read -r line; do echo "$line"; sleep 0.1; echo "[0.0]"; done')
    box = dz.black_box(host, (), max_batch=1, backoff=0.0, on_failure="nan")
    with pytest.raises(BlackBoxError, match="earlier ones too, may be those of other samples"):
        box(jnp.arange(1.0, 9.0))
    host.close()


def test_blank_lines_are_no_answers():
    host = shell('while read -r line; do echo; echo "$line"; echo; done')
    box = dz.black_box(host, (), max_batch=1, retries=0)
    assert box(jnp.arange(4.0)).tolist() == [0.0, 1.0, 2.0, 3.0]
    host.close()


def test_the_end_of_what_a_program_says_is_kept():
    program = """
import sys
sys.stdin.readline()
sys.stderr.write(("w" * 99 + chr(10)) * 50_000)
sys.exit("the mesh is broken")
"""
    asked = Program([sys.executable, "-c", program])
    with pytest.raises(EOFError) as caught:
        asked.ask(b"[1]\n", lambda pipe: np.ones(1))
    assert asked.last_words(caught.value).endswith("ended with status 1: the mesh is broken")
    assert len(asked._said._last) <= 4096
    asked.close()


# Without JAX, which takes seconds to import.
ASKING = """
import sys, time, types, numpy as np
for name in ("deepzero_jax", "deepzero_jax.blackbox"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [sys.argv[1] + "/" + name.replace(".", "/")]
from deepzero_jax.blackbox.pipes import Program
program = Program(["/bin/sh", "-c", "read -r line; echo $$; read -r line; sleep 60"])
print(program.ask(b"?" + bytes([10]), lambda pipe: pipe.readline()).decode(), end="", flush=True)
time.sleep(60)
"""


def test_a_program_ends_with_a_process_that_is_killed():
    """Where it hangs, as one that waits for its input ends with its pipe."""
    asking = subprocess.Popen(
        [sys.executable, "-c", ASKING, str(ROOT)],
        stdout=subprocess.PIPE,
    )
    assert asking.stdout is not None
    program = int(asking.stdout.readline())
    assert is_running(program)
    asking.kill()
    asking.wait()
    asking.stdout.close()
    end = time.monotonic() + 2
    while is_running(program) and time.monotonic() < end:
        time.sleep(0.02)
    assert not is_running(program)
