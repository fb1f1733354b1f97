"""Fixtures of SDXL's table and of schedules on a table, and pytest --changed."""

import math
import os
import time

import pytest
import torch
from hypothesis import settings

os.environ["ZTSNR_CHECK_SHAPES"] = "1"  # the core's annotations are then shapes
import ztsnr.core.shapes  # noqa: F401

del os.environ["ZTSNR_CHECK_SHAPES"]  # not in the processes that tests start

from tests.changed import changed_files, touched_tests
from tests.helpers import ROOT
from tests.shapes import CORE_TESTS, checked_shapes
from ztsnr.core.schedule import Schedule
from ztsnr.core.schedule.density import TableUniform
from ztsnr.core.schedule.grid import Trailing
from ztsnr.core.schedule.table import ScaledLinear, ZeroTerminal
from ztsnr.core.schedule.timesteps import TableIndex

settings.register_profile("ztsnr", deadline=None, max_examples=20, derandomize=True)
settings.load_profile("ztsnr")
torch.set_num_threads(1)  # tensors are tiny here: waking a second thread costs more than it does
os.environ["OMP_NUM_THREADS"] = "1"  # nor in the processes that tests start; sums then have one order everywhere


@pytest.fixture(scope="module", autouse=True)
def shapes(request):
    """In tests of the core, every call's shapes are checked."""
    if request.module.__name__.removeprefix("tests.") in CORE_TESTS:
        with checked_shapes():
            yield
    else:
        yield


@pytest.fixture(scope="session")
def sdxl():
    return ScaledLinear(beta_start=0.00085, beta_end=0.012, steps=1000)


@pytest.fixture(scope="session")
def zero_terminal(sdxl):
    return ZeroTerminal(table=sdxl, terminal=math.inf)


@pytest.fixture(scope="session")
def make_schedule():
    """make_schedule(table, **parts): parts that are not passed are the table's own."""

    def make(table, **parts):
        own = {
            "density": TableUniform(table=table),
            "grid": Trailing(table=table),
            "timesteps": TableIndex(table=table, quantize=False),
        }
        return Schedule(table=table, **own | parts)

    return make


CHANGED_SECONDS = 35
"""No test of --changed starts later than this after the first; imports and the last tests take the rest of a minute."""
TOUCHED = pytest.StashKey[dict[str, int]]()
FIRST = pytest.StashKey[float]()


def pytest_addoption(parser):
    parser.addoption(
        "--changed", action="store_true", help="only tests of what changed since main or HEAD, in about a minute"
    )


def pytest_configure(config):
    if config.getoption("--changed"):
        config.stash[TOUCHED] = touched_tests(ROOT, changed_files(ROOT))


def pytest_ignore_collect(collection_path, config):
    touched = config.stash.get(TOUCHED, None)
    if touched is not None and collection_path.is_file() and collection_path.name not in touched:
        return True  # not even imported, which takes seconds
    return None


def pytest_collection_modifyitems(config, items):
    """The closest first; of what is not the change's own, no slow ones."""
    touched = config.stash.get(TOUCHED, None)
    if touched is None:
        return
    items.sort(key=lambda item: touched[item.path.name])
    slow = [item for item in items if item.get_closest_marker("slow") and touched[item.path.name] > 0]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in set(slow)]


def pytest_runtest_setup(item):
    if TOUCHED not in item.config.stash:
        return
    now = time.monotonic()
    if now > item.config.stash.setdefault(FIRST, now) + CHANGED_SECONDS:
        pytest.skip(f"not started within {CHANGED_SECONDS} s")


def pytest_terminal_summary(terminalreporter, config):
    touched = config.stash.get(TOUCHED, None)
    if touched is None:
        return
    by_distance = sorted(touched, key=lambda name: (touched[name], name))
    terminalreporter.section("--changed")
    terminalreporter.line(f"Ran: {', '.join(by_distance) or 'nothing, since nothing changed'}.")
    terminalreporter.line("Left out: slow tests of other modules than the changed ones, and all further test files.")
    late = len(terminalreporter.stats.get("skipped", []))
    if late:
        terminalreporter.line(f"Skipped: {late}, of which -rs tells why.")


def pytest_sessionfinish(session, exitstatus):
    if session.config.stash.get(TOUCHED, None) == {} and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK
