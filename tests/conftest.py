"""What the tests share: SDXL's table, plain and zero-terminal, and schedules on a table."""

import math
import os

import pytest
import torch
from hypothesis import settings

from ztsnr.core.schedule import Schedule
from ztsnr.core.schedule.density import TableUniform
from ztsnr.core.schedule.grid import Trailing
from ztsnr.core.schedule.table import ScaledLinear, ZeroTerminal
from ztsnr.core.schedule.timesteps import TableIndex

settings.register_profile("ztsnr", deadline=None, max_examples=20, derandomize=True)
settings.load_profile("ztsnr")
torch.set_num_threads(1)  # tensors are tiny here: waking a second thread costs more than it does
os.environ["OMP_NUM_THREADS"] = "1"  # nor in the processes that tests start; sums then have one order everywhere


@pytest.fixture(scope="session")
def sdxl():
    return ScaledLinear(beta_start=0.00085, beta_end=0.012, steps=1000)


@pytest.fixture(scope="session")
def zero_terminal(sdxl):
    return ZeroTerminal(table=sdxl, terminal=math.inf)


@pytest.fixture(scope="session")
def make_schedule():
    """make_schedule(table, **parts): what is not given is the table's own."""

    def make(table, **parts):
        own = {
            "density": TableUniform(table=table),
            "grid": Trailing(table=table),
            "timesteps": TableIndex(table=table, quantize=False),
        }
        return Schedule(table=table, **own | parts)

    return make
