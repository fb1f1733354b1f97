"""Sampling grids, against diffusers, exact fractions, and the published lists."""

import math
from fractions import Fraction
from functools import cache, partial

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from diffusers.schedulers import AysSchedules
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from ztsnr.config.registry import make, options
from ztsnr.core.errors import ConfigError
from ztsnr.core.schedule.combined import TerminalMass
from ztsnr.core.schedule.density import Laplace, TableUniform
from ztsnr.core.schedule.grid import KarrasGrid, Leading, Linspace, Quantiles, SigmaList, Trailing, WithTerminalStep
from ztsnr.core.schedule.table import ScaledLinear

LAPLACE = Laplace(mu=0.0, b=0.5)
KARRAS = KarrasGrid(sigma_min=0.0292, sigma_max=20000.0, rho=7.0)
AYS = SigmaList(sigma_list=(14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113))
STEP_COUNTS = [1, 2, 4, 5, 8, 10, 16, 20, 25, 28, 30, 40, 50, 100, 250]
STEPS = st.integers(1, 1000)
preset = cache(partial(make, "schedule/grid"))


# what holds for each of them


@pytest.mark.parametrize("option", options("schedule/grid"))
@given(STEPS)
def test_grid_decreases_from_its_start_to_0_in_the_number_of_steps(option, steps):
    grid = preset(option)
    assume(option != "leading" or steps < 1000)  # whose offset leaves the table there
    sigmas = grid.sigmas(steps)
    assert sigmas.dtype == torch.float64
    assert len(sigmas) == steps + 1
    assert (sigmas.diff() < 0).all()
    assert sigmas[0].item() == grid.start or option == "leading"
    assert sigmas[-1].item() == 0


@pytest.mark.parametrize("steps", [0, -1, 2.5, 10.0, True, "10", None])
def test_grid_rejects_steps_that_are_not_a_positive_integer(steps):
    with pytest.raises(ConfigError, match=r"^steps must be an integer of 1 or more, got ") as refusal:
        KARRAS.sigmas(steps)
    assert repr(steps) in str(refusal.value)


def test_grid_rejects_more_steps_than_it_has_levels(sdxl):
    to_inf = TerminalMass(density=LAPLACE, terminal=math.inf, mass=0.3)
    for grid, steps, message in (
        (Quantiles(density=to_inf, u_max=0.99), 10, "steps=10 would visit a level twice"),
        (Quantiles(density=TableUniform(table=sdxl), u_max=0.99), 1001, "steps=1001 would visit a level twice"),
        (SigmaList(sigma_list=(2.0,)), 2, "steps=2 would visit a level twice"),
        (Trailing(table=sdxl), 1001, "steps must be at most 1000, the length"),
        (Linspace(table=sdxl), 1001, "steps must be at most 1000, the length"),
        (Leading(table=sdxl, offset=0), 1001, "steps must be at most 1000, the length"),
        (Leading(table=sdxl, offset=1), 1000, r"steps=1000 with the grid's offset=1 leaves the table of 1000 levels"),
    ):
        with pytest.raises(ConfigError, match=f"^{message}"):
            grid.sigmas(steps)


# Karras


@given(st.integers(2, 200))
def test_karras_is_the_ladder_of_edm_with_both_its_ends_exact(steps):
    """arXiv 2206.00364, equation 5."""
    i = np.arange(steps)
    ladder = (20000 ** (1 / 7) + i / (steps - 1) * (0.0292 ** (1 / 7) - 20000 ** (1 / 7))) ** 7
    np.testing.assert_allclose(KARRAS.sigmas(steps), np.append(ladder, 0), rtol=1e-12)
    assert KARRAS.sigmas(steps)[[0, -2]].tolist() == [20000, 0.0292]
    assert KARRAS.sigmas(1).tolist() == [20000, 0]


# through a table


