"""Samples shared out to real engines: threads, processes, loky, Dask, MPI, Ray."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepzero_jax as dz
from deepzero_jax.blackbox import BlackBoxError
from tests.blackbox import hosts
from tests.conftest import ROOT
from tests.marks import long

pytestmark = pytest.mark.filterwarnings("ignore")


@contextmanager
def threads():
    yield 3


@contextmanager
def thread_pool():
    with ThreadPoolExecutor(3) as pool:
        yield pool


@contextmanager
def processes():
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        yield pool


@contextmanager
def map_of_processes():
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        yield pool.map


@contextmanager
def plain_map():
    yield map


@contextmanager
def loky_processes():
    loky = pytest.importorskip("loky")
    pool = loky.get_reusable_executor(max_workers=2)
    yield pool
    pool.shutdown(wait=True, kill_workers=True)


@contextmanager
def dask_workers():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client.get_executor()


ENGINES = {
    "threads": threads,
    "thread pool": thread_pool,
    "map": plain_map,
    "processes": processes,
    "map of processes": map_of_processes,
    "loky": loky_processes,
    "dask": dask_workers,
}
OF_PROCESSES = ("processes", "map of processes", "loky", "dask")


@pytest.fixture(scope="module", params=ENGINES)
def engine(request):
    with ENGINES[request.param]() as workers:
        yield request.param, workers


def test_results_and_counts_do_not_depend_on_the_workers(engine):
    alone = dz.black_box(hosts.weighted, (), max_batch=3)
    shared = dz.black_box(hosts.weighted, (), max_batch=3, workers=engine[1])
    x = jax.random.normal(jax.random.key(0), (2, 10, 4))
    answers = [jax.jit(jax.vmap(box))(x) for box in (alone, shared)]
    np.testing.assert_array_equal(*answers)
    assert shared.counts() == alone.counts()
    assert (shared.num_samples, shared.num_calls) == (20, 7)


def test_training_through_workers_gives_the_same_gradient(engine):
    fun = lambda box: lambda w: jnp.mean(box(jnp.ones((3, 4)) * w))
    grads = []
    for workers in (None, engine[1]):
        box = dz.black_box(hosts.weighted, (), max_batch=4, workers=workers)
        grads.append(jax.jit(dz.value_and_grad(fun(box), dz.cge(smoothing=1e-2)))(jnp.ones(4))[1])
        assert box.num_samples == 15
    np.testing.assert_array_equal(*grads)


def test_the_same_sample_is_asked_as_often_as_it_is_sent(engine):
    box = dz.black_box(hosts.random, (), max_batch=1, workers=engine[1])
    answers = [np.asarray(box(jnp.ones((4, 2)))) for _ in range(2)]
    assert len(np.unique(answers)) == 8


def test_failures_are_per_piece(engine):
    x = np.arange(12.0, dtype=np.float32)[:, None]
    box = dz.black_box(
        hosts.fails_at_seven, (1,), max_batch=4, workers=engine[1], backoff=0.0, on_failure="nan"
    )
    answers = np.asarray(box(x))
    assert np.flatnonzero(np.isnan(answers[:, 0])).tolist() == [7]
    assert (box.num_answered, box.num_dropped) == (11, 1)
    # Once all, the failed four one by one, and the seventh twice more.
    assert box.num_samples == 12 + 4 + 2
    box = dz.black_box(hosts.fails_at_seven, (1,), max_batch=4, workers=engine[1], backoff=0.0)
    with pytest.raises(BlackBoxError, match="FloatingPointError: diverged at 7"):
        box(x)


def test_what_no_call_can_mend_is_not_asked_again(engine):
    box = dz.black_box(hosts.refuses, (1,), workers=engine[1], backoff=9.0, on_failure="nan")
    with pytest.raises(BlackBoxError, match=r"^the key is not accepted$"):
        box(np.ones((32, 1), np.float32))
    assert box.num_calls == 1


def test_deadlines_are_per_piece(engine):
    if engine[0] in ("map", "map of processes"):
        pytest.skip("a map has one deadline for all its calls")
    x = np.array([[0.0], [9.0], [0.1], [0.2]], np.float32)
    # Dask shares calls out at once, and takes a moment to move those behind the one that hangs.
    timeout = 4.0 if engine[0] == "dask" else 2.0
    box = dz.black_box(
        hosts.hangs_at_nine,
        (1,),
        max_batch=1,
        workers=engine[1],
        timeout=timeout,
        retries=0,
        on_failure="nan",
    )
    start = time.monotonic()
    answers = np.asarray(box(x))
    assert time.monotonic() - start < timeout + 3.5
    assert np.isnan(answers[:, 0]).tolist() == [False, True, False, False]
    assert box.num_abandoned == 1


def test_boxes_that_share_a_pool_share_its_successor(engine):
    if engine[0] not in ("processes", "loky"):
        pytest.skip("workers of this engine are not ended")
    given, zero, nine = {"workers": engine[1], "retries": 0}, np.zeros((1, 1)), np.full((1, 1), 9.0)
    other = dz.black_box(hosts.hangs_at_nine, (1,), **given)
    other(zero)
    first = dz.black_box(hosts.hangs_at_nine, (1,), timeout=1.0, on_failure="nan", **given)
    assert np.isnan(first(nine)).all()
    start = time.monotonic()
    # It ends the process that hangs in a call of the first; the pool that follows serves both.
    assert [other(zero).tolist() for _ in range(2)] == [[[0.0]]] * 2
    assert first(zero).tolist() == [[0.0]]
    assert time.monotonic() - start < 7.5
    third = dz.black_box(hosts.hangs_at_nine, (1,), **given)
    assert third(zero).tolist() == [[0.0]]


def test_a_killed_worker_is_a_failed_piece_and_tried_again(engine, tmp_path):
    if engine[0] not in ("processes", "loky", "dask"):
        pytest.skip("workers of this engine cannot be killed alone")
    done = tmp_path / "killed"
    x = np.array([[ord(c) for c in str(done).ljust(200)]] * 6, np.int32)
    box = dz.black_box(
        hosts.dies_once, (), dtype="int32", max_batch=1, workers=engine[1], backoff=0.1
    )
    assert np.asarray(box(x)).tolist() == [int(x[0].sum())] * 6
    assert done.exists()
    if engine[0] != "dask":  # which sends the sample again by itself
        assert box.num_failed >= 1
    assert box.num_answered == 6


@long
def test_a_process_that_hangs_is_ended():
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        box = dz.black_box(
            hosts.hangs_at_nine, (1,), workers=pool, timeout=4.0, retries=0, on_failure="nan"
        )
        box(np.zeros((1, 1), np.float32))
        process = next(iter(pool._processes.values()))
        assert np.isnan(box(np.full((1, 1), 9.0, np.float32))).all()
        assert box(np.ones((1, 1), np.float32)).tolist() == [[1.0]]
        process.join(5)
        assert process.exitcode == -signal.SIGKILL


def test_ray_maps():
    ray = pytest.importorskip("ray")
    pool_of = pytest.importorskip("ray.util.multiprocessing").Pool
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with pool_of(2) as pool:
            box = dz.black_box(hosts.weighted, (), max_batch=3, workers=pool.map)
            alone = dz.black_box(hosts.weighted, ())
            x = np.arange(28.0, dtype=np.float32).reshape(7, 4)
            np.testing.assert_array_equal(box(x), alone(x))
            assert (box.num_samples, box.num_calls) == (7, 3)
    finally:
        ray.shutdown()


MPI = """
from mpi4py.futures import MPIPoolExecutor
import numpy as np
import deepzero_jax as dz
from tests.blackbox import hosts
if __name__ == "__main__":
    with MPIPoolExecutor() as pool:
        box = dz.black_box(hosts.weighted, (), max_batch=3, workers=pool)
        x = np.arange(28.0, dtype=np.float32).reshape(7, 4)
        np.testing.assert_array_equal(box(x), dz.black_box(hosts.weighted, ())(x))
        box2 = dz.black_box(hosts.rank, (), workers=pool)
        print(box.num_samples, box.num_calls, "rank", int(box2(x)[0]))
