import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ztsnr.errors import ConfigError
from ztsnr.schedule.density import LAST_U, Density, Laplace, TableUniform, TerminalMass
from ztsnr.schedule.grid import FromTerminal, Karras, Quantiles, Trailing
from ztsnr.schedule.table import ScaledLinear, ZeroTerminal, sigmas_from_alpha_bar
from ztsnr.schedule.timesteps import LogSigma, TableIndex

LAPLACE = Laplace(mu=0.0, b=0.5)
KARRAS = Karras(sigma_min=0.0292, sigma_max=20000.0, rho=7.0)
UNIT_INTERVAL = st.floats(0, 1, exclude_max=True)
STEPS = st.integers(1, 1000)


def of(*sigmas):
    return torch.tensor(sigmas, dtype=torch.float64)


# tables


def test_table_has_the_published_ends_of_sdxl(sdxl):
    assert sdxl.sigmas.dtype == torch.float64
    assert len(sdxl.sigmas) == 1000
    assert sdxl.sigmas[[0, -1]].tolist() == pytest.approx([0.029167, 14.6146], rel=1e-5)
    assert sdxl.sigmas[-1].item() ** -2 == pytest.approx(0.004682, rel=1e-4)


def test_zero_terminal_table_has_the_published_levels(sdxl, zero_terminal):
    sigmas = zero_terminal.sigmas
    assert sigmas[0].item() == pytest.approx(sdxl.sigmas[0].item(), rel=1e-12)
    assert sigmas[-3:].tolist() == pytest.approx([1124.55, 2254.24, math.inf], rel=1e-5)
    assert sigmas[900].item() == pytest.approx(18.4, abs=0.05)


@pytest.mark.parametrize("zero_snr", [False, True])
def test_tables_are_those_of_diffusers(zero_snr, sdxl, zero_terminal):
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=zero_snr
    )
    table = zero_terminal if zero_snr else sdxl
    alpha_bar = 1 / (1 + table.sigmas.square())
    torch.testing.assert_close(alpha_bar, scheduler.alphas_cumprod.double(), rtol=0, atol=1e-6)


def test_zero_terminal_rescale_is_that_of_diffusers_in_double_precision(zero_terminal):
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    alpha_bar = (1 - rescale_zero_terminal_snr(betas)).cumprod(0)
    torch.testing.assert_close(zero_terminal.sigmas, sigmas_from_alpha_bar(alpha_bar), rtol=1e-9, atol=0)


@pytest.mark.parametrize("terminal", [20000.0, math.inf])
def test_tables_ascend_up_to_their_terminal(sdxl, terminal):
    sigmas = ZeroTerminal(table=sdxl, terminal=terminal).sigmas
    assert (sigmas.diff() > 0).all()
    assert sigmas[-1].item() == terminal


def test_zero_terminal_of_zero_terminal_changes_nothing(zero_terminal):
    again = ZeroTerminal(table=zero_terminal, terminal=math.inf)
    torch.testing.assert_close(again.sigmas, zero_terminal.sigmas, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("beta_start", 0),
        ("beta_start", "abc"),
        ("beta_start", 0.5),
        ("beta_end", 1.0),
        ("beta_end", math.nan),
        ("steps", 1),
        ("steps", 10.0),
    ],
)
def test_impossible_betas_are_refused_by_key(key, value):
    with pytest.raises(ConfigError, match=rf"table\.{key}") as refusal:
        ScaledLinear(**{"beta_start": 0.00085, "beta_end": 0.012, "steps": 1000} | {key: value})
    assert repr(value) in str(refusal.value)


@pytest.mark.parametrize("terminal", [1.0, 2254.0, 0, math.nan, "inf", -math.inf])
def test_a_terminal_that_does_not_exceed_the_level_before_it_is_refused(sdxl, terminal):
    with pytest.raises(ConfigError, match=r"table\.terminal"):
        ZeroTerminal(table=sdxl, terminal=terminal)


def test_zero_terminal_needs_a_table():
    with pytest.raises(ConfigError, match=r"table\.table"):
        ZeroTerminal(table=[0.1, 1.0], terminal=math.inf)


# densities


