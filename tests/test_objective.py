import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from ztsnr.distance import MSE
from ztsnr.errors import ConfigError, IncompatibleObjective
from ztsnr.noise import add_noise
from ztsnr.objective import Objective
from ztsnr.schedule.density import Density, Laplace, TerminalMass
from ztsnr.schedule.grid import FromTerminal, Trailing
from ztsnr.target import EDM, X0, Eps, Flow, Target, V
from ztsnr.weighting import MinSNR, Unit, Weighting

TARGETS = [Eps(), X0(), V(), EDM(sigma_data=0.5), Flow()]
WEIGHTINGS = [Unit(base=V()), Unit(base=Eps()), MinSNR(base=X0(), gamma=5.0)]
LAPLACE = Laplace(mu=0.0, b=0.5)


@dataclass(frozen=True, kw_only=True)
class Cosine(Density):
    """The angle atan(sigma) uniform (arXiv 2102.09672)."""

    def sigma(self, u):
        return (math.pi / 2 * u).tan()

    def log_prob(self, sigma):
        return (2 / math.pi * sigma / (1 + sigma.square())).log()


@dataclass(frozen=True, kw_only=True)
class SquaredSine(Density):
    """sin²(atan(sigma)) uniform, hence W = sin² for unit weight."""

    def sigma(self, u):
        return (u / (1 - u)).sqrt()

    def log_prob(self, sigma):
        return (2 * sigma.square() / (1 + sigma.square()).square()).log()


@dataclass(frozen=True, kw_only=True)
class Importance(Weighting):
    """What makes draws from one density count as draws from another."""

    drawn: Density
    intended: Density
    base: Target

    def weight(self, sigma):
        return (self.intended.log_prob(sigma) - self.drawn.log_prob(sigma)).exp()


def of(*sigmas):
    return torch.tensor(sigmas, dtype=torch.float64)


def make_objective(schedule, target, weighting=None):
    return Objective(schedule=schedule, target=target, weighting=weighting or Unit(base=target), distance=MSE())


def toy_network(z, t):
    return torch.tanh(1.7 * z + t.to(z).reshape(-1, 1, 1, 1) / 1000)


def pair(size, dtype=torch.float32):
    return torch.randn(2, size, 4, 3, 2, generator=torch.Generator().manual_seed(0), dtype=dtype).unbind()


def mid_draws(size):
    return (torch.arange(size, dtype=torch.float64) + 0.5) / size


# loss


@pytest.mark.parametrize(
    ("target", "prediction", "zero_snr"), [(Eps(), "epsilon", False), (V(), "v", False), (V(), "v", True)]
)
def test_loss_is_the_plain_mse_on_the_pieces_of_diffusers(
    target, prediction, zero_snr, sdxl, zero_terminal, make_schedule
):
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=zero_snr
    )
    x0, noise = pair(1000)
    t = torch.arange(1000)
    output = toy_network(scheduler.add_noise(x0, noise, t), t)
    ideal = noise if prediction == "epsilon" else scheduler.get_velocity(x0, noise, t)
    schedule = make_schedule(zero_terminal if zero_snr else sdxl)
    loss = make_objective(schedule, target).loss(toy_network, x0, noise, mid_draws(1000), {})
    torch.testing.assert_close(loss, (output - ideal).square().mean((1, 2, 3)), rtol=1e-4, atol=1e-5)


def test_loss_is_unreduced_and_each_sample_has_its_own(zero_terminal, make_schedule):
    objective = make_objective(make_schedule(zero_terminal), V(), MinSNR(base=X0(), gamma=5.0))
    x0, noise = pair(5)
    u = mid_draws(5)
    loss = objective.loss(toy_network, x0, noise, u, {})
    assert loss.shape == (5,)
    alone = [objective.loss(toy_network, x0[i : i + 1], noise[i : i + 1], u[i : i + 1], {}) for i in range(5)]
    torch.testing.assert_close(loss, torch.cat(alone))


def test_loss_is_a_function_of_its_arguments_alone(zero_terminal, make_schedule):
    objective = make_objective(make_schedule(zero_terminal), V())
    x0, noise = pair(4)
    before = [x0.clone(), noise.clone(), torch.get_rng_state()]
    first, second = (objective.loss(toy_network, x0, noise, mid_draws(4), {}) for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(old, new) for old, new in zip(before, [x0, noise, torch.get_rng_state()], strict=True))