@pytest.mark.parametrize("steps", [*STEP_COUNTS[1:], 1000])
@pytest.mark.parametrize(("spacing", "grid_class"), [("trailing", Trailing), ("linspace", Linspace)])
def test_spacings_visit_the_timesteps_of_diffusers(spacing, grid_class, steps, zero_terminal):
    """Not so at 48 and 27 steps and some 100 other numbers up to 1000, where diffusers' floats miss a half, nor at 1,
    where its linspace starts from its cleanest level."""
    scheduler = DDIMScheduler(timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    levels = grid_class(table=zero_terminal).sigmas(steps)[:-1]
    assert torch.equal(levels, zero_terminal.sigmas[scheduler.timesteps])


@pytest.mark.parametrize("scheduler_class", [DDIMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("steps", [*STEP_COUNTS, 999])
def test_leading_visits_the_timesteps_of_diffusers(scheduler_class, offset, steps, zero_terminal):
    scheduler = scheduler_class(timestep_spacing="leading", steps_offset=offset)
    scheduler.set_timesteps(steps)
    levels = Leading(table=zero_terminal, offset=offset).sigmas(steps)[:-1]
    assert torch.equal(levels, zero_terminal.sigmas[scheduler.timesteps.long()])


@given(STEPS)
def test_spacings_are_exact_fractions_rounded_half_to_even(zero_terminal, steps):
    trailing = [round(1000 - Fraction(1000 * i, steps)) - 1 for i in range(steps)]
    linspace = [round(999 - Fraction(999 * i, max(1, steps - 1))) for i in range(steps)]
    assert torch.equal(Trailing(table=zero_terminal).levels(steps), zero_terminal.sigmas[trailing])
    assert torch.equal(Linspace(table=zero_terminal).levels(steps), zero_terminal.sigmas[linspace])


def test_leading_leaves_out_the_terminal_level_except_where_its_offset_reaches_it(zero_terminal):
    """arXiv 2305.08891, section 3.3. At 500 and 999 steps of 1000, diffusers' offset of 1 lands on it."""
    grid = Leading(table=zero_terminal, offset=1)
    at_terminal = [steps for steps in range(1, 1000) if grid.levels(steps)[0].item() == math.inf]
    assert at_terminal == [500, 999]
    assert grid.start == math.inf


# through a density


def test_quantiles_take_equal_steps_of_probability_down_from_u_max():
    shares = stats.laplace(scale=0.5).sf(-2 * np.log(Quantiles(density=LAPLACE, u_max=0.99).sigmas(9)[:-1]))
    np.testing.assert_allclose(shares, 0.99 * np.arange(9, 0, -1) / 9)


# lists


def test_presets_are_the_published_lists():
    assert make("schedule/grid", "ays").sigmas(10).tolist() == AysSchedules["StableDiffusionXLSigmas"]
    for terminal in (math.inf, 20000.0):
        ladder = [terminal, 17.8, 12.4, 9.2, 7.2, 5.4, 3.9, 2.1, 0.9, 0.0292, 0]
        assert make("schedule/grid", "progressive", terminal=terminal).sigmas(10).tolist() == ladder
    expected = [math.inf, *KarrasGrid(sigma_min=0.0292, sigma_max=17.8, rho=7.0).sigmas(9).tolist()]
    assert make("schedule/grid", "karras_terminal").sigmas(10).tolist() == expected


@given(st.integers(2, 100))
def test_sigma_list_of_a_different_length_is_interpolated_in_log_sigma(steps):
    """The function that Align Your Steps publishes: linear in place along the list."""
    position, log_sigmas = np.linspace(0, 1, steps), np.log(AYS.sigma_list)
    expected = np.exp(np.interp(position, np.linspace(0, 1, len(log_sigmas)), log_sigmas))
    np.testing.assert_allclose(AYS.levels(steps), expected, rtol=1e-12)
    assert AYS.levels(steps)[[0, -1]].tolist() == [14.615, 0.113]


# from the terminal level


@pytest.mark.parametrize("grid", [KARRAS, Quantiles(density=LAPLACE, u_max=0.99), AYS], ids=repr)
def test_with_terminal_step_is_one_step_and_then_the_grid(grid):
    with_terminal = WithTerminalStep(grid=grid, terminal=math.inf)
    assert with_terminal.sigmas(1).tolist() == [math.inf, 0]
    assert with_terminal.sigmas(8).tolist() == [math.inf, *grid.sigmas(7).tolist()]


# refusals

SDXL = ScaledLinear(beta_start=0.00085, beta_end=0.012, steps=1000)


@pytest.mark.parametrize(
    ("make_grid", "key", "value"),
    [
        (lambda: KarrasGrid(sigma_min=0, sigma_max=10.0, rho=7.0), "sigma_min", "0"),
        (lambda: KarrasGrid(sigma_min=10.0, sigma_max=10.0, rho=7.0), "sigma_min", "10.0"),
        (lambda: KarrasGrid(sigma_min=0.03, sigma_max=math.inf, rho=7.0), "sigma_max", "inf"),
        (lambda: KarrasGrid(sigma_min="low", sigma_max=1.0, rho=7.0), "sigma_min", "'low'"),
        (lambda: KarrasGrid(sigma_min=0.03, sigma_max=10.0, rho=-7.0), "rho", "-7.0"),
        (lambda: KarrasGrid(sigma_min=0.03, sigma_max=10.0, rho=0), "rho", "0"),
        (lambda: KarrasGrid(sigma_min=0.03, sigma_max=10.0, rho=math.nan), "rho", "nan"),
        (lambda: Trailing(table="sdxl"), "table", "'sdxl'"),
        (lambda: Linspace(table=None), "table", "None"),
        (lambda: Leading(table=LAPLACE, offset=1), "table", "Laplace"),
        (lambda: Leading(table=SDXL, offset=-1), "offset", "-1"),
        (lambda: Leading(table=SDXL, offset=0.5), "offset", "0.5"),
        (lambda: Quantiles(density=LAPLACE, u_max=1.01), "u_max", "1.01"),
        (lambda: Quantiles(density=LAPLACE, u_max=0), "u_max", "0"),
        (lambda: Quantiles(density=LAPLACE, u_max=math.nan), "u_max", "nan"),
        (lambda: Quantiles(density=None, u_max=0.99), "density", "None"),
        (lambda: SigmaList(sigma_list=()), "sigma_list", "()"),
        (lambda: SigmaList(sigma_list=14.6), "sigma_list", "14.6"),
        (lambda: SigmaList(sigma_list=[2.0, 3.0]), "sigma_list", "[2.0, 3.0]"),
        (lambda: SigmaList(sigma_list=[2.0, 2.0]), "sigma_list", "[2.0, 2.0]"),
        (lambda: SigmaList(sigma_list=[2.0, 0.0]), "sigma_list", "0.0"),
        (lambda: SigmaList(sigma_list=[math.inf, 1.0]), "sigma_list", "inf"),
        (lambda: SigmaList(sigma_list=[2.0, math.nan]), "sigma_list", "nan"),
        (lambda: SigmaList(sigma_list=[2.0, "1"]), "sigma_list", "'1'"),
        (lambda: WithTerminalStep(grid=KARRAS, terminal=19999.0), "terminal", "19999.0"),
        (lambda: WithTerminalStep(grid=KARRAS, terminal=20000.0), "terminal", "20000.0"),
        (lambda: WithTerminalStep(grid=KARRAS, terminal=math.nan), "terminal", "nan"),
        (
            lambda: WithTerminalStep(grid=WithTerminalStep(grid=KARRAS, terminal=math.inf), terminal=math.inf),
            "terminal",
            "inf",
        ),
        (lambda: WithTerminalStep(grid=Leading(table=SDXL, offset=1), terminal=9.0), "terminal", "9.0"),
        (lambda: WithTerminalStep(grid=LAPLACE, terminal=math.inf), "grid", "Laplace"),
    ],
)
def test_grid_rejects_an_impossible_field_by_name_and_value(make_grid, key, value):
    with pytest.raises(ConfigError, match=rf"^{key} must ") as refusal:
        make_grid()
    assert f"got {value}" in str(refusal.value)