@pytest.fixture(scope="module", params=["table", "table_to_inf", "zero_terminal", "laplace", "laplace_to_inf"])
def density(request, sdxl, zero_terminal):
    return {
        "table": TableUniform(table=sdxl),
        "table_to_inf": TerminalMass(density=TableUniform(table=sdxl), terminal=math.inf, mass=0.1),
        "zero_terminal": TableUniform(table=zero_terminal),
        "laplace": LAPLACE,
        "laplace_to_inf": TerminalMass(density=LAPLACE, terminal=math.inf, mass=0.1),
    }[request.param]


@given(st.lists(UNIT_INTERVAL, min_size=2, max_size=20))
def test_density_is_a_nondecreasing_map_into_0_to_inf(density, u):
    sigma = density.sigma(of(*sorted(u)))
    assert (sigma[1:] >= sigma[:-1]).all()
    assert (sigma >= 0).all()
    assert (sigma <= density.sigma_max).all()


def test_no_density_breaks_at_the_ends_of_the_unit_interval(density):
    sigma = density.sigma(of(0.0, LAST_U))
    assert not sigma.isnan().any()
    assert sigma[1].item() == density.sigma_max


def test_highest_levels(sdxl, zero_terminal):
    assert TableUniform(table=sdxl).sigma_max == sdxl.sigmas[-1].item()
    assert TableUniform(table=zero_terminal).sigma_max == math.inf
    assert TerminalMass(density=LAPLACE, terminal=math.inf, mass=0.01).sigma_max == math.inf
    assert math.isfinite(LAPLACE.sigma_max)


def test_table_uniform_draws_each_level_equally_often(zero_terminal):
    u = (torch.arange(3000, dtype=torch.float64) + 0.5) / 3000
    drawn = TableUniform(table=zero_terminal).sigma(u)
    assert torch.equal(drawn, zero_terminal.sigmas.repeat_interleave(3))


@pytest.mark.parametrize(("mu", "b"), [(0.0, 0.5), (-1.0, 0.75), (2.0, 3.0)])
@given(UNIT_INTERVAL)
def test_laplace_has_the_quantiles_of_scipy(mu, b, u):
    sigma = Laplace(mu=mu, b=b).sigma(of(u)).item()
    assert sigma == pytest.approx(math.exp(-stats.laplace(loc=mu, scale=b).ppf(1 - u) / 2), rel=1e-6)


def test_laplace_holds_the_published_interval_and_tail():
    """Computed from arXiv 2407.03297's b = 0.5."""
    assert LAPLACE.sigma(of(0.01, 0.5, 0.99)).tolist() == pytest.approx([0.376, 1, 2.66], rel=1e-3)
    for level, tail in ((14.6, 1.1e-5), (20000.0, 3.1e-18)):
        log_sigma = math.log(level) + torch.linspace(0, 20, 40_001, dtype=torch.float64)
        mass = torch.trapezoid(LAPLACE.log_prob(log_sigma.exp()).exp(), log_sigma)
        assert mass.item() == pytest.approx(tail, rel=0.02)


@pytest.mark.parametrize("laplace", [LAPLACE, Laplace(mu=-1.0, b=0.75)], ids=repr)
def test_log_prob_integrates_to_1_over_log_sigma(laplace):
    log_sigma = torch.linspace(-20, 20, 40_001, dtype=torch.float64)
    mass = torch.trapezoid(laplace.log_prob(log_sigma.exp()).exp(), log_sigma)
    assert mass.item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("laplace", [LAPLACE, Laplace(mu=-1.0, b=0.75)], ids=repr)
@given(st.floats(0.001, 0.999).filter(lambda u: u != 0.5))
def test_log_prob_is_the_slope_of_u_in_log_sigma(laplace, u):
    u = of(u).requires_grad_()
    sigma = laplace.sigma(u)
    (slope,) = torch.autograd.grad(sigma.log().sum(), u)
    assert laplace.log_prob(sigma.detach()).exp().item() == pytest.approx(1 / slope.item(), rel=1e-9)


def test_densities_with_atoms_have_no_log_prob(sdxl):
    for atomic in (TableUniform(table=sdxl), TerminalMass(density=LAPLACE, terminal=math.inf, mass=0.1)):
        with pytest.raises(NotImplementedError, match="atoms"):
            atomic.log_prob(of(1.0))


