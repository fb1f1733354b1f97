import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from ztsnr.core.distance import MSE
from ztsnr.core.errors import ConfigError
from ztsnr.core.noise import alpha, sigma_vp
from ztsnr.core.objective import Objective
from ztsnr.core.sampling import DPMpp2M, Euler, Guidance, Heun, guided_denoise, step_to
from ztsnr.core.schedule.grid import KarrasGrid, Trailing, WithTerminalStep
from ztsnr.core.target import EDM, X0, Eps, Flow, V
from ztsnr.core.weighting import Unit

SAMPLERS = [Euler(), Heun(), DPMpp2M()]
MEANS, SHARES, SPREAD = torch.tensor([[-1.0, 1.5], [0.3, 0.7], [0.4, 0.4]], dtype=torch.float64)
INF = math.inf
SDXL_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

every_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)


def of(*sigmas):
    return torch.tensor(sigmas, dtype=torch.float64)


def gaussian(z, sigma):
    """The denoiser of data N(1.5, 1)."""
    return 1.5 + alpha(sigma) * (z - alpha(sigma) * 1.5)


def mixture(z, sigma):
    """The denoiser of two Gaussians."""
    variance = (alpha(sigma) * SPREAD).square() + sigma_vp(sigma).square()
    centred = z[:, None] - alpha(sigma) * MEANS
    posterior = torch.softmax(SHARES.log() - centred.square() / (2 * variance), 1)
    return (posterior * (MEANS + alpha(sigma) * SPREAD.square() / variance * centred)).sum(1)


def probability(z, sigma):
    """Distribution function of the two Gaussians at noise level sigma: the exact flow in one dimension keeps it."""
    deviation = ((alpha(sigma) * SPREAD).square() + sigma_vp(sigma).square()).sqrt()
    return (SHARES * torch.special.ndtr((z[:, None] - alpha(sigma) * MEANS) / deviation)).sum(1)


def normal_quantiles(size=100):
    return torch.special.ndtri((torch.arange(size, dtype=torch.float64) + 0.5) / size)


def error_on_mixture(sampler, sigmas):
    z = normal_quantiles()
    return (probability(sampler(mixture, z, sigmas), of(0.0)) - probability(z, sigmas[0])).abs().max().item()


def equal_angles(start, steps):
    sigmas = torch.linspace(math.atan(start), 0, steps + 1, dtype=torch.float64).tan()
    sigmas[0], sigmas[-1] = start, 0
    return sigmas


def equal_ratios(start, steps):
    return torch.cat([torch.logspace(math.log10(start), -4, steps, dtype=torch.float64), of(0.0)])


def toy_network(z, t):
    return torch.sin(1.3 * z + t.to(z).reshape(-1, 1, 1, 1) / 300) + z.std((1, 2, 3), keepdim=True).cos()


def make_objective(schedule, target):
    weighting = Unit(base=target)
    return Objective(schedule=schedule, target=target, weighting=weighting, distance=MSE(), normalise_weight=False)


def start_noise(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


# one step


@pytest.mark.parametrize(("start", "end"), [(3.0, 0.7), (INF, 17.8), (INF, 0.0)])
def test_a_step_recombines_the_estimate_with_the_noise_it_implies(start, end):
    x0, noise = start_noise(2, 3, 4, dtype=torch.float64)
    z, expected = (alpha(of(sigma)) * x0 + sigma_vp(of(sigma)) * noise for sigma in (start, end))
    torch.testing.assert_close(step_to(x0, z, of(start), of(end)), expected)


@pytest.mark.parametrize(("sampler", "evaluations"), [(Euler(), 6), (Heun(), 11), (DPMpp2M(), 6)], ids=repr)
def test_samplers_denoise_as_often_as_published_and_return_the_last_estimate(sampler, evaluations):
    levels, calls = [], []

    def spy(z, sigma):
        levels.append(sigma.item())
        return gaussian(z, sigma)

    x0 = sampler(spy, normal_quantiles(), equal_angles(INF, 6), lambda i, denoised: calls.append((i, denoised)))
    assert len(levels) == evaluations
    assert min(levels) > 0
    assert [i for i, _ in calls] == list(range(6))
    assert torch.equal(calls[-1][1], x0)


@every_sampler
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.2)])
def test_samples_keep_the_dtype_of_the_noise_and_its_precision(sampler, dtype, tolerance):
    z, sigmas = start_noise(8, dtype=dtype), equal_angles(INF, 20)
    sample = sampler(lambda z, sigma: gaussian(z.double(), sigma).to(dtype), z, sigmas)
    assert sample.dtype == dtype
    torch.testing.assert_close(sample.double(), sampler(gaussian, z.double(), sigmas), rtol=0, atol=tolerance)


# against others


