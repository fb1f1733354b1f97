import copy
import itertools
import math
from dataclasses import dataclass
from typing import Annotated

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from ztsnr.config.registry import build, compose
from ztsnr.core.checks import Bounds
from ztsnr.core.distance import MAE, MSE, Huber, PseudoHuber, SNRThreshold
from ztsnr.core.errors import ConfigError, IncompatibleObjective
from ztsnr.core.learned import InfoNoise, Uncertainty
from ztsnr.core.noise import add_noise
from ztsnr.core.objective import Objective
from ztsnr.core.schedule.combined import Mixture, TerminalMass
from ztsnr.core.schedule.density import Cosine, Density, Laplace, LogUniform
from ztsnr.core.schedule.grid import KarrasGrid, Trailing, WithTerminalStep
from ztsnr.core.target import EDM, X0, Eps, Flow, V
from ztsnr.core.weighting import P2, Importance, MinSNR, Sigmoid, SoftMinSNR, Unit
from ztsnr.tracking.monitor import Monitor

TARGETS = [Eps(), X0(), V(), EDM(sigma_data=0.5), Flow()]
MIN_SNR = MinSNR(base=X0(), gamma=5.0, offset=0.0, floor=0.0)
WEIGHTINGS = [
    Unit(base=V()),
    Unit(base=Eps()),
    MIN_SNR,
    P2(base=Eps(), k=1.0, gamma=1.0),
    Sigmoid(base=Eps(), bias=2.0),
]
LOW = KarrasGrid(sigma_min=0.001, sigma_max=0.01, rho=7.0)  # a grid that any density reaches
LAPLACE, COSINE = Laplace(mu=0.0, b=0.5), Cosine(mu=0.0, scale=1.0)


@dataclass(frozen=True, kw_only=True)
class SquaredSine(Density):
    """sin²(atan(sigma)) uniform, hence W = sin² for unit weight."""

    def sigma(self, u):
        return (u / (1 - u)).sqrt()

    def log_prob(self, sigma):
        return (2 * sigma.square() / (1 + sigma.square()).square()).log()


@dataclass(frozen=True, kw_only=True)
class Always(Density):
    """One level."""

    level: Annotated[float, Bounds(infinite=True)]

    def sigma(self, u):
        return torch.full_like(u, self.level)


def of(*sigmas):
    return torch.tensor(sigmas, dtype=torch.float64)


def make_objective(schedule, target, weighting=None, distance=MSE(), normalise_weight=False):  # noqa: B008
    weighting = weighting or Unit(base=target)
    return Objective(
        schedule=schedule, target=target, weighting=weighting, distance=distance, normalise_weight=normalise_weight
    )


def make_adaptive(prior=LogUniform(sigma_min=0.03, sigma_max=14.6)):  # noqa: B008
    bounds = {"sigma_min": 0.03, "sigma_max": 14.6, "bins": 8}
    settings = {"warmup": 1, "refresh": 1, "decay": 0.9, "cutoff": 0.1, "order": 3.0}
    return InfoNoise(prior=prior, weighting=Unit(base=V()), **bounds, **settings)


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
    loss = make_objective(schedule, target).terms(toy_network, x0, noise, mid_draws(1000), {}).loss
    torch.testing.assert_close(loss, (output - ideal).square().mean((1, 2, 3)), rtol=1e-4, atol=1e-5)


def test_loss_is_unreduced_and_a_function_of_its_arguments_only(zero_terminal, make_schedule):
    objective = make_objective(make_schedule(zero_terminal), V(), MIN_SNR, PseudoHuber(threshold=SNRThreshold(c=0.1)))
    (x0, noise), u = pair(5), mid_draws(5)
    before = [x0.clone(), noise.clone(), torch.get_rng_state()]
    loss = objective.terms(toy_network, x0, noise, u, {}).loss
    assert loss.shape == (5,)
    rows = [slice(i, i + 1) for i in range(5)]
    single = [objective.terms(toy_network, x0[row], noise[row], u[row], {}).loss for row in rows]
    torch.testing.assert_close(loss, torch.cat(single))
    assert all(torch.equal(old, new) for old, new in zip(before, [x0, noise, torch.get_rng_state()], strict=True))


@pytest.mark.parametrize(
    "distance", [MSE(), MAE(), Huber(delta=0.1), PseudoHuber(threshold=SNRThreshold(c=0.1))], ids=repr
)
def test_mask_cuts_off_the_gradient_and_a_mask_of_ones_changes_no_bit(distance, zero_terminal, make_schedule):
    objective = make_objective(make_schedule(zero_terminal), V(), MIN_SNR, distance)
    (x0, noise), u, outputs = pair(5), mid_draws(5), []

    def network(z, t):
        outputs.append(torch.full_like(z, 0.3).requires_grad_())
        return outputs[-1]

    mask = torch.tensor([0.0, 1.0, 0.25]).reshape(1, 1, 3, 1).expand(5, 1, 3, 2)
    plain, ones, masked = (
        objective.terms(network, x0, noise, u, {}, mask=m).loss for m in (None, torch.ones_like(mask), mask)
    )
    assert torch.equal(plain, ones)
    (unmasked_gradient,) = torch.autograd.grad(plain.sum(), outputs[0])
    (masked_gradient,) = torch.autograd.grad(masked.sum(), outputs[2])
    assert unmasked_gradient[MIN_SNR(objective.schedule.density.sigma(u), V()) > 0].abs().min() > 0
    torch.testing.assert_close(masked_gradient, mask * unmasked_gradient)
    assert (masked_gradient[:, :, 0] == 0).all()


@pytest.mark.parametrize("distance", [MSE(), MAE(), PseudoHuber(threshold=SNRThreshold(c=0.1))], ids=repr)
def test_loss_is_the_distance_at_its_level_times_the_weight_there(distance, sdxl, make_schedule):
    schedule, target = make_schedule(sdxl), Flow()
    x0, noise = pair(8)
    weighted = make_objective(schedule, target, MIN_SNR, distance).terms(toy_network, x0, noise, mid_draws(8), {}).loss
    sigma, objective = schedule.density.sigma(mid_draws(8)), make_objective(schedule, target)
    output = objective.output(toy_network, add_noise(x0, noise, sigma), sigma, {})
    plain = distance(output, noise - x0, sigma)
    torch.testing.assert_close(weighted, plain * MIN_SNR(sigma, target).float())
    assert weighted.unique().numel() == 8


# errors of x0


@pytest.mark.parametrize("target", TARGETS, ids=repr)
def test_x0_error_is_the_squared_error_of_denoised(target, sdxl, zero_terminal, make_schedule):
    schedule = make_schedule(zero_terminal if target.finite_at_inf else sdxl)
    objective = make_objective(schedule, target, MIN_SNR, MAE())
    x0, noise = pair(9, torch.float64)
    u = torch.tensor([*mid_draws(8), 1 - 2**-53], dtype=torch.float64)
    terms = objective.terms(toy_network, x0, noise, u, {})
    assert torch.equal(terms.sigma, schedule.density.sigma(u))
    error = objective.x0_error(terms)
    assert error.dtype == terms.sigma.dtype == torch.float64
    denoised = objective.denoise(toy_network, add_noise(x0, noise, terms.sigma), terms.sigma, {})
    torch.testing.assert_close(error, (denoised - x0).square().mean((1, 2, 3)), rtol=1e-9, atol=1e-12)


def test_x0_error_counts_elements_inside_the_mask_and_has_no_gradient(zero_terminal, make_schedule):
    objective = make_objective(make_schedule(zero_terminal), V(), MIN_SNR)
    (x0, noise), rows = pair(4), torch.tensor([1.0, 0.0, 0.0]).reshape(1, 1, 3, 1)
    scale = torch.ones((), requires_grad=True)
    terms = objective.terms(lambda z, t: scale * toy_network(z, t), x0, noise, mid_draws(4), {})
    assert terms.loss.requires_grad
    error, masked_error = objective.x0_error(terms), objective.x0_error(terms, rows)
    assert not error.requires_grad
    assert not masked_error.requires_grad
    assert (masked_error < error).all()
    squares = (terms.output - terms.ideal).detach().square() * rows
    expected = V().c_out(terms.sigma).square() * squares.mean((1, 2, 3)).double()
    torch.testing.assert_close(masked_error, expected, rtol=1e-6, atol=0)


