"""Densities and their combinations, against scipy's distributions of ln sigma, closed forms, and one another."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ztsnr.core.errors import ConfigError
from ztsnr.core.schedule.combined import Mixture, Shifted, TerminalMass, Truncated
from ztsnr.core.schedule.density import (
    LAST_U,
    Cauchy,
    Cosine,
    Density,
    FlowUniform,
    Karras,
    Laplace,
    LogNormal,
    LogUniform,
    TableInterpolated,
    TableUniform,
)
from ztsnr.core.schedule.table import ScaledLinear, ZeroTerminal

UNIT_INTERVAL = st.floats(0, 1, exclude_max=True)
INNER = st.floats(0.001, 0.999)
SIGMA = st.floats(1e-3, 1e4)
SDXL = ScaledLinear(beta_start=0.00085, beta_end=0.012, steps=1000)
TO_INF = ZeroTerminal(table=SDXL, terminal=math.inf)
LAPLACE = Laplace(mu=0.0, b=0.5)
LEVELS = TableUniform(table=TO_INF)

SCIPY = {  # of ln sigma = -logSNR / 2
    LogNormal(mean=-1.2, std=1.2): stats.norm(-1.2, 1.2),
    LogNormal(mean=-0.4, std=1.0): stats.norm(-0.4, 1.0),
    Laplace(mu=0.0, b=0.5): stats.laplace(0, 0.25),
    Laplace(mu=-1.0, b=0.75): stats.laplace(0.5, 0.375),
    Cauchy(mu=0.0, gamma=0.5): stats.cauchy(0, 0.25),
    Cauchy(mu=3.0, gamma=2.0): stats.cauchy(-1.5, 1.0),
    Cosine(mu=0.0, scale=1.0): stats.hypsecant(0, 1),
    Cosine(mu=1.0, scale=2.0): stats.hypsecant(-0.5, 0.5),
    FlowUniform(): stats.logistic(),
    LogUniform(sigma_min=0.0292, sigma_max=14.6146): stats.uniform(math.log(0.0292), math.log(14.6146 / 0.0292)),
}
CONTINUOUS = [
    *SCIPY,
    Karras(sigma_min=0.0292, sigma_max=20000.0, rho=7.0),
    Karras(sigma_min=0.5, sigma_max=2.0, rho=1.0),
    TableInterpolated(table=SDXL),
    TableInterpolated(table=TO_INF),
    TableInterpolated(table=ZeroTerminal(table=SDXL, terminal=20000.0)),
    Truncated(density=LAPLACE, sigma_min=0.3, sigma_max=2.0),
    Truncated(density=Cauchy(mu=0.0, gamma=0.5), sigma_min=1e-4, sigma_max=20000.0),
    Shifted(density=TableInterpolated(table=TO_INF), factor=2.0),
    Mixture(densities={"low": LogNormal(mean=-3.0, std=0.5), "high": LAPLACE}, shares={"low": 1.0, "high": 3.0}),
]
ATOMIC = [
    TableUniform(table=SDXL),
    LEVELS,
    TerminalMass(density=LAPLACE, terminal=math.inf, mass=0.05),
    TerminalMass(density=TableInterpolated(table=SDXL), terminal=20000.0, mass=0.1),
    Truncated(density=LEVELS, sigma_min=0.1, sigma_max=14.6),
    Shifted(density=LEVELS, factor=2.0),
    Mixture(densities={"table": LEVELS, "laplace": LAPLACE}, shares={"table": 0.5, "laplace": 0.5}),
]


def of(*values):
    return torch.tensor(values, dtype=torch.float64)


def midpoints(count):
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def just_below(sigma):
    return torch.nextafter(sigma, torch.zeros_like(sigma))


def is_same(actual: Density, expected: Density, u=None):
    u = midpoints(999) if u is None else u
    torch.testing.assert_close(actual.sigma(u), expected.sigma(u), rtol=1e-9, atol=0)
    sigma = expected.sigma(u)
    torch.testing.assert_close(actual.cdf(sigma), expected.cdf(sigma), rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(actual.log_prob(sigma), expected.log_prob(sigma), rtol=1e-9, atol=1e-9)


# what holds for each of them


@pytest.mark.parametrize("density", CONTINUOUS + ATOMIC, ids=repr)
@given(st.lists(UNIT_INTERVAL, max_size=20))
def test_a_density_is_a_nondecreasing_map_into_0_to_inf(density, u):
    sigma = density.sigma(of(0.0, *sorted(u), LAST_U, 1.0))
    assert sigma.dtype == torch.float64
    assert (sigma[1:] >= sigma[:-1]).all()
    assert sigma[0] >= 0
    assert sigma[-2].item() == density.highest


@pytest.mark.parametrize("density", CONTINUOUS + ATOMIC, ids=repr)
@given(INNER)
def test_cdf_inverts_the_quantiles_and_holds_u_in_its_jump_at_an_atom(density, u):
    sigma = density.sigma(of(u))
    assert density.cdf(sigma).item() >= u - 1e-12
    assert density.cdf(just_below(sigma)).item() <= u + 1e-12
    assert density.cdf(of(0.0, math.inf)).tolist() == [0, 1]


@pytest.mark.parametrize("density", CONTINUOUS + ATOMIC, ids=repr)
def test_cdf_by_bisection_is_the_closed_form(density):
    sigma = torch.cat([of(1e-9, 1e-5, 0.0292, 0.05, 14.6, 20000.0, math.inf), density.sigma(midpoints(23))])
    torch.testing.assert_close(Density.cdf(density, sigma), density.cdf(sigma), rtol=0, atol=1e-12)


@pytest.mark.parametrize("density", CONTINUOUS, ids=repr)
def test_log_prob_is_the_slope_of_the_cdf_over_log_sigma_and_none_at_the_ends(density):
    sigma, step = density.sigma(midpoints(999)), 1e-6
    slope = (density.cdf(sigma * math.exp(step)) - density.cdf(sigma * math.exp(-step))) / (2 * step)
    torch.testing.assert_close(slope, density.log_prob(sigma).exp(), rtol=1e-4, atol=0)
    log_prob = density.log_prob(of(0.0, 1e-9, 1e9, math.inf))
    assert not log_prob.isnan().any()
    assert log_prob[[0, 3]].tolist() == [-math.inf, -math.inf]


@pytest.mark.parametrize("density", ATOMIC, ids=repr)
def test_a_density_with_atoms_has_no_log_prob(density):
    with pytest.raises(NotImplementedError, match="has atoms, so it has no log_prob"):
        density.log_prob(of(1.0))


@pytest.mark.parametrize(
    "density",
    [
        LogUniform(sigma_min=0.1, sigma_max=10.0),
        Karras(sigma_min=0.1, sigma_max=10.0, rho=7.0),
        Truncated(density=LAPLACE, sigma_min=0.1, sigma_max=10.0),
    ],
    ids=repr,
)
def test_bounds_are_included(density):
    log_prob = density.log_prob(of(math.nextafter(0.1, 0), 0.1, 10.0, math.nextafter(10.0, 11)))
    assert log_prob.isfinite().tolist() == [False, True, True, False]


# against scipy


@pytest.mark.parametrize("density", SCIPY, ids=repr)
@given(st.floats(1e-300, 1, exclude_max=True))
def test_quantiles_are_those_of_scipy_far_into_the_tails(density, u):
    if isinstance(density, LogUniform | LogNormal | Laplace | Cosine | FlowUniform) or 1e-3 < u < 0.999:
        expected = SCIPY[density].ppf(u) if u < 0.5 else SCIPY[density].isf(1 - u)
        assert density.sigma(of(u)).log().item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("density", SCIPY, ids=repr)
@given(SIGMA)
def test_cdf_and_log_prob_are_those_of_scipy(density, sigma):
    expected, level = SCIPY[density], of(sigma)
    assert density.cdf(level).item() == pytest.approx(expected.cdf(math.log(sigma)), rel=1e-9, abs=1e-15)
    log_prob = expected.logpdf(math.log(sigma))
    assert density.log_prob(level).item() == pytest.approx(log_prob, rel=1e-9, abs=1e-9)


# the highest levels


@pytest.mark.parametrize(
    ("density", "highest", "limit"),
    [
        (LAPLACE, 2.0**13, math.inf),
        (LogNormal(mean=-1.2, std=1.2), math.exp(-1.2 + 1.2 * stats.norm.isf(2**-53)), math.inf),
        (Cosine(mu=0.0, scale=1.0), 2**54 / math.pi, math.inf),
        (Cosine(mu=0.0, scale=2.0), (2**54 / math.pi) ** 0.5, math.inf),
        (Cauchy(mu=0.0, gamma=0.5), math.inf, math.inf),
        (FlowUniform(), 2.0**53 - 1, math.inf),
        (LogUniform(sigma_min=0.1, sigma_max=10.0), 10, 10),
        (Karras(sigma_min=0.0292, sigma_max=20000.0, rho=7.0), 20000, 20000),
        (TableUniform(table=SDXL), SDXL.sigmas[-1].item(), SDXL.sigmas[-1].item()),
        (LEVELS, math.inf, math.inf),
        (TableInterpolated(table=SDXL), SDXL.sigmas[-1].item(), SDXL.sigmas[-1].item()),
        (Truncated(density=LAPLACE, sigma_min=0.0, sigma_max=14.6), 14.6, 14.6),
        (TerminalMass(density=LAPLACE, terminal=20000.0, mass=0.1), 20000, 20000),
        (TerminalMass(density=LogUniform(sigma_min=0.1, sigma_max=0.4), terminal=0.5, mass=0.1), 0.5, 0.5),
        (Shifted(density=LAPLACE, factor=2.0), 2.0**14, math.inf),
    ],
    ids=repr,
)
def test_the_highest_draw_and_the_limit(density, highest, limit):
    assert density.highest == pytest.approx(highest, rel=1e-8)
    assert density.sigma(of(1.0)).item() == pytest.approx(limit, rel=1e-8)


# published numbers


def test_laplace_has_the_published_interval_and_tails():
    """arXiv 2407.03297's b = 0.5. Levels mirror about sigma = 1, so that P(sigma > s) = cdf(1 / s) keeps its digits."""
    assert LAPLACE.sigma(of(0.01, 0.99)).tolist() == pytest.approx([0.376, 2.66], rel=1e-3)
    within = LAPLACE.cdf(of(2.66)) - LAPLACE.cdf(of(0.376))
    assert within.item() == pytest.approx(0.98, abs=1e-4)
    assert LAPLACE.cdf(1 / of(14.6, 20000.0)).tolist() == pytest.approx([1.1e-5, 3.125e-18], rel=1e-3)