@pytest.mark.parametrize("steps", [1, 10, 25])
@pytest.mark.parametrize(
    ("target", "prediction", "zero_snr"),
    [
        (Eps(), "epsilon", False),
        (V(), "v_prediction", False),
        (X0(), "sample", False),
        (V(), "v_prediction", True),
    ],
)
def test_euler_equals_diffusers_ddim(target, prediction, zero_snr, steps, sdxl, zero_terminal, make_schedule):
    objective = make_objective(make_schedule(zero_terminal if zero_snr else sdxl), target)
    scheduler = DDIMScheduler(
        **SDXL_BETAS,
        prediction_type=prediction,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=zero_snr,
        clip_sample=False,
    )
    scheduler.set_timesteps(steps)
    z = reference = start_noise(2, 4, 3, 3)
    for t in scheduler.timesteps:
        reference = scheduler.step(toy_network(reference, t), t, reference, eta=0.0).prev_sample
    actual = Euler()(
        lambda z, sigma: objective.denoise(toy_network, z, sigma, {}), z, objective.schedule.grid.sigmas(steps)
    )
    torch.testing.assert_close(actual, reference, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("steps", [2, 10, 20])
def test_dpmpp_2m_equals_that_of_diffusers(steps, zero_snr):
    scheduler = DPMSolverMultistepScheduler(
        **SDXL_BETAS,
        prediction_type="sample",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=zero_snr,
        algorithm_type="dpmsolver++",
        solver_type="midpoint",
        solver_order=2,
        lower_order_final=True,
    )
    scheduler.set_timesteps(steps)
    z = reference = start_noise(2, 4, 3, 3)
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        reference = scheduler.step(toy_network(reference, sigma), t, reference).prev_sample
    actual = DPMpp2M()(toy_network, z, scheduler.sigmas.double())
    torch.testing.assert_close(actual, reference, rtol=1e-3, atol=1e-3)


# against the exact flow


@pytest.mark.parametrize(
    ("sampler", "grid", "start", "ratio"),
    [
        (Euler(), equal_angles, INF, 2),
        (Heun(), equal_angles, INF, 4),
        (Euler(), equal_ratios, 14.6, 2),
        (Heun(), equal_ratios, 14.6, 4),
        (DPMpp2M(), equal_ratios, 14.6, 4),
    ],
)
def test_doubling_the_steps_divides_the_error_by_the_order_of_the_sampler(sampler, grid, start, ratio):
    coarse, fine = (error_on_mixture(sampler, grid(start, steps)) for steps in (40, 80))
    assert coarse / fine == pytest.approx(ratio, rel=0.15)


@every_sampler
@pytest.mark.parametrize("start", [14.6, 20000.0, INF])
def test_every_sampler_converges_to_the_exact_flow(sampler, start):
    assert error_on_mixture(sampler, equal_angles(start, 100)) < 5e-3


def edm_heun(denoise, z, sigmas):
    """arXiv 2206.00364, Algorithm 1 without churn, on x = z / alpha."""
    x = z / alpha(sigmas[0])

    def slope(x, sigma):
        return (x - denoise(alpha(sigma) * x, sigma)) / sigma

    for sigma, sigma_next in pairwise(sigmas):
        first_slope = slope(x, sigma)
        next_x = x + (sigma_next - sigma) * first_slope
        x = x + (sigma_next - sigma) * (first_slope + slope(next_x, sigma_next)) / 2 if sigma_next > 0 else next_x
    return x


@pytest.mark.parametrize("steps", [10, 40])
def test_heun_is_accurate_from_the_terminal_level_and_edms_heun_is_not(steps):
    narrow = KarrasGrid(sigma_min=0.0292, sigma_max=17.8, rho=7.0)
    ladder = {top: WithTerminalStep(grid=narrow, terminal=top).sigmas(steps) for top in (20000.0, INF)}
    assert error_on_mixture(Heun(), ladder[INF]) < 0.02
    assert error_on_mixture(Heun(), ladder[20000.0]) < 0.02
    assert error_on_mixture(edm_heun, ladder[20000.0]) > 0.2


@pytest.mark.parametrize(
    ("sampler", "steps", "tolerance"), [(Euler(), 250, 0.01), (Heun(), 50, 1e-3), (DPMpp2M(), 50, 1e-3)]
)
def test_pure_noise_at_the_top_of_sdxl_biases_the_mean_by_the_signal_it_lacks(sampler, steps, tolerance, sdxl):
    """Along the flow z - alpha * mean is constant, so the bias is -alpha(14.6) * 1.5 = -0.102."""
    top = sdxl.sigmas[-1].item()
    z = normal_quantiles(2001)
    bias = sampler(gaussian, z, equal_angles(top, steps)).mean().item() - 1.5
    assert bias == pytest.approx(-1.5 / math.hypot(1, top), abs=tolerance)
    assert bias == pytest.approx(-0.1024, abs=tolerance)


@every_sampler
def test_sampling_from_20000_equals_that_from_inf_to_a_thousandth(sampler):
    narrow = KarrasGrid(sigma_min=0.0292, sigma_max=29.0, rho=7.0)
    finite, limit = (
        sampler(mixture, normal_quantiles(), WithTerminalStep(grid=narrow, terminal=top).sigmas(20))
        for top in (20000.0, INF)
    )
    assert 0 < (finite - limit).abs().max().item() < 1e-3


@pytest.mark.parametrize("target", [X0(), V(), EDM(sigma_data=0.5), Flow()], ids=repr)
@every_sampler
def test_the_target_does_not_change_the_sample(sampler, target, zero_terminal, make_schedule):
    objective = make_objective(make_schedule(zero_terminal), target)
    sigmas = zero_terminal.sigmas

    def network(scaled, t):
        sigma = sigmas[t.long()]
        z = scaled / target.c_in(sigma)
        return (gaussian(z, sigma) - target.c_skip(sigma) * z) / target.c_out(sigma)

    z = normal_quantiles(20)
    grid = Trailing(table=zero_terminal).sigmas(10)
    sample = sampler(lambda z, sigma: objective.denoise(network, z, sigma, {}), z, grid)
    torch.testing.assert_close(sample, sampler(gaussian, z, grid))


# guidance


def rescaled_guidance(positive, negative, scale, rescale):
    """arXiv 2305.08891, Algorithm 2."""
    cfg = negative + scale * (positive - negative)
    spread = [x.std((1, 2, 3), keepdim=True) for x in (positive, cfg)]
    return rescale * (cfg * spread[0] / spread[1]) + (1 - rescale) * cfg


@pytest.mark.parametrize("sigma", [0.03, 1.0, 14.6, INF])
@pytest.mark.parametrize(("scale", "rescale"), [(7.5, 0.7), (7.5, 0.0), (3.0, 1.0), (1.0, 0.7), (0.0, 0.5)])
def test_guidance_rescale_is_algorithm_2_of_lin_on_the_velocity(scale, rescale, sigma):
    z, positive, negative = start_noise(3, 2, 4, 3, 3, dtype=torch.float64)
    level = of(sigma).expand(2)
    estimates = [V().denoised(v, z, level) for v in (positive, negative)]
    expected = V().denoised(rescaled_guidance(positive, negative, scale, rescale), z, level)
    actual = Guidance(scale=scale, rescale=rescale).combine(*estimates, z, of(sigma))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.fixture
def conditional(zero_terminal, make_schedule):
    batches = []

    def network(z, t, label, scale):
        batches.append((len(z), len(t), label.tolist()))
        return torch.tanh(z * scale[:, None] + label[:, None])

    cond = {"label": torch.tensor([1.0, 2.0, 3.0]), "scale": torch.tensor([0.5, 1.0, 1.5])}
    negative = {"label": torch.tensor([-1.0, -2.0, -3.0]), "scale": torch.ones(3)}
    return make_objective(make_schedule(zero_terminal), V()), network, cond, negative, batches


@pytest.mark.parametrize("rescale", [0.0, 0.7])
@pytest.mark.parametrize("sigma", [1.0, INF])
def test_guided_denoise_computes_both_branches_in_one_batch(conditional, rescale, sigma):
    objective, network, cond, negative, batches = conditional
    guidance = Guidance(scale=7.5, rescale=rescale)
    z, level = start_noise(3, 8), of(sigma).squeeze()
    guided = guided_denoise(objective, network, cond, negative, guidance)(z, level)
    assert batches == [(6, 6, [1, 2, 3, -1, -2, -3])]
    estimates = [objective.denoise(network, z, level, branch) for branch in (cond, negative)]
    torch.testing.assert_close(guided, guidance.combine(*estimates, z, level))


def test_guidance_of_scale_1_is_the_conditional_estimate(conditional):
    objective, network, cond, negative, batches = conditional
    z, level = start_noise(3, 8), of(2.0).squeeze()
    plain = guided_denoise(objective, network, cond, negative, Guidance(scale=1, rescale=0.7))(z, level)
    assert batches == [(3, 3, [1, 2, 3])]
    assert torch.equal(plain, objective.denoise(network, z, level, cond))


@pytest.mark.parametrize(
    ("key", "value"),
    [("scale", -1), ("scale", INF), ("scale", "7.5"), ("rescale", 1.1), ("rescale", -0.1), ("rescale", True)],
)
def test_guidance_with_a_value_out_of_bounds_is_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=rf"^{key}"):
        Guidance(**{"scale": 7.5, "rescale": 0.7} | {key: value})