"""


def test_mpi_ranks_answer(tmp_path):
    pytest.importorskip("mpi4py")
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if mpiexec is None:
        pytest.skip("needs mpiexec, of mpich or openmpi")
    program = tmp_path / "program.py"
    program.write_text(MPI)
    found = subprocess.run(
        [mpiexec, "-n", "2", sys.executable, "-m", "mpi4py.futures", str(program)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert found.stdout.split() == ["7", "3", "rank", "1"], found.stdout + found.stderr[-2000:]


def test_a_number_of_workers_may_be_of_numpy():
    box = dz.black_box(hosts.weighted, (), max_batch=1, workers=np.int64(2))
    assert box(jnp.ones((4, 4))).shape == (4,)


def test_calls_that_no_worker_began_are_not_counted_when_a_call_fails_for_good():
    asked, hold = [], threading.Event()
    with ThreadPoolExecutor(2) as pool:
        pool.submit(hold.wait)  # a job of somebody else

        def host(x):
            asked.append(len(x))
            raise ValueError("no")

        box = dz.black_box(host, (), workers=pool, max_batch=5, retries=0)
        with pytest.raises(dz.BlackBoxError, match="ValueError: no"):
            box(jnp.ones(10))
        hold.set()
    assert (box.num_samples, box.num_calls) == (sum(asked), len(asked)) == (5, 1)


def test_a_map_that_the_budget_ends_has_sent_nothing():
    asked = []

    def host(x):
        asked.append(len(x))
        if len(asked) < 3:
            raise OSError("busy")
        return x.sum(1)

    box = dz.black_box(host, (), workers=map, max_batch=1, budget=5, backoff=0.0)
    with pytest.raises(BlackBoxError, match="budget of 5 samples"):
        box(jnp.ones((4, 1)))
    assert box.num_samples == sum(asked) == 4


def test_an_error_that_cannot_be_sent_comes_in_words(engine):
    box = dz.black_box(hosts.fails_in_its_own_way, (1,), workers=engine[1], retries=0)
    with pytest.raises(BlackBoxError, match="no convergence after 7 steps"):
        box(jnp.ones((2, 1)))