@pytest.mark.parametrize("mass", [0.001, 0.1, 0.5])
@pytest.mark.parametrize("terminal", [20000.0, math.inf])
def test_terminal_mass_puts_its_share_at_the_terminal_and_leaves_the_rest_as_it_was(mass, terminal):
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    drawn = TerminalMass(density=LAPLACE, terminal=terminal, mass=mass).sigma(u)
    at_terminal = drawn == terminal
    assert at_terminal.double().mean().item() == pytest.approx(mass, abs=1e-9)
    rest = torch.arange((~at_terminal).sum().item(), dtype=torch.float64)
    torch.testing.assert_close(drawn[~at_terminal], LAPLACE.sigma((rest + 0.5) / len(rest)), rtol=1e-9, atol=0)


def test_terminal_mass_begins_where_the_rest_ends():
    density = TerminalMass(density=LAPLACE, terminal=math.inf, mass=0.25)
    assert density.sigma(of(0.75)).item() == math.inf
    assert density.sigma(of(math.nextafter(0.75, 0))).item() == pytest.approx(LAPLACE.sigma_max)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Laplace(mu="abc", b=0.5), "mu"),
        (lambda: Laplace(mu=math.inf, b=0.5), "mu"),
        (lambda: Laplace(mu=0.0, b=0), "b"),
        (lambda: Laplace(mu=0.0, b=-1.0), "b"),
        (lambda: Laplace(mu=0.0, b=True), "b"),
        (lambda: TableUniform(table=None), "table"),
        (lambda: TerminalMass(density=KARRAS, terminal=math.inf, mass=0.1), "density"),
        (lambda: TerminalMass(density=LAPLACE, terminal=math.inf, mass=0), "mass"),
        (lambda: TerminalMass(density=LAPLACE, terminal=math.inf, mass=1.0), "mass"),
        (lambda: TerminalMass(density=LAPLACE, terminal=math.nan, mass=0.1), "terminal"),
        (lambda: TerminalMass(density=LAPLACE, terminal=14.6, mass=0.1), "terminal"),
    ],
)
def test_impossible_densities_are_refused_by_key(make, key):
    with pytest.raises(ConfigError, match=rf"density\.{key} must "):
        make()


# grids


@pytest.fixture(
    scope="module", params=["karras", "trailing", "trailing_from_inf", "quantiles", "karras_from_inf", "karras_20000"]
)
def grid(request, sdxl, zero_terminal):
    narrow = Karras(sigma_min=0.0292, sigma_max=17.8, rho=7.0)
    return {
        "karras": KARRAS,
        "trailing": Trailing(table=sdxl),
        "trailing_from_inf": Trailing(table=zero_terminal),
        "quantiles": Quantiles(density=LAPLACE, u_max=0.99),
        "karras_from_inf": FromTerminal(grid=narrow, terminal=math.inf),
        "karras_20000": FromTerminal(grid=narrow, terminal=20000.0),
    }[request.param]


@given(STEPS)
def test_grid_decreases_from_its_start_to_0_in_so_many_steps(grid, steps):
    sigmas = grid.sigmas(steps)
    assert sigmas.dtype == torch.float64
    assert len(sigmas) == steps + 1
    assert (sigmas[1:] < sigmas[:-1]).all()
    assert sigmas[0].item() == grid.start
    assert sigmas[-1].item() == 0


@given(st.integers(2, 200))
def test_karras_is_the_ladder_of_edm(steps):
    """arXiv 2206.00364, equation 5."""
    i = np.arange(steps)
    ladder = (20000 ** (1 / 7) + i / (steps - 1) * (0.0292 ** (1 / 7) - 20000 ** (1 / 7))) ** 7
    np.testing.assert_allclose(KARRAS.sigmas(steps), np.append(ladder, 0), rtol=1e-12)


def test_karras_in_one_step_starts_at_its_highest_level():
    assert KARRAS.sigmas(1).tolist() == pytest.approx([20000, 0], rel=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 8, 10, 16, 20, 25, 28, 30, 40, 50, 100, 250, 1000])