def test_terms_hold_the_output_and_the_ideal_that_the_loss_compares(zero_terminal, make_schedule):
    objective = make_objective(make_schedule(zero_terminal), V())
    x0, noise = pair(4)
    loss, sigma, output, ideal = objective.terms(toy_network, x0, noise, mid_draws(4), {})
    assert torch.equal(ideal, V().output(x0, noise, sigma))
    assert torch.equal(output, objective.output(toy_network, add_noise(x0, noise, sigma), sigma, {}))
    assert torch.equal(loss, MSE()(output, ideal, sigma))


# normalise_weight


@pytest.mark.parametrize(
    ("target", "weighting", "mean"),
    [
        (V(), Unit(base=V()), 1),
        (V(), Unit(base=X0()), 1 / 2),
        (Flow(), Unit(base=Flow()), 1),
        (V(), Unit(base=Flow()), 1 + 2 / math.pi),  # E[(cos + sin)²]
        (V(), SoftMinSNR(base=X0(), gamma=1.0), 1 / 8),  # E[cos² sin²]
        (V(), Unit(base=Eps()), 1 / 2),  # E[cos²] of a uniform angle
    ],
    ids=repr,
)
def test_normalised_weights_have_mean_1_over_the_draws(target, weighting, mean, sdxl, make_schedule):
    objective = make_objective(make_schedule(sdxl, density=COSINE), target, weighting, normalise_weight=True)
    assert objective.scale == pytest.approx(1 / mean, rel=1e-4)
    x0, noise = pair(6)
    plain = make_objective(objective.schedule, target, weighting)
    args = (toy_network, x0, noise, mid_draws(6), {})
    torch.testing.assert_close(objective.terms(*args).loss, plain.terms(*args).loss / mean, rtol=1e-4, atol=0)
    assert plain.scale == 1


@pytest.mark.parametrize(
    ("density", "target", "weighting"),
    [
        (COSINE, X0(), Unit(base=Eps())),  # E[cot²] of a uniform angle
        (Laplace(mu=0.0, b=1.0), X0(), Unit(base=Eps())),  # E[exp(logSNR)], whose tail is just too heavy
        (Always(level=math.inf), V(), MIN_SNR),
        (Always(level=0.0), X0(), Unit(base=Eps())),
        (Always(level=0.0), X0(), P2(base=Eps(), k=1.0, gamma=1.0)),
    ],
    ids=repr,
)
def test_normalise_weight_rejects_a_mean_of_0_inf_or_nan(density, target, weighting, zero_terminal, make_schedule):
    schedule = make_schedule(zero_terminal, density=density, grid=LOW)
    make_objective(schedule, target, weighting)
    with pytest.raises(ConfigError, match=r"normalise_weight=true needs a weight with a finite mean above 0"):
        make_objective(schedule, target, weighting, normalise_weight=True)
    heavy = make_objective(
        make_schedule(zero_terminal, density=LAPLACE, grid=LOW), X0(), Unit(base=Eps()), normalise_weight=True
    )
    assert heavy.scale == pytest.approx(1 - LAPLACE.b**2, rel=0.01)  # 1 / E[exp(logSNR)], large and finite


def test_normalise_weight_rejects_learned_parts(sdxl, make_schedule):
    learned = Uncertainty(weighting=Unit(base=V()), features=4, bandwidth=1.0)
    for parts, weighting in (({}, learned), ({"density": make_adaptive()}, Unit(base=V()))):
        schedule = make_schedule(sdxl, **parts)
        with pytest.raises(ConfigError, match=r"normalise_weight=true needs a .* not learned"):
            make_objective(schedule, V(), weighting, normalise_weight=True)


# what is learned


def test_an_objective_knows_its_learned_parts_wherever_they_are(sdxl, make_schedule):
    adaptive, learned = make_adaptive(), Uncertainty(weighting=Unit(base=V()), features=4, bandwidth=1.0)
    important = Importance(weighting=learned, intended=LAPLACE, drawn=COSINE)
    mixture = Mixture(densities={"a": LAPLACE, "b": adaptive}, shares={"a": 1, "b": 1})
    terminal = TerminalMass(density=mixture, terminal=math.inf, mass=0.1)
    for weighting in (learned, important):
        for density in (adaptive, mixture, terminal):
            objective = make_objective(make_schedule(sdxl, density=density), V(), weighting)
            assert dict(objective.learned) == {"weighting": learned, "density": adaptive}
    assert not make_objective(make_schedule(sdxl), V()).learned
    two_adaptive = Mixture(densities={"a": make_adaptive(), "b": make_adaptive()}, shares={"a": 1, "b": 1})
    with pytest.raises(ConfigError, match="density has 2 learned parts; only one is supported"):
        make_objective(make_schedule(sdxl, density=two_adaptive), V())


