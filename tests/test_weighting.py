import math
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ztsnr.config.registry import make, options
from ztsnr.core.errors import ConfigError
from ztsnr.core.noise import expand
from ztsnr.core.schedule.combined import Mixture, TerminalMass, Truncated
from ztsnr.core.schedule.density import Karras, Laplace, LogNormal, LogUniform, TableUniform
from ztsnr.core.schedule.table import ScaledLinear
from ztsnr.core.target import EDM, X0, Eps, Flow, V
from ztsnr.core.weighting import (
    P2,
    Debiased,
    Importance,
    MinSNR,
    MinSNRByEps,
    RemappedTable,
    Sigmoid,
    SoftMinSNR,
    TruncatedSNR,
    Unit,
)

EDM_TARGET = EDM(sigma_data=0.5)
TARGETS = [Eps(), X0(), V(), EDM_TARGET, Flow()]
ORDINARY_SIGMA = st.floats(-5, 5).map(math.exp)
POSITIVE = st.floats(-2, 2).map(math.exp)

# option: its weight on the squared error of x0, by SNR (Hang et al., arXiv 2303.09556; VDM++, arXiv 2303.00848)
ON_X0 = {
    "unit_eps": lambda snr: snr,
    "unit_x0": lambda snr: 1,
    "unit_v": lambda snr: snr + 1,
    "unit_edm": lambda snr: snr + 1 / 0.5**2,
    "unit_flow": lambda snr: (1 + math.sqrt(snr)) ** 2,
    "min_snr": lambda snr: min(snr, 5),
    "min_snr_plus_one": lambda snr: min(snr + 1, 5),
    "min_snr_floor": lambda snr: max(min(snr, 5), 1),
    "min_snr_undivided_on_v": lambda snr: (snr + 1) * min(snr, 5),
    "min_snr_by_eps_on_v": lambda snr: (snr + 1) * min(1, 5 / snr),
    "soft_min_snr": lambda snr: 4 * snr / (snr + 4),
    "debiased": lambda snr: math.sqrt(snr),
    "debiased_sd_scripts_v": lambda snr: 1,
    "debiased_onetrainer_v": lambda snr: math.sqrt(snr + 1),
    "p2": lambda snr: snr / (1 + snr),
    "p2_onetrainer_v": lambda snr: (snr + 1) / (2 + snr),
    "truncated_snr": lambda snr: max(snr, 1),
    "sigmoid": lambda snr: snr / (1 + math.exp(math.log(snr) - 2)),
}
MADE_OF_OTHERS = {"unit", "importance", "min_snr_sd_scripts", "uncertainty", "uncertainty_edm"}
# option: its weight on the squared error of v at sigma = 0 and at inf
AT_THE_ENDS = {
    "unit_eps": (1, 0),
    "unit_x0": (0, 1),
    "unit_v": (1, 1),
    "unit_edm": (1, 4),
    "unit_flow": (1, 1),
    "min_snr": (0, 0),
    "min_snr_plus_one": (0, 1),
    "min_snr_floor": (0, 1),
    "min_snr_undivided_on_v": (5, 0),
    "min_snr_by_eps_on_v": (0, 1),
    "soft_min_snr": (0, 0),
    "debiased": (0, 0),
    "debiased_sd_scripts_v": (0, 1),
    "debiased_onetrainer_v": (0, 1),
    "p2": (0, 0),
    "p2_onetrainer_v": (0, 0.5),
    "truncated_snr": (1, 1),
    "sigmoid": (0, 0),
}
LAPLACE = Laplace(mu=0.0, b=0.5)
TABLE = ScaledLinear(beta_start=0.00085, beta_end=0.012, steps=1000)

make_weighting = cache(lambda option: make("weighting", option))


def of(*sigmas):
    return torch.tensor(sigmas, dtype=torch.float64)


def min_snr(base=X0(), gamma=5.0, offset=0.0, floor=0.0):  # noqa: B008
    return MinSNR(base=base, gamma=gamma, offset=offset, floor=floor)


# formulas


@pytest.mark.parametrize("option", sorted({*options("weighting")} - MADE_OF_OTHERS))
@given(ORDINARY_SIGMA)
def test_options_weigh_the_error_of_x0_as_tabulated(option, sigma):
    assert make_weighting(option)(of(sigma), X0()).item() == pytest.approx(ON_X0[option](sigma**-2), rel=1e-12)


