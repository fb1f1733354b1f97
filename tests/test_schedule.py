"""Tables, timesteps, the four parts together, and the presets, against diffusers and published numbers."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr
from hypothesis import given
from hypothesis import strategies as st

from ztsnr.config.registry import make, options
from ztsnr.core.errors import ConfigError
from ztsnr.core.noise import snr
from ztsnr.core.schedule.combined import TerminalMass
from ztsnr.core.schedule.density import LogUniform, TableUniform
from ztsnr.core.schedule.grid import KarrasGrid, Leading, Trailing, WithTerminalStep
from ztsnr.core.schedule.table import (
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_MAX,
    CosineTable,
    Linear,
    ScaledLinear,
    ZeroTerminal,
    sigmas_from_alpha_bar,
)
from ztsnr.core.schedule.timesteps import FlowTime, LogSigma, TableIndex

KARRAS = KarrasGrid(sigma_min=0.0292, sigma_max=20000.0, rho=7.0)
DDPM = Linear(beta_start=1e-4, beta_end=0.02, steps=1000)
COSINE = CosineTable(offset=0.008, beta_max=0.999, steps=1000)
SDXL = ScaledLinear(beta_start=0.00085, beta_end=0.012, steps=1000)
TABLES = {
    "linear": DDPM,
    "squaredcos_cap_v2": COSINE,
    "scaled_linear": SDXL,
}
TO_INF, TO_20000 = ZeroTerminal(table=SDXL, terminal=math.inf), ZeroTerminal(table=SDXL, terminal=20000.0)


def of(*sigmas):
    return torch.tensor(sigmas, dtype=torch.float64)


def betas_of(table):
    alpha_bar = 1 / (1 + table.sigmas.square())
    return 1 - alpha_bar / torch.cat([of(1.0), alpha_bar[:-1]])


# tables


@pytest.mark.parametrize(
    ("table", "terminal_snr", "digits"),
    [(DDPM, 4.035993e-05, 1e-7), (COSINE, 2.428735e-09, 1e-6), (SDXL, 0.004682, 1e-4)],
)
def test_terminal_snr_is_that_of_the_paper(table, terminal_snr, digits):
    """arXiv 2305.08891, Table 1."""
    assert table.sigmas.dtype == torch.float64
    assert snr(table.sigmas[-1]).item() == pytest.approx(terminal_snr, rel=digits)


def test_levels_of_sdxl_and_of_its_zero_terminal_table_are_the_published_ones():
    assert SDXL.sigmas[[0, -1]].tolist() == pytest.approx([0.029167, 14.6146], rel=1e-5)
    assert TO_INF.sigmas[[0, 900]].tolist() == pytest.approx([0.029167, 18.4], rel=3e-3)
    assert TO_INF.sigmas[-3:].tolist() == pytest.approx([1124.55, 2254.24, math.inf], rel=1e-5)
    assert TO_20000.sigmas.tolist() == [*TO_INF.sigmas[:-1].tolist(), 20000]


def test_the_table_named_in_code_is_that_of_conf_and_has_the_highest_level_named_with_it():
    assert make("schedule/table", "sdxl") == STABLE_DIFFUSION
    assert round(STABLE_DIFFUSION.sigmas[-1].item(), 4) == STABLE_DIFFUSION_MAX


@pytest.mark.parametrize("schedule", TABLES)
def test_tables_are_those_of_diffusers(schedule):
    table, settings = TABLES[schedule], {"beta_schedule": schedule}
    if schedule != "squaredcos_cap_v2":
        settings |= {"beta_start": table.beta_start, "beta_end": table.beta_end}
    scheduler = DDPMScheduler(**settings)
    torch.testing.assert_close(betas_of(table), scheduler.betas.double(), rtol=1e-6, atol=0)
    alpha_bar = 1 / (1 + table.sigmas.square())
    torch.testing.assert_close(alpha_bar, scheduler.alphas_cumprod.double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_zero_terminal_rescale_is_that_of_diffusers_in_double_precision(table):
    alpha_bar = (1 - rescale_zero_terminal_snr(betas_of(table))).cumprod(0)
    rescaled = ZeroTerminal(table=table, terminal=math.inf).sigmas
    torch.testing.assert_close(rescaled, sigmas_from_alpha_bar(alpha_bar), rtol=1e-7, atol=0)


@pytest.mark.parametrize("table", [*TABLES.values(), TO_INF, TO_20000], ids=repr)
@given(st.floats(0, 999), st.floats(math.log(0.03), math.log(1e6)))
def test_index_and_at_are_each_others_inverse_and_exact_at_every_level(table, index, log_sigma):
    assert table.index(table.at(of(index))).item() == pytest.approx(index, abs=1e-8)
    sigma = min(math.exp(log_sigma), table.sigmas[-1].item())
    assert table.at(table.index(of(sigma))).item() == pytest.approx(sigma, rel=1e-11 + 1e-14 * sigma)
    levels = torch.arange(1000, dtype=torch.float64)
    assert torch.equal(table.index(table.sigmas), levels)
    assert torch.equal(table.at(levels), table.sigmas)


@given(st.floats(0, 999))
def test_between_levels_a_table_is_linear_in_the_angle(index):
    angle = np.interp(index, np.arange(1000), np.arctan(TO_INF.sigmas.numpy()))
    assert TO_INF.at(of(index)).atan().item() == pytest.approx(angle, abs=1e-14)


@given(st.lists(st.floats(0, 999), min_size=2, max_size=20))
def test_at_stays_between_the_neighbouring_levels(index):
    index = of(*sorted(index), 999 * (1 - 2**-53), 999.0)
    for table in (SDXL, TO_20000, TO_INF):
        sigma = table.at(index)
        assert (sigma >= table.sigmas[index.floor().long()]).all()
        assert (sigma <= table.sigmas[index.ceil().long()]).all()
        assert (sigma[1:] >= sigma[:-1]).all()


def betas(make_table, **fields):
    return lambda: make_table(**{"beta_start": 0.00085, "beta_end": 0.012, "steps": 1000} | fields)


def cosine(**fields):
    return lambda: CosineTable(**{"offset": 0.008, "beta_max": 0.999, "steps": 1000} | fields)


@pytest.mark.parametrize(
    ("make_one", "key", "value"),
    [
        (betas(ScaledLinear, beta_start="abc"), "beta_start", "'abc'"),
        (betas(ScaledLinear, beta_start=0.5), "beta_start", "0.5"),
        (betas(ScaledLinear, steps=1), "steps", "1"),
        (betas(Linear, beta_start=0), "beta_start", "0"),
        (betas(Linear, beta_end=1.0), "beta_end", "1.0"),
        (betas(Linear, beta_end=math.nan), "beta_end", "nan"),
        (betas(Linear, steps=10.0), "steps", "10.0"),
        (cosine(offset=-0.008), "offset", "-0.008"),
        (cosine(beta_max=1), "beta_max", "1"),
        (cosine(beta_max=0.0), "beta_max", "0.0"),
        (cosine(steps=1.5), "steps", "1.5"),
        (lambda: ZeroTerminal(table=SDXL, terminal=0), "terminal", "0"),
        (lambda: ZeroTerminal(table=SDXL, terminal="inf"), "terminal", "'inf'"),
        (lambda: ZeroTerminal(table=SDXL, terminal=2254.0), "terminal", "2254.0"),
        (lambda: ZeroTerminal(table=SDXL, terminal=TO_INF.sigmas[-2].item()), "terminal", "2254.2"),
        (lambda: ZeroTerminal(table=[0.1, 1.0], terminal=math.inf), "table", "[0.1, 1.0]"),
    ],
)
def test_table_rejects_an_impossible_field_by_name_and_value(make_one, key, value):
    with pytest.raises(ConfigError, match=rf"^{key} must ") as refusal:
        make_one()
    assert f"got {value}" in str(refusal.value)


# timesteps


def test_table_index_of_a_level_is_its_index_and_outside_the_table_that_of_the_nearest_end(sdxl, zero_terminal):
    levels = zero_terminal.sigmas
    assert TableIndex(table=zero_terminal, quantize=False)(levels).tolist() == list(range(1000))
    assert TableIndex(table=zero_terminal, quantize=True)(levels[:-1] * 1.0001).tolist() == list(range(999))
    assert TableIndex(table=sdxl, quantize=False)(of(0.0, 0.01, 15.0, 20000.0, math.inf)).tolist() == [0, 0] + [999] * 3
    assert TableIndex(table=zero_terminal, quantize=False)(of(1e6)).item() == pytest.approx(999, abs=0.01)


def test_table_index_is_close_to_interpolation_in_log_sigma_on_the_plain_table(sdxl):
    log_sigma = np.linspace(math.log(sdxl.sigmas[0]), math.log(sdxl.sigmas[-1]), 20_001)
    in_log_sigma = np.interp(log_sigma, sdxl.sigmas.log(), np.arange(1000))
    index = TableIndex(table=sdxl, quantize=False)(torch.from_numpy(log_sigma).exp())
    assert np.abs(index.numpy() - in_log_sigma).max() < 0.05


def test_log_sigma_is_the_noise_condition_of_edm():
    """arXiv 2206.00364, Table 1: ln(sigma) / 4."""
    assert LogSigma(scale=0.25)(of(1.0, math.exp(2), math.exp(-4))).tolist() == pytest.approx([0, 0.5, -1])


def test_flow_time_is_the_timestep_of_diffusers():
    """What that scheduler calls sigma is tau."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(28)
    tau = scheduler.sigmas[:-1].double()
    timesteps = FlowTime(scale=1000.0)(tau / (1 - tau))
    torch.testing.assert_close(timesteps, scheduler.timesteps.double(), rtol=1e-5, atol=0)
    assert timesteps[0].item() == 1000
    assert FlowTime(scale=1000.0)(of(0.0, 1.0)).tolist() == [0, 500]