def test_logit_normal_flow_time_is_lognormal_in_sigma():
    """arXiv 2403.03206, equation 19: the density of tau, times d tau / d ln sigma = tau (1 - tau)."""
    mean, std, tau = 0.3, 1.4, midpoints(99)
    logit = (tau / (1 - tau)).log()
    density = (-((logit - mean) ** 2) / (2 * std**2)).exp() / (std * math.sqrt(2 * math.pi)) / (tau * (1 - tau))
    log_prob = LogNormal(mean=mean, std=std).log_prob(tau / (1 - tau))
    torch.testing.assert_close(log_prob.exp(), density * tau * (1 - tau))


# tables and Karras


def test_table_uniform_draws_each_level_equally_often():
    assert torch.equal(LEVELS.sigma(midpoints(3000)), TO_INF.sigmas.repeat_interleave(3))
    torch.testing.assert_close(LEVELS.cdf(TO_INF.sigmas), torch.arange(1, 1001).double() / 1000)


@pytest.mark.parametrize("level", [0, 1, 500, 998])
def test_log_prob_of_table_interpolated_at_a_level_is_that_above_it_and_at_the_last_that_below(level):
    density, sigma = TableInterpolated(table=TO_INF), TO_INF.sigmas[level : level + 1]
    above, below = density.log_prob(sigma * (1 + 1e-9)), density.log_prob(sigma * (1 - 1e-9))
    torch.testing.assert_close(density.log_prob(sigma), above, rtol=1e-7, atol=0)
    assert (above - below).abs() > 1e-4
    density, last = TableInterpolated(table=SDXL), SDXL.sigmas[-1:]
    torch.testing.assert_close(density.log_prob(last), density.log_prob(last * (1 - 1e-9)), rtol=1e-7, atol=0)