@pytest.mark.parametrize(
    ("make_one", "on_x0"),
    [
        (lambda g, k: min_snr(gamma=g), lambda g, k, snr: min(snr, g)),
        (lambda g, k: min_snr(gamma=g + k, offset=k), lambda g, k, snr: min(snr + k, g + k)),
        (lambda g, k: min_snr(gamma=g + k, floor=k), lambda g, k, snr: max(min(snr, g + k), k)),
        (lambda g, k: min_snr(base=Flow(), gamma=g), lambda g, k, snr: (1 + math.sqrt(snr)) ** 2 * min(snr, g)),
        (lambda g, k: MinSNRByEps(base=Eps(), gamma=g), lambda g, k, snr: min(snr, g)),
        (lambda g, k: MinSNRByEps(base=X0(), gamma=g), lambda g, k, snr: min(1, g / snr)),
        (lambda g, k: SoftMinSNR(base=X0(), gamma=g), lambda g, k, snr: g * snr / (snr + g)),
        (lambda g, k: P2(base=Eps(), k=k, gamma=g), lambda g, k, snr: snr / (k + snr) ** g),
        (lambda g, k: P2(base=V(), k=k, gamma=g), lambda g, k, snr: (snr + 1) / (k + snr) ** g),
        (lambda g, k: Sigmoid(base=Eps(), bias=g), lambda g, k, snr: snr / (1 + math.exp(math.log(snr) - g))),
        (lambda g, k: Unit(base=EDM(sigma_data=k)), lambda g, k, snr: snr + 1 / k**2),
        (lambda g, k: Debiased(base=V()), lambda g, k, snr: snr**0.5),
        (lambda g, k: TruncatedSNR(base=V()), lambda g, k, snr: max(snr, 1)),
    ],
)
@given(ORDINARY_SIGMA, POSITIVE, POSITIVE)
def test_constants_enter_the_formulas_as_published(make_one, on_x0, sigma, gamma, k):
    expected = on_x0(gamma, k, sigma**-2)
    assert make_one(gamma, k)(of(sigma), X0()).item() == pytest.approx(expected, rel=1e-12)


@given(st.sampled_from(sorted(ON_X0)), ORDINARY_SIGMA)
def test_gradient_on_the_estimate_of_x0_is_the_same_whatever_is_predicted(option, sigma):
    generator = torch.Generator().manual_seed(0)
    x0, noise, error = torch.randn(3, 1, 4, generator=generator, dtype=torch.float64).unbind()
    level = of(sigma)
    for target in TARGETS:
        ideal = target.output(x0, noise, level)
        denoised = (x0 + error).requires_grad_()
        output = ideal + (denoised - x0) / expand(target.c_out(level), x0)
        loss = make_weighting(option)(level, target) * (output - ideal).square().mean()
        gradient = torch.autograd.grad(loss.sum(), denoised)[0]
        torch.testing.assert_close(gradient, ON_X0[option](sigma**-2) * error / 2, rtol=1e-9, atol=0)


@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
@given(ORDINARY_SIGMA)
def test_soft_min_snr_is_that_of_k_diffusion_on_its_own_output(sigma_data, sigma):
    """loss_weighting: soft-min-snr of crowsonkb/k-diffusion, on the preconditioned output."""
    published = (sigma * sigma_data) ** 2 / (sigma**2 + sigma_data**2) ** 2
    weighting = SoftMinSNR(base=X0(), gamma=sigma_data**-2)
    assert weighting(of(sigma), EDM(sigma_data=sigma_data)).item() == pytest.approx(published, rel=1e-12)


# what public trainers compute for v


