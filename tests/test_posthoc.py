import numpy as np
import pytest
import torch
from torch import nn

from tests.processes import run
from ztsnr.checkpoints.saver import DiskCheckpointer
from ztsnr.checkpoints.weights import read_checkpoint
from ztsnr.config.registry import build, compose
from ztsnr.core.errors import ConfigError
from ztsnr.ema import main
from ztsnr.training.posthoc import combination, combine, gamma_of, make_power_average, overlap


def densities(time, gamma, at):
    return np.where(at <= time, (gamma + 1) * at**gamma / time ** (gamma + 1), 0)


def test_gamma_of_inverts_the_std_of_the_density():
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.005)  # the paper's two
    assert gamma_of(0.10) == pytest.approx(6.94, abs=0.005)
    for std in (0.01, 0.05, 0.1, 0.2, 0.28):
        gamma = gamma_of(std)
        assert (gamma + 1) ** 0.5 / ((gamma + 2) * (gamma + 3) ** 0.5) == pytest.approx(std)
        at = (np.arange(200_000) + 0.5) / 200_000
        p = densities(1.0, gamma_of(std), at) / 200_000
        assert np.sqrt((p * at**2).sum() - (p * at).sum() ** 2) == pytest.approx(std, rel=1e-4)


def test_overlap_is_the_integral_of_the_product():
    at = (np.arange(200_000) + 0.5) / 100_000
    for one in ((1.0, 16.97), (2.0, 6.94), (0.3, 3.0)):
        for other in ((1.0, 6.94), (1.5, 0.5)):
            integral = (densities(*one, at) * densities(*other, at)).sum() / 100_000
            assert overlap(np.array(one), np.array(other)) == pytest.approx(integral, rel=1e-3)


@pytest.mark.parametrize("gamma", [0.0, 3.0, 16.97])
def test_tracked_average_weighs_each_step_by_its_power_density(gamma):
    network = nn.Linear(1, 1, bias=False)
    average, values = make_power_average(network, gamma), torch.randn(30, dtype=torch.float64)
    for value in values:
        network.weight.data.fill_(value)
        average.update_parameters(network)
    edges = (torch.arange(31, dtype=torch.float64) / 30) ** (gamma + 1)
    assert average.module.weight.item() == pytest.approx((edges.diff() * values).sum().item(), abs=1e-6)


@pytest.mark.parametrize(("std", "bound"), [(0.06, 0.01), (0.08, 0.01), (0.15, 0.03)])
def test_combined_average_of_any_length_equals_the_tracked_one(std, bound):
    """On a random walk; the paper's figure 5 has errors of the same order for as many snapshots."""
    torch.manual_seed(0)
    network = nn.Linear(64, 64, bias=False)
    tracked = {s: make_power_average(network, gamma_of(s)) for s in (0.05, 0.1, std)}
    positions, states = [], []
    for step in range(1, 401):
        network.weight.data += torch.randn(64, 64) / 20
        for average in tracked.values():
            average.update_parameters(network)
        if step % 40 == 0:
            for s in (0.05, 0.1):
                positions.append((step, gamma_of(s)))
                states.append({"weight": tracked[s].module.weight.detach().clone()})
    weight = combine(states, combination(positions, (400, gamma_of(std))))["weight"]
    expected = tracked[std].module.weight
    assert (weight - expected).norm() / expected.norm() < bound
    np.testing.assert_allclose(combination(positions, positions[3]), np.eye(len(positions))[3], atol=1e-8)


@pytest.mark.parametrize("stds", ["[0.05]", "[0.1,0.1]", "[0.05,0.3]", "0.05"])
def test_lengths_that_cannot_be_tracked_are_refused(stds):
    with pytest.raises(ConfigError, match=r"trainer\.posthoc_ema\.stds"):
        build(compose(f"trainer.posthoc_ema.stds={stds}"), "trainer")


def test_average_of_snapshots_keeps_the_statistics_of_latents(tmp_path):
    latents = {"mean": [0.0] * 4, "std": [2.0] * 4}
    run_facts, policy = {"config": {"data": {}}, "data": {"latents": latents}}, build(compose().trainer.checkpoint)
    with DiskCheckpointer(tmp_path / "checkpoints", policy, run_facts, None) as checkpointer:
        checkpointer.snapshot(3, {f"std_{std}": nn.Linear(2, 1) for std in (0.05, 0.1)})
    assert read_checkpoint(tmp_path / "snapshots" / "step_00000003.safetensors").facts["latents"] == latents
    main.__wrapped__(compose(f"run={tmp_path}", "std=0.08", f"output={tmp_path}/ema.safetensors", config="ema"))
    facts = read_checkpoint(tmp_path / "ema.safetensors").facts
    assert facts == {"latents": latents, "posthoc_std": 0.08, "snapshots": 1}


@pytest.mark.slow
def test_ema_command_makes_the_average_that_a_second_run_tracked(tmp_path):
    small = ["trainer=smoke", "trainer.steps=60", "model.width=16", "samples.steps=2", "tracking=none"]
    settings = ["trainer.validate_every=60", "trainer.sample_every=60", "trainer.posthoc_ema.every=6"]
    run(tmp_path, "train", *small, *settings, "hydra.run.dir=one", "trainer.posthoc_ema.stds=[0.05,0.1]")
    run(tmp_path, "train", *small, *settings, "hydra.run.dir=two", "trainer.posthoc_ema.stds=[0.08,0.2]")
    assert run(tmp_path, "ema", "run=one", "std=0.08").stdout == "ema.safetensors\n"
    checkpoint = read_checkpoint(tmp_path / "ema.safetensors")
    assert (checkpoint.names, checkpoint.step, checkpoint.facts["posthoc_std"]) == (("ema",), 60, 0.08)
    expected = read_checkpoint(tmp_path / "two" / "snapshots" / "step_00000060.safetensors").state("std_0.08")
    early = read_checkpoint(tmp_path / "two" / "snapshots" / "step_00000006.safetensors").state("std_0.08")
    average = checkpoint.state("ema")
    error = sum((average[key] - value).square().sum() for key, value in expected.items() if value.is_floating_point())
    moved = sum((early[key] - value).square().sum() for key, value in expected.items() if value.is_floating_point())
    assert error < 0.02**2 * moved
    run(tmp_path, "sample", "checkpoint=ema.safetensors", "steps=2")
    result = run(tmp_path, "ema", "run=nowhere", "std=0.08", code=2)
    assert "has no snapshots: train with trainer.posthoc_ema.stds=" in result.stderr