@given(UNIT_INTERVAL, st.floats(1, 10))
def test_karras_is_the_ladder_of_edm(u, rho):
    """arXiv 2206.00364, equation 5, from its other end."""
    ladder = (20000 ** (1 / rho) + (1 - u) * (0.0292 ** (1 / rho) - 20000 ** (1 / rho))) ** rho
    sigma = Karras(sigma_min=0.0292, sigma_max=20000.0, rho=rho).sigma(of(u)).item()
    assert sigma == pytest.approx(ladder, rel=1e-6)
    assert 0.0292 <= sigma <= 20000


# truncated


@pytest.mark.parametrize("density", SCIPY, ids=repr)
@given(SIGMA)
def test_truncated_is_the_conditional_distribution(density, sigma):
    truncated, inner = Truncated(density=density, sigma_min=0.2, sigma_max=3.0), SCIPY[density]
    low, high = inner.cdf(np.log([0.2, 3.0]))
    inside = 0.2 <= sigma <= 3
    cdf = np.clip((inner.cdf(math.log(sigma)) - low) / (high - low), 0, 1)
    log_prob = inner.logpdf(math.log(sigma)) - math.log(high - low) if inside else -math.inf
    assert truncated.cdf(of(sigma)).item() == pytest.approx(cdf, rel=1e-9, abs=1e-12)
    assert truncated.log_prob(of(sigma)).item() == pytest.approx(log_prob, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("density", [*SCIPY, LEVELS, TableInterpolated(table=TO_INF)], ids=repr)
@pytest.mark.parametrize(("low", "high"), [(0.0, 14.6), (0.1, 0.2), (3.0, 9.0)])
@given(UNIT_INTERVAL)
def test_truncated_stays_within_its_bounds(density, low, high, u):
    truncated = Truncated(density=density, sigma_min=low, sigma_max=high)
    sigma = truncated.sigma(of(u, 0.0, LAST_U, 1.0))
    assert (sigma >= low).all()
    assert (sigma <= high).all()


def test_a_truncated_table_draws_its_levels_within_the_bounds_equally_often():
    for low, high in ((0.0, 14.6), (TO_INF.sigmas[200].item(), TO_INF.sigmas[300].item()), (100.0, math.inf)):
        inside = TO_INF.sigmas[(TO_INF.sigmas >= low) & (TO_INF.sigmas <= high)]
        truncated = Truncated(density=LEVELS, sigma_min=low, sigma_max=high)
        assert torch.equal(truncated.sigma(midpoints(3 * len(inside))), inside.repeat_interleave(3))
        assert truncated.sigma(of(0.0, LAST_U)).tolist() == inside[[0, -1]].tolist()
        torch.testing.assert_close(truncated.cdf(inside), (torch.arange(len(inside)) + 1).double() / len(inside))


@given(st.integers(1, 998))
def test_a_table_truncated_at_any_of_its_levels_draws_only_levels(index):
    level = TO_INF.sigmas[index].item()
    with_mass = TerminalMass(density=TableUniform(table=SDXL), terminal=math.inf, mass=0.05)
    for low, high in ((0.0, level), (level, math.inf)):
        of_table, of_mass = (
            Truncated(density=density, sigma_min=low, sigma_max=high).sigma(of(0.0, LAST_U))
            for density in (LEVELS, with_mass)
        )
        assert torch.isin(of_table, TO_INF.sigmas).all()
        assert torch.isin(of_mass, torch.cat([SDXL.sigmas, of(math.inf)])).all()


def test_truncated_follows_a_density_that_changes():
    class Learned(Density):
        scale = 1.0

        def sigma(self, u):
            return self.scale * u

    learned = Learned()
    truncated = Truncated(density=learned, sigma_min=0.25, sigma_max=0.5)
    assert truncated.sigma(of(0.5)).item() == pytest.approx(0.375)
    learned.scale = 0.4
    assert truncated.sigma(of(0.5)).item() == pytest.approx(0.325)


def test_truncated_rejects_bounds_that_leave_too_few_draws():
    for low, high in ((20.0, 30.0), (0.0, 0.01), (2e5, 3e5)):
        with pytest.raises(ConfigError, match=rf"^sigma_min={low} and sigma_max={high} leave 0 of"):
            Truncated(density=LogUniform(sigma_min=0.1, sigma_max=10.0), sigma_min=low, sigma_max=high)
    with pytest.raises(ConfigError, match=r"leave 1.*e-10 of density, which draws 1 of its levels below"):
        Truncated(density=LAPLACE, sigma_min=250.0, sigma_max=20000.0)


# shifted


@pytest.mark.parametrize("factor", [0.5, 3.7])
@pytest.mark.parametrize(
    ("density", "key", "by"),
    [
        (Laplace(mu=0.5, b=0.5), "mu", -2),
        (Cauchy(mu=0.5, gamma=0.5), "mu", -2),
        (Cosine(mu=0.5, scale=2.0), "mu", -2),
        (LogNormal(mean=-1.2, std=1.2), "mean", 1),
    ],
    ids=repr,
)
def test_a_shift_moves_the_mean_of_log_snr(density, key, by, factor):
    fields = vars(density) | {key: vars(density)[key] + by * math.log(factor)}
    is_same(Shifted(density=density, factor=factor), type(density)(**fields))


def test_a_shift_of_flow_time_is_that_of_stable_diffusion_3():
    """arXiv 2403.03206, equation 23: tau -> k tau / (1 + (k - 1) tau)."""
    tau = midpoints(99)
    shifted = Shifted(density=FlowUniform(), factor=3.0).sigma(tau)
    torch.testing.assert_close(shifted / (1 + shifted), 3 * tau / (1 + 2 * tau))


# mixture


@given(SIGMA)
def test_a_mixture_is_the_weighted_mean_of_its_parts(sigma):
    parts = {"a": LogNormal(mean=-1.2, std=1.2), "b": LAPLACE, "c": FlowUniform()}
    mixture = Mixture(densities=parts, shares={"c": 5.0, "a": 2.0, "b": 1.0})  # the order of the shares is no matter
    dists, weight, x = [SCIPY[density] for density in parts.values()], np.array([2, 1, 5]) / 8, math.log(sigma)
    assert mixture.cdf(of(sigma)).item() == pytest.approx(weight @ [dist.cdf(x) for dist in dists], rel=1e-9)
    assert mixture.log_prob(of(sigma)).exp().item() == pytest.approx(weight @ [dist.pdf(x) for dist in dists], rel=1e-9)


def test_a_mixture_inverts_its_cdf_and_keeps_the_atoms_of_its_parts_exactly():
    """Half of the draws are Laplace's, half the table's 1000 levels, of which one is inf."""
    mixture = Mixture(densities={"table": LEVELS, "laplace": LAPLACE}, shares={"table": 1.0, "laplace": 1.0})
    u = midpoints(2000)
    sigma = mixture.sigma(u)
    at_level = torch.isin(sigma, TO_INF.sigmas)
    assert at_level.double().mean().item() == pytest.approx(0.5, abs=0.01)
    assert (sigma == math.inf).sum().item() == 1
    torch.testing.assert_close(mixture.cdf(sigma[~at_level]), u[~at_level], rtol=1e-12, atol=0)
    assert (mixture.cdf(just_below(sigma)) <= u + 1e-12).all()
    assert mixture.sigma(of(0.9995 - 1e-9, 0.9995 + 1e-9)).isinf().tolist() == [False, True]


def test_log_prob_of_a_mixture_keeps_its_tails():
    parts = {"a": LogNormal(mean=0.0, std=0.01), "b": LogNormal(mean=0.1, std=0.01)}
    log_prob = Mixture(densities=parts, shares={"a": 1.0, "b": 1.0}).log_prob(of(math.e)).item()
    assert log_prob == pytest.approx(stats.norm(0.1, 0.01).logpdf(1) - math.log(2), rel=1e-9)


# terminal mass


@pytest.mark.parametrize("mass", [0.001, 0.5])
@pytest.mark.parametrize("terminal", [20000.0, math.inf])
def test_terminal_mass_puts_its_share_at_the_terminal_and_scales_the_rest(mass, terminal):
    levels = TerminalMass(density=LAPLACE, terminal=terminal, mass=mass).sigma(midpoints(100_000))
    at_terminal = levels == terminal
    assert at_terminal.double().mean().item() == pytest.approx(mass, abs=1e-9)
    rest = (~at_terminal).sum().item()
    torch.testing.assert_close(levels[~at_terminal], LAPLACE.sigma(midpoints(rest)), rtol=1e-9, atol=0)


@pytest.mark.parametrize("inner", [TableInterpolated, TableUniform])
def test_terminal_mass_may_be_at_the_last_level_of_a_table(inner):
    table = ZeroTerminal(table=SDXL, terminal=20000.0)
    density = TerminalMass(density=inner(table=table), terminal=20000.0, mass=0.05)
    assert density.highest == 20000
    assert (density.sigma(midpoints(1000)) == 20000).sum().item() == (51 if inner is TableUniform else 50)


# refusals


@pytest.mark.parametrize(
    ("make", "key", "value"),
    [
        (lambda: Laplace(mu="abc", b=0.5), "mu", "'abc'"),
        (lambda: Laplace(mu=math.inf, b=0.5), "mu", "inf"),
        (lambda: Laplace(mu=math.nan, b=0.5), "mu", "nan"),
        (lambda: Laplace(mu=0.0, b=0), "b", "0"),
        (lambda: Laplace(mu=0.0, b=-1.0), "b", "-1.0"),
        (lambda: Laplace(mu=0.0, b=True), "b", "True"),
        (lambda: Cauchy(mu=None, gamma=0.5), "mu", "None"),
        (lambda: Cauchy(mu=0.0, gamma=-0.5), "gamma", "-0.5"),
        (lambda: Cauchy(mu=0.0, gamma=0.0), "gamma", "0.0"),
        (lambda: Cosine(mu=math.nan, scale=1.0), "mu", "nan"),
        (lambda: Cosine(mu=0.0, scale=0.0), "scale", "0.0"),
        (lambda: LogNormal(mean="x", std=1.0), "mean", "'x'"),
        (lambda: LogNormal(mean=0.0, std=-1.2), "std", "-1.2"),
        (lambda: LogNormal(mean=0.0, std=0), "std", "0"),
        (lambda: LogNormal(mean=0.0, std=math.inf), "std", "inf"),
        (lambda: LogUniform(sigma_min=0.0, sigma_max=1.0), "sigma_min", "0.0"),
        (lambda: LogUniform(sigma_min=2.0, sigma_max=1.0), "sigma_min", "2.0"),
        (lambda: LogUniform(sigma_min=0.1, sigma_max=math.inf), "sigma_max", "inf"),
        (lambda: LogUniform(sigma_min=0.1, sigma_max=math.nan), "sigma_max", "nan"),
        (lambda: Karras(sigma_min=20000.0, sigma_max=0.0292, rho=7.0), "sigma_min", "20000.0"),
        (lambda: Karras(sigma_min=0.0292, sigma_max=20000.0, rho=-7.0), "rho", "-7.0"),
        (lambda: Karras(sigma_min=0.0292, sigma_max=20000.0, rho=0), "rho", "0"),
        (lambda: TableUniform(table=None), "table", "None"),
        (lambda: TableInterpolated(table="sdxl"), "table", "'sdxl'"),
        (lambda: TerminalMass(density=SDXL, terminal=math.inf, mass=0.1), "density", "ScaledLinear"),
        (lambda: TerminalMass(density=LAPLACE, terminal=math.inf, mass=0), "mass", "0"),
        (lambda: TerminalMass(density=LAPLACE, terminal=math.inf, mass=1.0), "mass", "1.0"),
        (lambda: TerminalMass(density=LAPLACE, terminal=math.nan, mass=0.1), "terminal", "nan"),
        (lambda: TerminalMass(density=LAPLACE, terminal=14.6, mass=0.1), "terminal", "14.6"),
        (lambda: Truncated(density=0.5, sigma_min=0.1, sigma_max=1.0), "density", "0.5"),
        (lambda: Truncated(density=LAPLACE, sigma_min=-0.1, sigma_max=1.0), "sigma_min", "-0.1"),
        (lambda: Truncated(density=LAPLACE, sigma_min=2.0, sigma_max=1.0), "sigma_max", "1.0"),
        (lambda: Truncated(density=LAPLACE, sigma_min=2.0, sigma_max=2.0), "sigma_max", "2.0"),
        (lambda: Truncated(density=LAPLACE, sigma_min=0.1, sigma_max=math.nan), "sigma_max", "nan"),
        (lambda: Shifted(density=None, factor=2.0), "density", "None"),
        (lambda: Shifted(density=LAPLACE, factor=0.0), "factor", "0.0"),
        (lambda: Shifted(density=LAPLACE, factor=math.inf), "factor", "inf"),
        (lambda: Mixture(densities={}, shares={}), "densities", "{}"),
        (lambda: Mixture(densities=[LAPLACE], shares=[1.0]), "densities", "[Laplace"),
        (lambda: Mixture(densities={"a": "laplace"}, shares={"a": 1.0}), "densities.a", "'laplace'"),
        (lambda: Mixture(densities={"a": LAPLACE}, shares={"b": 1.0}), "shares", "{'b': 1.0}"),
        (lambda: Mixture(densities={"a": LAPLACE}, shares={"a": -1.0}), "shares.a", "-1.0"),
        (lambda: Mixture(densities={"a": LAPLACE}, shares={"a": 0}), "shares.a", "0"),
    ],
)
def test_density_rejects_an_impossible_field_by_name_and_value(make, key, value):
    with pytest.raises(ConfigError, match=rf"^{key} must ") as refusal:
        make()
    assert f"got {value}" in str(refusal.value)