def test_a_copy_of_an_objective_learns_independently(sdxl, make_schedule):
    objective = make_objective(make_schedule(sdxl, density=make_adaptive()), V())
    duplicate = copy.deepcopy(objective)
    assert duplicate.learned["density"] is duplicate.schedule.density
    duplicate.learned["density"].observe(of(1.0), of(100.0))
    assert not torch.equal(duplicate.draws(8), objective.draws(8))


@pytest.mark.parametrize("weighting", [MIN_SNR, Unit(base=Eps())], ids=repr)
def test_a_learned_weighting_of_a_weight_of_0_is_refused(weighting, sdxl, zero_terminal, make_schedule):
    """The penalty's slope is 1 there, with nothing to hold it."""
    learned = Uncertainty(weighting=weighting, features=4, bandwidth=1.0)
    with pytest.raises(IncompatibleObjective, match="at sigma inf to inf it is 0"):
        make_objective(make_schedule(zero_terminal), V(), learned)
    make_objective(make_schedule(sdxl), V(), learned)


def test_network_receives_the_scaled_state_the_timestep_and_the_condition(zero_terminal, make_schedule):
    inputs = {}

    def spy(z, t, **cond):
        inputs.update(z=z, t=t, **cond)
        return z

    x0, noise = pair(4)
    sigma, label = zero_terminal.sigmas[[0, 300, 700, 999]], torch.arange(4)
    objective = make_objective(make_schedule(zero_terminal), Flow())
    objective.terms(spy, x0, noise, (of(0, 300, 700, 999) + 0.5) / 1000, {"label": label})
    tau = torch.where(sigma == math.inf, 1, sigma / (1 + sigma)).float().reshape(-1, 1, 1, 1)
    torch.testing.assert_close(inputs["z"], (1 - tau) * x0 + tau * noise)
    assert inputs["t"].tolist() == [0, 300, 700, 999]
    assert inputs["label"] is label


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize(("target", "weighting"), itertools.product(TARGETS, WEIGHTINGS), ids=repr)
def test_every_target_and_weighting_has_finite_gradients_or_is_refused(
    target, weighting, zero_snr, sdxl, zero_terminal, make_schedule
):
    schedule = make_schedule(zero_terminal if zero_snr else sdxl)
    if zero_snr and not target.finite_at_inf:
        with pytest.raises(IncompatibleObjective):
            make_objective(schedule, target, weighting)
        return
    scale = torch.ones((), requires_grad=True)
    x0, noise = pair(50)
    u = torch.linspace(0, 1 - 2**-53, 50, dtype=torch.float64)
    objective = make_objective(schedule, target, weighting)
    loss = objective.terms(lambda z, t: scale * toy_network(z, t), x0, noise, u, {}).loss
    loss.mean().backward()
    assert loss.isfinite().all()
    assert scale.grad.isfinite()


# refusals


@pytest.mark.parametrize("part", ["density", "grid", "density and grid"])
def test_eps_is_refused_if_any_part_reaches_inf(part, sdxl, make_schedule):
    reach = {
        "density": TerminalMass(density=LAPLACE, terminal=math.inf, mass=0.01),
        "grid": WithTerminalStep(grid=Trailing(table=sdxl), terminal=math.inf),
    }
    parts = {"density": Laplace(mu=0.0, b=0.5)} | {name: reach[name] for name in part.split(" and ")}
    schedule = make_schedule(sdxl, **parts)
    with pytest.raises(IncompatibleObjective, match=rf"target=eps .*\b{part}\b"):
        make_objective(schedule, Eps())
    for target in TARGETS[1:]:
        make_objective(schedule, target)


@pytest.mark.parametrize("part", ["schedule", "target", "weighting", "distance"])
def test_objective_rejects_a_part_of_the_wrong_class_by_name(part, sdxl, make_schedule):
    parts = {"schedule": make_schedule(sdxl), "target": V(), "weighting": Unit(base=V()), "distance": MSE()}
    with pytest.raises(ConfigError, match=f"^{part} must be a {part.title()}, got 'abc'"):
        Objective(**parts | {part: "abc"}, normalise_weight=False)
    with pytest.raises(ConfigError, match=r"normalise_weight must be true or false, got 1"):
        Objective(**parts, normalise_weight=1)


