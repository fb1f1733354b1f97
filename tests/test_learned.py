import copy
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ztsnr.core.distance import MSE
from ztsnr.core.errors import ConfigError
from ztsnr.core.learned import InfoNoise, Uncertainty
from ztsnr.core.objective import Objective
from ztsnr.core.schedule.combined import TerminalMass
from ztsnr.core.schedule.density import LAST_U, Laplace, LogUniform
from ztsnr.core.target import EDM, X0, Eps, Flow, V
from ztsnr.core.weighting import Importance, MinSNR, RemappedTable, SoftMinSNR, Unit

TARGETS = [Eps(), X0(), V(), EDM(sigma_data=0.5), Flow()]
LAPLACE = Laplace(mu=0.0, b=0.5)
LOW, HIGH = 0.03, 14.6
PRIOR = LogUniform(sigma_min=LOW, sigma_max=HIGH)


def of(*values):
    return torch.tensor(values, dtype=torch.float64)


def middles(count):
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def uncertainty(weighting=Unit(base=V()), features=128, amplitude=0.0, bandwidth=1.0):  # noqa: B008
    uncertainty_weighting = Uncertainty(weighting=weighting, features=features, bandwidth=bandwidth)
    if amplitude:
        nn.init.normal_(uncertainty_weighting.amplitude, std=amplitude, generator=torch.Generator().manual_seed(1))
    return uncertainty_weighting


def infonoise(**settings):
    defaults = {"prior": PRIOR, "weighting": Unit(base=V()), "sigma_min": LOW, "sigma_max": HIGH, "bins": 32}
    defaults |= {"warmup": 20, "refresh": 10, "decay": 0.98, "cutoff": 0.1, "order": 3.0}
    return InfoNoise(**defaults | settings)


# uncertainty


@pytest.mark.parametrize("target", TARGETS, ids=repr)
def test_uncertainty_starts_as_the_weighting_it_wraps(target):
    sigma = of(0.03, 1, 14.6, math.inf) if target.finite_at_inf else of(0, 0.03, 1, 14.6)
    plain = MinSNR(base=X0(), gamma=5.0, offset=1.0, floor=0.0)
    assert torch.equal(uncertainty(plain)(sigma, target), plain(sigma, target))
    assert uncertainty(plain).penalty(sigma).tolist() == [0] * 4


def test_uncertainty_is_finite_and_continuous_at_both_ends():
    learned = uncertainty(amplitude=1.0)
    ends, close = learned.penalty(of(0, math.inf)), learned.penalty(of(1e-16, 1e16))
    assert ends.isfinite().all()
    torch.testing.assert_close(ends, close, atol=1e-4, rtol=0)
    assert learned(of(0, math.inf), V()).isfinite().all()
    assert ends[0] != ends[1]


def test_uncertainty_features_are_the_papers_of_tanh_of_c_noise():
    """c_noise = ln(sigma) / 4, features cos(2 pi f x + phase) sqrt(2), unit variance at unit amplitudes."""
    learned = uncertainty(amplitude=1.0)
    x = torch.tensor([math.tanh(math.log(sigma) / 4) for sigma in (0.1, 2.0, 30.0)])
    features = [(learned.frequency * value + learned.phase).cos() * 2**0.5 for value in x]
    expected = torch.stack([(feature * learned.amplitude).sum() / 128**0.5 for feature in features])
    torch.testing.assert_close(learned.penalty(of(0.1, 2.0, 30.0)), expected, rtol=1e-4, atol=1e-5)
    wide = uncertainty(features=10_000)
    assert wide.frequency.std().item() == pytest.approx(2 * math.pi, rel=0.05)
    assert (wide.phase.min().item(), wide.phase.max().item()) == pytest.approx((0, 2 * math.pi), abs=0.01)


