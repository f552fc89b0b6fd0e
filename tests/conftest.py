import ctypes
import gc
import os
import resource
import shutil
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

from deepzero_jax.platform import collect_rarely
from deepzero_jax.programs import cache_folder, use_compilation_cache

# Code is generated a third faster, and rounds otherwise where two programs compute the same.
OLD_EMITTERS = "--xla_cpu_use_fusion_emitters=false"
# One program as users have it, as ``compile`` takes it.
AS_USERS: dict[str, str | bool] = {"xla_backend_optimization_level": "2"}
if jax.__version_info__ < (0, 11):
    AS_USERS["xla_cpu_use_fusion_emitters"] = True
# Of a test process, in bytes, at the end of a file.
MOST_MEMORY = 2e9
# Of what the tests keep compiled, in bytes; where there is more, they begin with nothing.
MOST_KEPT = 2e9
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def x64():
    # For all threads: a callback may run in one of XLA's, which a context does not reach.
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def keep_compiled(folder, clean):
    """The test processes, and those that tests start, share what any of them has compiled.

    It is kept for the next time as well.
    """
    if clean and sum(file.stat().st_size for file in folder.glob("*")) > MOST_KEPT:
        shutil.rmtree(folder)
    use_compilation_cache(folder)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def pytest_configure(config):
    collect_rarely()
    keep_compiled(cache_folder() / "tests", clean=not hasattr(config, "workerinput"))
    # Nearly all of the default tests' time is that of generating code. What XLA does to a program
    # before that, and all slow tests, are as users have them.
    chosen, flags = config.option.markexpr, [os.environ.get("XLA_FLAGS", "")]
    if "not slow" in chosen:
        flags += ["--xla_backend_optimization_level=0"]
    if "not thorough" in chosen and jax.__version_info__ < (0, 11):  # later ones have no such flag
        flags += [OLD_EMITTERS]
    os.environ["XLA_FLAGS"] = " ".join(filter(None, flags))


@pytest.fixture(autouse=True, scope="module")
def give_memory_back():
    """Compiled programs stay in the caches of JAX: 5 GB at the end of the tests, twice."""
    yield
    statm = Path("/proc/self/statm")
    if statm.exists() and int(statm.read_text().split()[1]) * resource.getpagesize() > MOST_MEMORY:
        jax.clear_caches()
        gc.collect()
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)


@pytest.fixture
def tell(record_property):
    """Keeps a line for the end of the tests, also where they run in several processes."""
    return lambda line: record_property("told", line)


def pytest_terminal_summary(terminalreporter):
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, line in getattr(report, "user_properties", ()):
                if name == "told" and report.when == "call":
                    terminalreporter.write_line(line)


def prepared_cifar10() -> bool:
    directory = os.environ.get("TFDS_DATA_DIR")
    return bool(directory) and any(Path(directory).glob("cifar10/*/dataset_info.json"))


def pytest_collection_modifyitems(items):
    if prepared_cifar10():
        return
    skip = pytest.mark.skip(reason="needs CIFAR-10 prepared in TFDS_DATA_DIR")
    for item in items:
        if "cifar10" in item.keywords:
            item.add_marker(skip)