def test_trailing_visits_the_timesteps_of_diffusers(steps, zero_terminal):
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    visited = Trailing(table=zero_terminal).sigmas(steps)[:-1]
    assert torch.equal(visited, zero_terminal.sigmas[scheduler.timesteps])
    assert TableIndex(table=zero_terminal, quantize=False)(visited).tolist() == scheduler.timesteps.tolist()


def test_quantiles_take_equal_steps_of_probability_down_from_u_max():
    shares = stats.laplace(scale=0.5).sf(-2 * np.log(Quantiles(density=LAPLACE, u_max=0.99).sigmas(9)[:-1]))
    np.testing.assert_allclose(shares, 0.99 * np.arange(9, 0, -1) / 9)


@pytest.mark.parametrize("grid", [KARRAS, Quantiles(density=LAPLACE, u_max=0.99)], ids=repr)
def test_from_terminal_is_one_step_and_then_the_other_grid(grid):
    entered = FromTerminal(grid=grid, terminal=math.inf)
    assert entered.sigmas(1).tolist() == [math.inf, 0]
    assert entered.sigmas(8).tolist() == [math.inf, *grid.sigmas(7).tolist()]


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Karras(sigma_min=0, sigma_max=10.0, rho=7.0), "sigma_min"),
        (lambda: Karras(sigma_min=10.0, sigma_max=10.0, rho=7.0), "sigma_min"),
        (lambda: Karras(sigma_min=0.03, sigma_max=math.inf, rho=7.0), "sigma_max"),
        (lambda: Karras(sigma_min=0.03, sigma_max=10.0, rho=-7.0), "rho"),
        (lambda: Trailing(table="sdxl"), "table"),
        (lambda: Quantiles(density=LAPLACE, u_max=1.0), "u_max"),
        (lambda: Quantiles(density=LAPLACE, u_max=0), "u_max"),
        (lambda: Quantiles(density=None, u_max=0.99), "density"),
        (lambda: FromTerminal(grid=KARRAS, terminal=19999.0), "terminal"),
        (lambda: FromTerminal(grid=FromTerminal(grid=KARRAS, terminal=math.inf), terminal=math.inf), "terminal"),
        (lambda: FromTerminal(grid=LAPLACE, terminal=math.inf), "grid"),
    ],
)
def test_impossible_grids_are_refused_by_key(make, key):
    with pytest.raises(ConfigError, match=rf"grid\.{key} must "):
        make()


def test_karras_starts_exactly_at_its_sigma_max_so_the_same_terminal_is_refused():
    assert KARRAS.start == 20000
    with pytest.raises(ConfigError, match=r"grid\.terminal"):
        FromTerminal(grid=KARRAS, terminal=20000.0)


def test_more_steps_than_levels_are_refused(sdxl):
    with pytest.raises(ConfigError, match="steps must be at most 1000"):
        Trailing(table=sdxl).sigmas(1001)


def test_quantiles_that_would_repeat_an_atom_are_refused(sdxl):
    to_inf = TerminalMass(density=LAPLACE, terminal=math.inf, mass=0.3)
    for density, steps in ((to_inf, 10), (TableUniform(table=sdxl), 1001)):
        with pytest.raises(ConfigError, match=r"steps|density"):
            Quantiles(density=density, u_max=0.99).sigmas(steps)


# timesteps


@pytest.mark.parametrize("quantize", [False, True])
def test_table_index_inverts_the_table(sdxl, zero_terminal, quantize):
    for table in (sdxl, zero_terminal, ZeroTerminal(table=sdxl, terminal=20000.0)):
        assert TableIndex(table=table, quantize=quantize)(table.sigmas).tolist() == list(range(1000))


@given(st.floats(0, 999))
def test_table_index_inverts_interpolation_in_the_angle(zero_terminal, t):
    angle = np.interp(t, np.arange(1000), np.arctan(zero_terminal.sigmas.numpy()))
    index = TableIndex(table=zero_terminal, quantize=False)(of(math.tan(angle)))
    assert index.item() == pytest.approx(t, abs=1e-6)


@given(st.lists(st.floats(min_value=0), min_size=2, max_size=20))
def test_table_index_grows_with_sigma_and_stays_in_the_table(zero_terminal, sigmas):
    sigmas = of(*sorted(sigmas))
    index = TableIndex(table=zero_terminal, quantize=False)(sigmas)
    assert (index[1:] >= index[:-1]).all()
    assert ((index >= 0) & (index <= 999)).all()