# denoising


@pytest.mark.parametrize(("target", "sigma"), itertools.product(TARGETS, [0.0, 0.03, 1.0, 14.6, math.inf]), ids=repr)
def test_denoise_of_a_perfect_network_is_exact(target, sigma, sdxl, zero_terminal, make_schedule):
    if sigma == math.inf and not target.finite_at_inf:
        return
    objective = make_objective(make_schedule(zero_terminal if target.finite_at_inf else sdxl), target)
    (x0, noise), level = pair(3, torch.float64), of(sigma).expand(3)
    z = add_noise(x0, noise, level)
    for sigma_value in (level, torch.tensor(sigma, dtype=torch.float64)):
        denoised = objective.denoise(lambda z, t: target.output(x0, noise, level), z, sigma_value, {})
        torch.testing.assert_close(denoised, x0, rtol=0, atol=1e-13)


# cumulative weight


@given(st.floats(min_value=0))
def test_unit_eps_on_the_cosine_density_has_its_known_cumulative_weight(sdxl, make_schedule, sigma):
    objective = make_objective(make_schedule(sdxl, density=COSINE), Eps())
    phi = math.atan(sigma)
    expected = (phi + math.sin(phi) * math.cos(phi)) / math.pi
    assert objective.cumulative_weight(of(sigma), V()).item() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(
    ("drawn", "intended"),
    itertools.combinations([Laplace(mu=0.0, b=3.0), COSINE, SquaredSine(), LAPLACE], 2),  # from heavy to light tails
    ids=repr,
)
@pytest.mark.parametrize("weighting", [Unit(base=V()), MIN_SNR], ids=repr)
def test_drawing_more_often_and_weighting_more_have_the_same_cumulative_weight(
    weighting, drawn, intended, sdxl, make_schedule
):
    sigma = torch.logspace(-1.5, 1.5, 31, dtype=torch.float64)
    often = make_objective(make_schedule(sdxl, density=intended), V(), weighting)
    importance = Importance(weighting=weighting, drawn=drawn, intended=intended)
    weighted = make_objective(make_schedule(sdxl, density=drawn), V(), importance)
    for base in (V(), Flow()):
        expected = often.cumulative_weight(sigma, base)
        torch.testing.assert_close(weighted.cumulative_weight(sigma, base), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("mass", [0.01, 0.25])
def test_the_atom_at_inf_is_the_last_step_of_the_cumulative_weight(mass, sdxl, make_schedule):
    density = TerminalMass(density=LAPLACE, terminal=math.inf, mass=mass)
    objective = make_objective(make_schedule(sdxl, density=density), V())
    assert objective.cumulative_weight(of(0.0, 1.0, 1e300, math.inf), V()).tolist() == pytest.approx(
        [0, (1 - mass) / 2, 1 - mass, 1], abs=2e-5
    )


TINY = ("trainer=smoke", "trainer.steps=250", "trainer.batch_size=128", "trainer.ema=0.98", "trainer.log_every=250")
TINY += ("model.width=64", "model.depth=1", "samples.steps=2", "samples.columns=1", "trainer.sample_every=250")
TINY += (
    "validation.samples=128",
    "validation.sigmas=[0.1,0.3,1.0,3.0,10.0]",
    "schedule=laplace",
    "trainer.validate_every=250",
)


def held_out_errors(*overrides):
    """Logarithms of the squared error of v at each level, after training on digits."""
    composed = compose(*TINY, *overrides)
    names = ("objective", "data", "optimizer", "lr_schedule", "validation", "samples")
    torch.manual_seed(0)
    trained = build(composed.trainer).fit(
        **{name: build(composed[name]) for name in names}, network=build(composed.model), monitor=Monitor()
    )
    return of(*trained.errors["ema"].values()).log()


@pytest.mark.slow
def test_objectives_train_alike_iff_their_cumulative_weights_are_proportional():
    often = held_out_errors()
    weighted = held_out_errors("schedule.density.b=1.0", "weighting=importance")  # as if b were 0.5
    unweighted = held_out_errors("schedule.density.b=1.0")
    assert (weighted - often).abs().max() < 0.05
    assert (unweighted - often).abs().max() > 0.3