def test_loss_multiplies_the_squared_error_by_the_weight(sdxl, make_schedule):
    schedule, target = make_schedule(sdxl), Flow()
    weighting = MinSNR(base=X0(), gamma=5.0)
    x0, noise = pair(8)
    plain = make_objective(schedule, target).loss(toy_network, x0, noise, mid_draws(8), {})
    weighted = make_objective(schedule, target, weighting).loss(toy_network, x0, noise, mid_draws(8), {})
    factor = weighting(schedule.density.sigma(mid_draws(8)), target)
    torch.testing.assert_close(weighted, plain * factor.float())


def test_loss_gives_the_network_its_scaled_state_its_timestep_and_its_condition(zero_terminal, make_schedule):
    seen = {}

    def spy(z, t, **cond):
        seen.update(z=z, t=t, **cond)
        return z

    x0, noise = pair(4)
    sigma, label = zero_terminal.sigmas[[0, 300, 700, 999]], torch.arange(4)
    objective = make_objective(make_schedule(zero_terminal), Flow())
    objective.loss(spy, x0, noise, (of(0, 300, 700, 999) + 0.5) / 1000, {"label": label})
    tau = torch.where(sigma == math.inf, 1, sigma / (1 + sigma)).float().reshape(-1, 1, 1, 1)
    torch.testing.assert_close(seen["z"], (1 - tau) * x0 + tau * noise)
    assert seen["t"].tolist() == [0, 300, 700, 999]
    assert seen["label"] is label


def test_mse_is_a_mean_for_each_sample_in_float32():
    output = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[256.0, 1.0], [1.0, 1.0]]], dtype=torch.bfloat16)
    ideal = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[-1.0, 1.0], [1.0, 1.0]]], dtype=torch.bfloat16)
    loss = MSE()(output, ideal)
    assert loss.dtype == torch.float32
    assert loss.tolist() == [30 / 4, 257**2 / 4]


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize(("target", "weighting"), itertools.product(TARGETS, WEIGHTINGS), ids=repr)
def test_every_pair_trains_with_finite_gradients_or_is_refused(
    target, weighting, zero_snr, sdxl, zero_terminal, make_schedule
):
    schedule = make_schedule(zero_terminal if zero_snr else sdxl)
    if zero_snr and not target.finite_at_inf:
        with pytest.raises(IncompatibleObjective):
            make_objective(schedule, target, weighting)
        return
    scale = torch.ones((), requires_grad=True)
    x0, noise = pair(50)
    loss = make_objective(schedule, target, weighting).loss(
        lambda z, t: scale * toy_network(z, t), x0, noise, torch.linspace(0, 1 - 2**-53, 50, dtype=torch.float64), {}
    )
    loss.mean().backward()
    assert loss.isfinite().all()
    assert scale.grad.isfinite()


# refusals


@pytest.mark.parametrize("part", ["density", "grid", "density and grid"])
def test_eps_is_refused_wherever_inf_is_reached(part, sdxl, make_schedule):
    reach = {
        "density": TerminalMass(density=LAPLACE, terminal=math.inf, mass=0.01),
        "grid": FromTerminal(grid=Trailing(table=sdxl), terminal=math.inf),
    }
    schedule = make_schedule(sdxl, **{name: reach[name] for name in part.split(" and ")})
    with pytest.raises(IncompatibleObjective, match=rf"target=eps .*\b{part}\b"):
        make_objective(schedule, Eps())
    for target in TARGETS[1:]:
        make_objective(schedule, target)


@pytest.mark.parametrize("part", ["schedule", "target", "weighting", "distance"])
def test_a_part_of_the_wrong_kind_is_refused_by_name(part, sdxl, make_schedule):
    parts = {"schedule": make_schedule(sdxl), "target": V(), "weighting": Unit(base=V()), "distance": MSE()}
    with pytest.raises(ConfigError, match=f"{part} must be a {part.title()}, got 'abc'"):
        Objective(**parts | {part: "abc"})


# denoising


@pytest.mark.parametrize("target", TARGETS, ids=repr)
@pytest.mark.parametrize("sigma", [0.0, 0.03, 1.0, 14.6])
def test_denoise_of_a_perfect_network_is_exact(target, sigma, sdxl, zero_terminal, make_schedule):
    assert_perfect_network_denoises(target, sigma, make_schedule(zero_terminal if target.finite_at_inf else sdxl))