def test_table_index_tells_what_lies_outside_as_the_nearest_end(sdxl, zero_terminal):
    assert TableIndex(table=sdxl, quantize=False)(of(0.0, 0.01, 15.0, 20000.0, math.inf)).tolist() == [0, 0] + [999] * 3
    assert TableIndex(table=zero_terminal, quantize=False)(of(1e6)).item() == pytest.approx(999, abs=0.01)


@given(st.floats(-4, 10).map(math.exp))
def test_quantize_rounds_to_the_nearest_index(zero_terminal, sigma):
    fractional, whole = (TableIndex(table=zero_terminal, quantize=quantize)(of(sigma)) for quantize in (False, True))
    assert whole.item() == round(fractional.item())


def test_table_index_is_close_to_interpolation_in_log_sigma_on_the_plain_table(sdxl):
    log_sigma = np.linspace(math.log(sdxl.sigmas[0]), math.log(sdxl.sigmas[-1]), 20_001)
    in_log_sigma = np.interp(log_sigma, sdxl.sigmas.log(), np.arange(1000))
    index = TableIndex(table=sdxl, quantize=False)(torch.from_numpy(log_sigma).exp())
    assert np.abs(index.numpy() - in_log_sigma).max() < 0.05


def test_log_sigma_is_the_noise_condition_of_edm():
    """arXiv 2206.00364, Table 1: ln(sigma) / 4."""
    assert LogSigma(scale=0.25)(of(1.0, math.exp(2), math.exp(-4))).tolist() == pytest.approx([0, 0.5, -1])


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda table: TableIndex(table=None, quantize=False), "table"),
        (lambda table: TableIndex(table=table, quantize=1), "quantize"),
        (lambda table: TableIndex(table=table, quantize="no"), "quantize"),
        (lambda table: LogSigma(scale=0), "scale"),
        (lambda table: LogSigma(scale=math.nan), "scale"),
    ],
)
def test_impossible_timesteps_are_refused_by_key(sdxl, make, key):
    with pytest.raises(ConfigError, match=rf"timesteps\.{key} must "):
        make(sdxl)


# the four together


class BelowOne(Density):
    def sigma(self, u):
        return u


def test_schedule_knows_its_highest_level_and_which_parts_reach_inf(sdxl, zero_terminal, make_schedule):
    plain, both = make_schedule(sdxl), make_schedule(zero_terminal)
    only_grid = make_schedule(sdxl, grid=Trailing(table=zero_terminal))
    only_density = make_schedule(sdxl, density=TableUniform(table=zero_terminal))
    assert plain.sigma_max == sdxl.sigmas[-1].item()
    assert make_schedule(sdxl, density=BelowOne()).sigma_max == sdxl.sigmas[-1].item()
    assert make_schedule(sdxl, grid=KARRAS).sigma_max == pytest.approx(20000)
    assert both.sigma_max == only_grid.sigma_max == only_density.sigma_max == math.inf
    reached = [schedule.parts_at_inf for schedule in (plain, both, only_grid, only_density)]
    assert reached == ["", "density and grid", "grid", "density"]


@pytest.mark.parametrize("part", ["density", "grid"])
def test_a_level_that_the_network_cannot_be_told_is_refused(sdxl, zero_terminal, make_schedule, part):
    at_inf = {"density": TableUniform(table=zero_terminal), "grid": Trailing(table=zero_terminal)}[part]
    with pytest.raises(ConfigError, match=rf"LogSigma has no finite timestep .* its {part} reaches"):
        make_schedule(sdxl, timesteps=LogSigma(scale=0.25), **{part: at_inf})
    make_schedule(sdxl, timesteps=LogSigma(scale=0.25))


@pytest.mark.parametrize("part", ["density", "grid", "timesteps"])
def test_a_part_of_the_wrong_kind_is_refused_by_name(sdxl, make_schedule, part):
    with pytest.raises(ConfigError, match=rf"schedule\.{part} must be a .*, got 'abc'"):
        make_schedule(sdxl, **{part: "abc"})