@pytest.mark.parametrize(
    ("make_one", "key"),
    [
        (lambda: TableIndex(table=None, quantize=False), "table"),
        (lambda: TableIndex(table=SDXL, quantize=1), "quantize"),
        (lambda: LogSigma(scale=0), "scale"),
        (lambda: LogSigma(scale=math.nan), "scale"),
        (lambda: FlowTime(scale=-1000.0), "scale"),
        (lambda: FlowTime(scale="1000"), "scale"),
    ],
)
def test_timesteps_reject_an_impossible_field_by_name(make_one, key):
    with pytest.raises(ConfigError, match=rf"^{key} must "):
        make_one()


# the four together


FAR = LogUniform(sigma_min=0.01, sigma_max=1e6)
UP_TO_1000 = LogUniform(sigma_min=0.01, sigma_max=1000.0)
LOW = KarrasGrid(sigma_min=0.01, sigma_max=1.0, rho=7.0)


@pytest.mark.parametrize("start", [20000.0, math.inf])
def test_schedule_rejects_sampling_from_far_above_all_draws(sdxl, make_schedule, start):
    grid = WithTerminalStep(grid=Trailing(table=sdxl), terminal=start)
    with pytest.raises(ConfigError, match=r"starts sampling from sigma (20000|inf), but .* no level above 14\.6146"):
        make_schedule(sdxl, grid=grid)
    assert make_schedule(sdxl, grid=grid, density=UP_TO_1000).sigma_max == start
    with_mass = TerminalMass(density=TableUniform(table=sdxl), terminal=start, mass=0.01)
    assert make_schedule(sdxl, grid=grid, density=with_mass).sigma_max == start