@pytest.mark.parametrize(
    ("option", "computed"),
    [
        ("min_snr", lambda snr: min(snr, 5) / (snr + 1)),
        ("min_snr_undivided_on_v", lambda snr: min(snr, 5)),
        ("min_snr_by_eps_on_v", lambda snr: min(5 / snr, 1) if snr else 1),
        ("debiased_sd_scripts_v", lambda snr: 1 / (min(snr, 1000) + 1)),
        ("debiased_onetrainer_v", lambda snr: 1 / math.sqrt(min(snr, 1000) + 1)),
        ("p2_onetrainer_v", lambda snr: (2 + snr) ** -1),
        ("unit_eps", lambda snr: min(snr, 1000) / (min(snr, 1000) + 1)),  # scale_v_pred_loss_like_noise_pred
    ],
)
def test_variants_are_those_of_public_trainers_on_v_at_each_level(option, computed, zero_terminal):
    """Their cap of SNR at 1000 is exceeded only by level 0."""
    snr = [0 if sigma == math.inf else sigma**-2 for sigma in zero_terminal.sigmas.tolist()]
    assert [t for t in range(1000) if snr[t] > 1000] == [0]
    weight = make_weighting(option)(zero_terminal.sigmas, V()).tolist()
    assert weight[1:] == pytest.approx([computed(s) for s in snr[1:]], rel=1e-12)


def test_min_snr_of_sd_scripts_takes_its_snr_from_before_the_rescale(zero_terminal):
    t = [200, 500, 800, 900, 950, 990, 999]
    weight = make_weighting("min_snr_sd_scripts")(zero_terminal.sigmas[t], V()).tolist()
    assert weight == pytest.approx([0.754, 0.276, 0.0369, 0.0142, 0.00825, 0.00519, 0.00466], rel=4e-3)
    right = make_weighting("min_snr")(zero_terminal.sigmas[t], V()).tolist()
    assert right == pytest.approx([0.737, 0.241, 0.0176, 0.00296, 0.000586, 1.65e-05, 0], rel=4e-3)


def test_remapped_table_is_read_at_the_same_index_and_converts_to_every_target(sdxl, zero_terminal):
    other = RemappedTable(weighting=min_snr(), base=V(), table=zero_terminal, read=sdxl)
    weight = other(zero_terminal.sigmas, V())
    torch.testing.assert_close(weight, min_snr()(sdxl.sigmas, V()), rtol=1e-9, atol=0)
    on_x0 = other(zero_terminal.sigmas[:-1], X0())
    torch.testing.assert_close(on_x0, (1 + zero_terminal.sigmas[:-1].pow(-2)) * weight[:-1])


# the ends


@pytest.mark.parametrize("option", AT_THE_ENDS)
def test_weights_on_v_at_both_ends(option):
    assert make_weighting(option)(of(0, math.inf), V()).tolist() == pytest.approx(AT_THE_ENDS[option], rel=1e-12)


@pytest.mark.parametrize("target", TARGETS, ids=repr)
@pytest.mark.parametrize("option", [*ON_X0, "min_snr_sd_scripts"])
def test_weights_are_finite_at_both_ends_except_where_z_is_the_output(option, target):
    assert Unit(base=target)(of(0.0, 1.0, math.inf), target).tolist() == [1, 1, 1]
    ends = {Eps(): [0], X0(): [math.inf]}.get(target, [0, math.inf])
    weight = make_weighting(option)(of(*ends), target)
    assert weight.isfinite().all()
    assert (weight >= 0).all()


@pytest.mark.parametrize("option", ON_X0)
def test_digits_are_kept_close_to_the_ends(option):
    low, high = 1e-7, 1e7
    on_x0, on_eps = make_weighting(option)(of(low), X0()).item(), make_weighting(option)(of(high), Eps()).item()
    assert on_x0 == pytest.approx(ON_X0[option](low**-2), rel=1e-12)
    assert on_eps == pytest.approx(ON_X0[option](high**-2) / high**-2, rel=1e-12)


def test_min_snr_on_zero_terminal_sdxl_gives_the_high_levels_the_known_shares(sdxl, zero_terminal):
    weight = min_snr()(zero_terminal.sigmas, V())
    beyond_sdxl = zero_terminal.sigmas > sdxl.sigmas[-1]
    assert beyond_sdxl.sum() == 120
    assert (weight[beyond_sdxl].sum() / weight.sum()).item() == pytest.approx(0.0006, abs=5e-5)
    assert (weight[900:].sum() / weight.sum()).item() == pytest.approx(3e-4, abs=5e-5)
    assert weight.mean().item() == pytest.approx(0.278, abs=5e-4)


# importance