def test_uncertainty_learns_the_logarithm_of_the_weighted_error():
    """d/du (w E exp(-u) + u) = 0 at u = ln(w E)."""
    target, weighting = X0(), Unit(base=EDM(sigma_data=0.5))
    sigma = torch.cat([torch.logspace(-1.5, 2, 60, dtype=torch.float64), of(math.inf)])
    on_v = 0.05 + 2 / (1 + 4 * sigma.square())  # from 2 without noise to 0.05 at inf
    error = on_v * target.gain(sigma)
    learned = uncertainty(weighting)
    adam = torch.optim.Adam(learned.parameters(), lr=0.1)
    for step in range(400):
        adam.param_groups[0]["lr"] = 0.1 * (1 - step / 400)
        adam.zero_grad()
        (learned(sigma, target) * error + learned.penalty(sigma)).mean().backward()
        adam.step()
    optimum = (weighting(sigma, target) * error).log()
    assert optimum.max() - optimum.min() > 1.5
    torch.testing.assert_close(learned.penalty(sigma).double(), optimum, atol=0.05, rtol=0)


def test_uncertainty_has_the_published_loss_trains_only_amplitudes_and_draws_no_random_numbers(
    zero_terminal, make_schedule
):
    """arXiv 2312.02696, equation 21: w / exp(u) * error + u."""
    state = torch.get_rng_state()
    learned = uncertainty(features=16, amplitude=1.0)
    assert torch.equal(torch.get_rng_state(), state)
    assert [name for name, _ in learned.named_parameters()] == ["amplitude"]
    schedule = make_schedule(zero_terminal)
    objective = Objective(schedule=schedule, target=V(), weighting=learned, distance=MSE(), normalise_weight=False)
    x0, noise = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
    loss = objective.terms(lambda z, t: z, x0, noise, middles(8), {}).loss
    sigma = schedule.density.sigma(middles(8))
    plain = Objective(schedule=schedule, target=V(), weighting=Unit(base=V()), distance=MSE(), normalise_weight=False)
    u = learned.penalty(sigma)
    unweighted = plain.terms(lambda z, t: z, x0, noise, middles(8), {}).loss
    torch.testing.assert_close(loss, unweighted / u.exp() + u)
    loss.sum().backward()
    assert learned.amplitude.grad.isfinite().all()
    assert learned.amplitude.grad.abs().min() > 0


def test_uncertainty_state_is_restored():
    trained, fresh = uncertainty(amplitude=1.0), uncertainty()
    trained.frequency.add_(0.1)
    trained.phase.add_(0.1)
    fresh.load_state_dict(trained.state_dict())
    sigma = of(0, 0.1, 1, 10, math.inf)
    assert torch.equal(fresh.penalty(sigma), trained.penalty(sigma))
    assert torch.equal(uncertainty(amplitude=1.0).penalty(sigma), uncertainty(amplitude=1.0).penalty(sigma))


def test_importance_and_remapped_table_pass_the_penalty_on(sdxl, zero_terminal):
    learned = uncertainty(amplitude=1.0)
    sigma = of(0.5, 1.0, 2.0)
    density = Laplace(mu=0.5, b=1.0)
    ratio = (LAPLACE.log_prob(sigma) - density.log_prob(sigma)).exp()
    important = Importance(weighting=learned, intended=LAPLACE, drawn=density)
    torch.testing.assert_close(important.penalty(sigma), learned.penalty(sigma) * ratio)
    torch.testing.assert_close(important(sigma, V()), learned(sigma, V()) * ratio)
    other = RemappedTable(weighting=learned, base=V(), table=zero_terminal, read=sdxl)
    expected = learned.penalty(sdxl.sigmas[[0, 500, 999]])
    torch.testing.assert_close(other.penalty(zero_terminal.sigmas[[0, 500, 999]]), expected, rtol=1e-4, atol=1e-5)


# infonoise