def test_schedule_knows_its_highest_level_and_which_parts_reach_inf(sdxl, zero_terminal, make_schedule):
    plain, both = make_schedule(sdxl), make_schedule(zero_terminal)
    only_grid = make_schedule(sdxl, density=FAR, grid=Trailing(table=zero_terminal))
    only_density = make_schedule(sdxl, density=TableUniform(table=zero_terminal))
    assert plain.sigma_max == sdxl.sigmas[-1].item()
    assert make_schedule(sdxl, density=TableUniform(table=sdxl), grid=LOW).sigma_max == sdxl.sigmas[-1].item()
    assert make_schedule(sdxl, density=UP_TO_1000, grid=KARRAS).sigma_max == pytest.approx(20000)
    assert both.sigma_max == only_grid.sigma_max == only_density.sigma_max == math.inf
    assert make_schedule(sdxl, density=FAR, grid=Leading(table=zero_terminal, offset=1)).sigma_max == math.inf
    reached = [schedule.parts_at_inf for schedule in (plain, both, only_grid, only_density)]
    assert reached == ["", "density and grid", "grid", "density"]


@pytest.mark.parametrize("part", ["density", "grid"])
def test_schedule_rejects_inf_without_a_finite_timestep(sdxl, zero_terminal, make_schedule, part):
    at_inf = {"density": TableUniform(table=zero_terminal), "grid": Trailing(table=zero_terminal)}[part]
    with pytest.raises(ConfigError, match=rf"^timesteps has no finite timestep .* its {part} reaches"):
        make_schedule(sdxl, timesteps=LogSigma(scale=0.25), **{part: at_inf})
    make_schedule(sdxl, timesteps=LogSigma(scale=0.25))


@pytest.mark.parametrize("part", ["density", "grid", "timesteps"])
def test_schedule_rejects_a_part_of_the_wrong_class_by_name(sdxl, make_schedule, part):
    with pytest.raises(ConfigError, match=rf"^{part} must be a .*, got 'abc'"):
        make_schedule(sdxl, **{part: "abc"})


# the presets