@pytest.mark.parametrize(
    ("intended", "drawn"),
    [
        (LAPLACE, LogNormal(mean=0.3, std=1.2)),
        (LogNormal(mean=-0.4, std=1.0), LogNormal(mean=-0.2, std=1.5)),
        (LogUniform(sigma_min=0.1, sigma_max=5.0), LogUniform(sigma_min=0.1, sigma_max=5.0)),
        (LogUniform(sigma_min=0.1, sigma_max=5.0), Karras(sigma_min=0.05, sigma_max=80.0, rho=7.0)),
    ],
    ids=repr,
)
def test_weights_of_importance_have_mean_1_over_the_draws(intended, drawn):
    weighting = Importance(weighting=Unit(base=V()), intended=intended, drawn=drawn)
    sigma = drawn.sigma((torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16)
    assert weighting(sigma, V()).mean().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("side", ["intended", "drawn"])
def test_importance_rejects_densities_with_atoms_and_missed_intended_levels(side, zero_terminal):
    table = TableUniform(table=zero_terminal)
    terminal = TerminalMass(density=LAPLACE, terminal=math.inf, mass=0.01)
    mixture = Mixture(densities={"a": LAPLACE, "b": table}, shares={"a": 1, "b": 1})
    for density in (table, terminal, mixture):
        parts = {"intended": LAPLACE, "drawn": LAPLACE} | {side: density}
        with pytest.raises(ConfigError, match=rf"^{side} needs a density with a log_prob.* has atoms"):
            Importance(weighting=Unit(base=V()), **parts)
    truncated = Truncated(density=LAPLACE, sigma_min=0.5, sigma_max=math.inf)
    with pytest.raises(ConfigError, match=r"^drawn never draws sigma 0\.1778 to 0\.497, where i"):
        Importance(weighting=Unit(base=V()), intended=LAPLACE, drawn=truncated)
    almost = LogUniform(sigma_min=0.1, sigma_max=10.0)  # of whose bounds 1 of 10,000 draws lies outside
    Importance(weighting=Unit(base=V()), intended=LAPLACE, drawn=almost)


# refusals


def has_base(make_one):
    return lambda: make_one(base="v"), r"base must be a Target, got 'v'"


@pytest.mark.parametrize(
    ("make_one", "named"),
    [
        has_base(Unit),
        has_base(min_snr),
        has_base(partial(MinSNRByEps, gamma=5.0)),
        has_base(partial(SoftMinSNR, gamma=5.0)),
        has_base(Debiased),
        has_base(partial(P2, k=1.0, gamma=1.0)),
        has_base(TruncatedSNR),
        has_base(partial(Sigmoid, bias=2.0)),
        (lambda: min_snr(gamma=0), r"gamma must be a number above 0, got 0"),
        (lambda: MinSNRByEps(base=V(), gamma=math.inf), r"gamma must be finite, got inf"),
        (lambda: SoftMinSNR(base=X0(), gamma="five"), r"gamma must be a number above 0, got 'five'"),
        (lambda: min_snr(offset=-1.0), r"offset must be a number of at least 0, got -1"),
        (lambda: min_snr(floor=6.0), r"floor must be a number of at least 0 and of at most 5"),
        (lambda: P2(base=Eps(), k=0.0, gamma=1.0), r"k must be a number above 0, got 0"),
        (lambda: P2(base=Eps(), k=1.0, gamma=-1.0), r"gamma must be a number of at least 0, got -1"),
        (lambda: Sigmoid(base=Eps(), bias=math.inf), r"bias must be finite, got inf"),
        (lambda: Importance(weighting="unit", intended=LAPLACE, drawn=LAPLACE), r"weighting must be a W.*, got 'unit'"),
        (lambda: Importance(weighting=min_snr(), intended=LAPLACE, drawn="x"), r"drawn must be a Density, got 'x'"),
        (
            lambda: RemappedTable(weighting=min_snr(), base=V(), table=TABLE, read=replace(TABLE, steps=500)),
            r"read must have as many levels as table, 1000, got 500",
        ),
    ],
)
def test_weighting_rejects_an_impossible_field_by_name(make_one, named):
    with pytest.raises(ConfigError, match=rf"^{named}"):
        make_one()