def best_masses(mmse, on_x0, bins=32, cutoff=0.1):
    """gate * mmse / sigma² / w of each bin, normalised, in plain floats (arXiv 2602.18647)."""
    edges = [LOW * (HIGH / LOW) ** (i / bins) for i in range(bins + 1)]
    masses = []
    for sigma in (math.sqrt(edges[i] * edges[i + 1]) for i in range(bins)):
        gate = sigma**3 / (sigma**3 + cutoff**3)
        masses.append(gate * mmse(sigma) / sigma**2 / on_x0(sigma**-2))
    return of(*masses) / sum(masses), of(*edges)


def gaussian_mmse(variance):
    """Of data of this variance from x0 + sigma * noise."""
    return lambda sigma: variance * sigma**2 / (variance + sigma**2)


def shares(density, edges, count=2**14):
    return torch.histogram(density.sigma(middles(count)), edges).hist / count


def adapt(density, variance, steps, batch=256):
    """Steps of a perfect denoiser of 64 elements of Gaussian data, at levels that the density draws itself."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        sigma = density.sigma(torch.rand(batch, generator=generator, dtype=torch.float64))
        mmse = gaussian_mmse(variance)(sigma)
        squares = torch.randn(batch, 64, generator=generator, dtype=torch.float64).square().mean(1)
        density.observe(sigma, (mmse * squares).where(sigma.isfinite(), math.nan))
    return density


@pytest.mark.parametrize(
    ("weighting", "on_x0", "variance"),
    [
        (Unit(base=V()), lambda snr: snr + 1, 0.1),
        (SoftMinSNR(base=X0(), gamma=4.0), lambda snr: 4 * snr / (snr + 4), 4.0),
    ],
    ids=["unit_v", "soft_min_snr"],
)
def test_infonoise_finds_the_optimum_for_gaussian_data(weighting, on_x0, variance):
    density = adapt(infonoise(weighting=weighting), variance, steps=200)
    expected, edges = best_masses(gaussian_mmse(variance), on_x0)
    masses = shares(density, edges)
    assert (masses - expected).abs().sum() / 2 < 0.01
    unit_variance_masses, _ = best_masses(gaussian_mmse(1.0), on_x0)
    assert (masses - unit_variance_masses).abs().sum() / 2 > 0.05


def test_infonoise_draws_from_its_prior_until_warm_and_then_updates_every_refresh_steps():
    density, u, records = infonoise(prior=LAPLACE, warmup=2, refresh=3), middles(9), []
    assert density.highest == LAPLACE.highest > HIGH
    for step in range(9):
        records.append((density.sigma(u).tolist(), density.cdf(of(0.1, 1)).tolist()))
        density.observe(of(1.0), of(1.0 + step))
    prior = LAPLACE.sigma(u).tolist(), LAPLACE.cdf(of(0.1, 1)).tolist()
    assert records[0] == records[1] == prior
    assert [i for i in range(1, 9) if records[i] != records[i - 1]] == [2, 5, 8]


def test_infonoise_bins_without_observations_have_the_error_of_gaussian_data():
    density = infonoise(warmup=1)
    density.observe(of(math.inf), of(1.0))
    expected, edges = best_masses(gaussian_mmse(1.0), lambda snr: snr + 1)
    torch.testing.assert_close(shares(density, edges), expected, atol=2e-4, rtol=0)


def test_infonoise_ignores_levels_outside_its_bounds():
    density = adapt(infonoise(warmup=5, refresh=1), 0.1, steps=10)
    expected = copy.deepcopy(density)
    expected.observe(of(0.5), of(0.2))
    density.observe(of(0, LOW * 0.99, 0.5, HIGH * 1.01, math.inf), of(9, 9, 0.2, 9, math.nan))
    assert torch.equal(density.sigma(middles(50)), expected.sigma(middles(50)))


def test_infonoise_records_fade_by_decay():
    density = infonoise(bins=2, warmup=1, refresh=1, decay=0.5)
    density.observe(of(0.1, 0.2), of(1.0, 3.0))
    density.observe(of(0.1, 10.0), of(5.0, 7.0))
    low, high = (0.5 * (1 + 3) + 5) / (0.5 * 2 + 1), 7.0
    expected, _ = best_masses(lambda sigma: low if sigma < 0.66 else high, lambda snr: snr + 1, bins=2)
    assert density.cdf(of(math.sqrt(LOW * HIGH))).item() == pytest.approx(expected[0].item(), rel=1e-5)


@given(st.lists(st.floats(0, LAST_U), min_size=2))
def test_infonoise_levels_ascend_within_its_bounds(u):
    density = adapt(infonoise(warmup=1, refresh=1), 0.1, steps=3, batch=20)
    sigma = density.sigma(of(*sorted(u), 0.0, LAST_U))
    assert (sigma[1:-2] >= sigma[:-3]).all()
    assert sigma[-2].item() == pytest.approx(LOW, rel=1e-12)
    assert sigma[-1].item() == pytest.approx(HIGH, rel=1e-12)
    assert (sigma <= density.highest * (1 + 1e-15)).all()
    torch.testing.assert_close(density.cdf(sigma), of(*sorted(u), 0.0, LAST_U), rtol=1e-9, atol=1e-12)


def test_infonoise_never_draws_a_bin_without_mass():
    density = infonoise(bins=4, warmup=1, refresh=1)
    edges = LOW * (HIGH / LOW) ** of(0, 0.25, 0.5, 0.75, 1)
    density.observe((edges[1:] * edges[:-1]).sqrt(), of(0.0, 1.0, 0.0, 1.0))
    assert shares(density, edges)[[0, 2]].max() < 1e-3
    assert density.sigma(of(0.0, LAST_U)).isfinite().all()
    assert density.cdf(of(0, LOW / 2, HIGH * 2, math.inf)).tolist() == [0, 0, 1, 1]


def test_infonoise_last_bins_may_have_no_mass():
    generator, bounds = torch.Generator().manual_seed(0), {"sigma_max": 2e4, "weighting": Unit(base=X0())}
    for _ in range(20):
        density = infonoise(**bounds, warmup=1)
        error = torch.rand(32, generator=generator, dtype=torch.float64)
        error[-3:] = 0
        sigma = LOW * (2e4 / LOW) ** middles(32)
        density.observe(sigma, error)
        assert density.quantile[-3:].diff().max() < 1e-15
        assert LOW < density.sigma(of(LAST_U)).item() <= 2e4 * (1 + 1e-12)


def restored(density):
    other = infonoise()
    other.load_state_dict(density.state_dict())
    return other


@pytest.mark.parametrize("make_copy", [restored, copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
def test_infonoise_copies_adapt_alike_and_independently(make_copy):
    density = adapt(infonoise(), 0.1, steps=25)
    other, before = make_copy(density), density.sigma(middles(64))
    assert torch.equal(other.sigma(middles(64)), before)
    adapt(other, 4.0, steps=10)
    assert torch.equal(density.sigma(middles(64)), before)
    assert not torch.equal(other.sigma(middles(64)), before)
    assert torch.equal(adapt(density, 4.0, steps=10).sigma(middles(64)), other.sigma(middles(64)))


def test_infonoise_stays_in_float64_when_its_parent_module_is_cast():
    density = adapt(infonoise(), 0.1, steps=25)
    before = density.sigma(middles(64))
    nn.ModuleDict({"density": density}).to(torch.bfloat16).to("meta")
    assert torch.equal(density.sigma(middles(64)), before)


def test_infonoise_adapts_inside_a_terminal_mass(zero_terminal, make_schedule):
    density = TerminalMass(density=infonoise(), terminal=math.inf, mass=0.25)
    schedule = make_schedule(zero_terminal, density=density)
    objective = Objective(
        schedule=schedule, target=V(), weighting=Unit(base=V()), distance=MSE(), normalise_weight=False
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        x0 = 0.1**0.5 * torch.randn(128, 64, generator=generator)
        noise, u = torch.randn(128, 64, generator=generator), torch.rand(128, generator=generator, dtype=torch.float64)
        sigma = density.sigma(u).float()
        share = (0.1 / (0.1 + sigma.square()) * (1 + sigma.square()).sqrt()).where(sigma.isfinite(), 0)
        best = torch.rsqrt(1 + sigma.square()), torch.rsqrt(1 + sigma.pow(-2))

        def network(z, t, best=best, share=share):
            """v of the best estimate of Gaussian data of variance 0.1."""
            signal, noisy = (part[:, None] for part in best)
            x0 = share[:, None] * z
            return (signal * z - x0) / noisy

        terms = objective.terms(network, x0, noise, u, {})
        objective.learned["density"].observe(terms.sigma, objective.x0_error(terms))
    levels = density.sigma(middles(2**14))
    assert (levels == math.inf).double().mean().item() == pytest.approx(0.25, abs=1e-3)
    expected, edges = best_masses(gaussian_mmse(0.1), lambda snr: snr + 1)
    share = torch.histogram(levels[levels.isfinite()], edges).hist / levels.isfinite().sum()
    assert (share - expected).abs().sum() / 2 < 0.02


IMPORTANT = Importance(weighting=uncertainty(), intended=LAPLACE, drawn=LAPLACE)
UNEVEN = Importance(weighting=Unit(base=V()), intended=PRIOR, drawn=LAPLACE)
WITH_MASS = TerminalMass(density=infonoise(), terminal=math.inf, mass=0.1)


@pytest.mark.parametrize(
    ("make_one", "settings", "message"),
    [
        (uncertainty, {"features": 0}, r"^features must be an integer of 1 or more, got 0"),
        (uncertainty, {"bandwidth": 0.0}, r"^bandwidth must be a number above 0, got 0"),
        (uncertainty, {"weighting": "unit"}, r"^weighting must be a Weighting, got 'unit'"),
        (uncertainty, {"weighting": uncertainty()}, r"^weighting must not be learned itself"),
        (infonoise, {"weighting": IMPORTANT}, r"^weighting must not be learned itself"),
        (infonoise, {"prior": infonoise()}, r"^prior must not be learned itself"),
        (infonoise, {"prior": WITH_MASS}, r"^prior must not be learned itself"),
        (infonoise, {"prior": "laplace"}, r"^prior must be a Density, got 'laplace'"),
        (infonoise, {"sigma_min": 20.0}, r"^sigma_min must be below sigma_max=14\.6, got 20"),
        (infonoise, {"sigma_max": math.inf}, r"^sigma_max must be finite, got inf"),
        (infonoise, {"bins": 1}, r"^bins must be an integer of 2 or more, got 1"),
        (infonoise, {"warmup": 0}, r"^warmup must be an integer of 1 or more, got 0"),
        (infonoise, {"refresh": 0.5}, r"^refresh must be an integer of 1 or more, got 0\.5"),
        (infonoise, {"decay": 1.0}, r"^decay must be a number above 0 and below 1, got 1"),
        (infonoise, {"cutoff": 0.0}, r"^cutoff must be a number above 0, got 0"),
        (infonoise, {"order": -1.0}, r"^order must be a number above 0, got -1"),
        (infonoise, {"weighting": UNEVEN, "sigma_max": 100.0}, r"^weighting must be above 0 and finite from "),
        (
            lambda drawn: Importance(weighting=Unit(base=V()), intended=LAPLACE, drawn=drawn),
            {"drawn": infonoise()},
            r"^drawn needs a density with a log_prob, but this density changes",
        ),
    ],
)
def test_learned_parts_reject_impossible_settings(make_one, settings, message):
    with pytest.raises(ConfigError, match=message):
        make_one(**settings)