PRESETS = {  # the highest level drawn, the level that sampling starts from, and its timestep
    "cauchy": (20000, 85.561, None),
    "cosine": (2**54 / math.pi, math.inf, 999),
    "cosine_scaled": ((2**54 / math.pi) ** 0.5, math.tan(0.99 * math.pi / 2) ** 0.5, None),
    "cosine_shifted": (2**54 / math.pi * math.exp(-0.5), math.tan(0.99 * math.pi / 2) * math.exp(-0.5), None),
    "cosine_table": (2.428735e-09**-0.5, 2.428735e-09**-0.5, None),
    "ddpm": (4.035993e-05**-0.5, 4.035993e-05**-0.5, None),
    "edm": (math.exp(-1.2 + 1.2 * 8.2095), 80, math.log(80) / 4),
    "edm2": (math.exp(-0.4 + 8.2095), 80, math.log(80) / 4),
    "flow_logit_normal": (math.exp(8.2095), math.inf, 1000),
    "flow_uniform": (2**53, math.inf, 1000),
    "infonoise": (math.inf, math.inf, 999),
    "karras": (20000, 20000, None),
    "laplace": (2**13, 2.66, None),
    "laplace_ztsnr": (math.inf, math.inf, 999),
    "sdxl": (14.6146, 14.6146, 999),
    "sdxl_ztsnr": (math.inf, math.inf, 999),
    "ztsnr": (math.inf, math.inf, 999),
    "ztsnr_continuous": (math.inf, math.inf, 999),
}


DRAWN_AT_INF = {"infonoise": 50, "laplace_ztsnr": 50, "sdxl_ztsnr": 1, "ztsnr": 1, "ztsnr_continuous": 10}  # of 1000


@pytest.mark.parametrize("preset", options("schedule"))
def test_a_preset_draws_up_to_its_highest_level_and_samples_from_its_start(preset):
    schedule, (highest, start, timestep) = make("schedule", preset), PRESETS[preset]
    assert schedule.density.highest == pytest.approx(highest, rel=1e-3)
    assert schedule.grid.start == pytest.approx(start, rel=1e-3)
    t = schedule.timesteps(of(schedule.grid.start)).item()
    assert math.isfinite(t)
    assert timestep is None or t == pytest.approx(timestep, rel=1e-6)
    sigmas = schedule.grid.sigmas(28)
    assert schedule.timesteps(sigmas[:-1]).diff().lt(0).all()
    levels = schedule.density.sigma((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000)
    assert schedule.timesteps(levels).isfinite().all()
    assert levels.isinf().sum().item() == DRAWN_AT_INF.get(preset, 0)


DENSITIES = {  # medians, of which ln is -mu / 2 for logSNR, mean for ln sigma
    "cauchy": 1.0,
    "cosine": 1.0,
    "cosine_scaled": 1.0,
    "cosine_shifted": math.exp(-0.5),
    "edm": math.exp(-1.2),
    "edm2": math.exp(-0.4),
    "flow_uniform": 1.0,
    "infonoise": (0.0292 * 14.6146) ** 0.5,
    "infonoise_terminal": 0.0292 * (14.6146 / 0.0292) ** (0.5 / 0.95),
    "karras": ((0.0292 ** (1 / 7) + 20000 ** (1 / 7)) / 2) ** 7,
    "laplace": 1.0,
    "laplace_terminal": (2 * (1 - 0.5 / 0.95)) ** -0.25,
    "log_uniform": (0.0292 * 14.6146) ** 0.5,
    "logit_normal": 1.0,
    "mixture": 1.0848,  # half of whose draws are laplace's, half the table's
    "shifted": 2.0,
    "table_interpolated": TO_INF.at(of(499.5)).item(),
    "table_interpolated_terminal": TO_INF.at(of(999 * 0.5 / 0.99)).item(),
    "table_uniform": TO_INF.sigmas[500].item(),
    "truncated": 1.0,
}


@pytest.mark.parametrize("option", options("schedule/density"))
def test_a_density_preset_has_its_median(option):
    assert make("schedule/density", option).sigma(of(0.5)).item() == pytest.approx(DENSITIES[option], rel=1e-3)


def test_presets_of_tables_and_timesteps_are_the_published_ones():
    for option, table in (("sdxl", SDXL), ("sdxl_ztsnr", TO_INF), ("ddpm", DDPM), ("cosine", COSINE)):
        assert make("schedule/table", option) == table
    assert make("schedule/timesteps", "table") == TableIndex(table=TO_INF, quantize=False)
    assert make("schedule/timesteps", "log_sigma") == LogSigma(scale=0.25)
    assert make("schedule/timesteps", "flow") == FlowTime(scale=1000.0)