@pytest.mark.parametrize("target", TARGETS[1:], ids=repr)
def test_denoise_of_a_perfect_network_is_exact_at_inf(target, zero_terminal, make_schedule):
    assert_perfect_network_denoises(target, math.inf, make_schedule(zero_terminal))


def assert_perfect_network_denoises(target, sigma, schedule):
    objective = make_objective(schedule, target)
    x0, noise = pair(3, torch.float64)
    level = of(sigma).expand(3)

    def perfect(z, t):
        return target.output(x0, noise, level)

    z = add_noise(x0, noise, level)
    for given_sigma in (level, torch.tensor(sigma, dtype=torch.float64)):
        torch.testing.assert_close(objective.denoise(perfect, z, given_sigma, {}), x0, rtol=0, atol=1e-13)


@pytest.mark.parametrize("target", TARGETS, ids=repr)
def test_a_perfect_network_has_no_loss(target, sdxl, make_schedule):
    objective = make_objective(make_schedule(sdxl), target)
    x0, noise = pair(6)
    sigma = objective.schedule.density.sigma(mid_draws(6))
    loss = objective.loss(lambda z, t: target.output(x0, noise, sigma), x0, noise, mid_draws(6), {})
    assert loss.tolist() == [0] * 6


# cumulative weight


@given(st.floats(min_value=0))
def test_unit_eps_on_the_cosine_density_has_its_known_cumulative_weight(sdxl, make_schedule, sigma):
    objective = make_objective(make_schedule(sdxl, density=Cosine()), Eps())
    phi = math.atan(sigma)
    known = (phi + math.sin(phi) * math.cos(phi)) / math.pi
    assert objective.cumulative_weight(of(sigma), V()).item() == pytest.approx(known, abs=2e-5)


@pytest.mark.parametrize(
    ("drawn", "intended"),
    itertools.combinations([Laplace(mu=0.0, b=3.0), Cosine(), SquaredSine(), LAPLACE], 2),  # from heavy to light tails
    ids=repr,
)
def test_sampling_more_often_and_weighting_more_have_one_cumulative_weight(drawn, intended, sdxl, make_schedule):
    sigma = torch.logspace(-1.5, 1.5, 31, dtype=torch.float64)
    often = make_objective(make_schedule(sdxl, density=intended), V())
    weighted = make_objective(
        make_schedule(sdxl, density=drawn), V(), Importance(drawn=drawn, intended=intended, base=V())
    )
    expected = often.cumulative_weight(sigma, V())
    torch.testing.assert_close(weighted.cumulative_weight(sigma, V()), expected, rtol=0, atol=2e-4)


def test_different_products_have_different_cumulative_weights(sdxl, make_schedule):
    cosine, squared_sine = (
        make_objective(make_schedule(sdxl, density=density), V()) for density in (Cosine(), SquaredSine())
    )
    apart = cosine.cumulative_weight(of(0.5), V()) - squared_sine.cumulative_weight(of(0.5), V())
    assert apart.item() == pytest.approx(2 / math.pi * math.atan(0.5) - 0.2, abs=1e-4)


@pytest.mark.parametrize("mass", [0.01, 0.25])
def test_the_atom_at_inf_is_the_last_step_of_the_cumulative_weight(mass, sdxl, make_schedule):
    density = TerminalMass(density=LAPLACE, terminal=math.inf, mass=mass)
    objective = make_objective(make_schedule(sdxl, density=density), V())
    assert objective.cumulative_weight(of(0.0, 1.0, 1e300, math.inf), V()).tolist() == pytest.approx(
        [0, (1 - mass) / 2, 1 - mass, 1], abs=2e-5
    )


def test_cumulative_weight_holds_the_known_share_of_min_snr_below_the_top_of_sdxl(sdxl, zero_terminal, make_schedule):
    objective = make_objective(make_schedule(zero_terminal), V(), MinSNR(base=X0(), gamma=5.0))
    below, total = objective.cumulative_weight(of(14.6, math.inf), V(), draws=64_000).tolist()
    assert total == pytest.approx(0.278, abs=5e-4)
    assert 1 - below / total == pytest.approx(0.0006, abs=5e-5)
