"""The network, what of it is trained, and one step of training against diffusers' own pieces."""

from copy import deepcopy

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch.nn.functional import mse_loss

from tests.tiny import inputs, make, tiny_sd15, tiny_sdxl, trained_names
from ztsnr.config.registry import build, compose
from ztsnr.core.errors import CheckpointError, ConfigError
from ztsnr.models.pretrained import load_unet
from ztsnr.models.sdxl import SD15, SDXL
from ztsnr.training.averaging import make_ema


def test_sdxl_output_depends_on_every_condition():
    net = make().eval().requires_grad_(False)
    z, t, cond = inputs()
    output = net(z, t, **cond)
    assert output.shape == z.shape
    assert not torch.allclose(net(z, t + 0.5, **cond), output, atol=1e-6)
    for name, value in cond.items():
        assert not torch.allclose(net(z, t, **cond | {name: value + 1}), output, atol=1e-6), name


def test_unet_is_loaded_from_its_own_folder(tmp_path):
    other = load_unet(tiny_sdxl())
    other.conv_in.bias.data.fill_(0.5)
    other.save_pretrained(tmp_path / "checkpoint-1" / "unet_ema")
    net = make(f"model.unet={tmp_path / 'checkpoint-1' / 'unet_ema'}")
    assert all(torch.equal(p, q) for p, q in zip(net.unet.parameters(), other.parameters(), strict=True))
    with pytest.raises(CheckpointError, match=r"model\.unet=.* does not fit model=sd15\. Is it sdxl\?"):
        make(f"model.unet={tmp_path / 'checkpoint-1' / 'unet_ema'}", model="sd15", pretrained=tiny_sd15())


def test_sd15_output_depends_only_on_the_prompt():
    net = make(model="sd15", pretrained=tiny_sd15()).eval().requires_grad_(False)
    z, t, cond = inputs()
    text = cond["text"][..., :32]
    output = net(z, t, text=text)
    assert torch.equal(net(z, t, text=text, time_ids=cond["time_ids"]), output)
    assert not torch.allclose(net(z, t, text=text + 1), output, atol=1e-6)


@pytest.mark.parametrize(("cls", "other"), [(SDXL, tiny_sd15), (SD15, tiny_sdxl)])
def test_weights_of_sd15_are_refused_for_sdxl_and_the_reverse(cls, other):
    train = build(compose("model=sdxl", "model.pretrained=x").model.train)
    with pytest.raises(CheckpointError, match=r"does not fit model=.*\. Is it "):
        cls(pretrained=other(), unet=None, train=train, train_text=None, gradient_checkpointing=False)


OBJECTIVES = {
    "eps": (("schedule=sdxl", "loss=eps"), {"prediction_type": "epsilon"}),
    "v": (("schedule=sdxl_ztsnr", "loss=vpred"), {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
    "min-SNR of eps": (("schedule=sdxl", "loss=eps", "weighting=min_snr"), {"prediction_type": "epsilon"}),
    "min-SNR of v": (
        ("schedule=sdxl_ztsnr", "loss=novelai_v3"),
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_step_equals_the_step_written_with_diffusers(name):
    overrides, settings = OBJECTIVES[name]
    objective = build(compose(*overrides).objective)
    z, _, cond = inputs(rows=4)
    x0, noise = z, torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    timesteps = torch.tensor([0, 333, 900, 999])
    net = make()
    actual = objective.terms(net, x0, noise, (timesteps + 0.5).double() / 1000, cond).loss
    actual.mean().backward()

    unet = load_unet(tiny_sdxl()).train()
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **settings)
    added_cond = {"text_embeds": cond["pooled"], "time_ids": cond["time_ids"]}
    noisy = scheduler.add_noise(x0, noise, timesteps)
    output = unet(noisy, timesteps, cond["text"], added_cond_kwargs=added_cond).sample
    v = settings["prediction_type"] == "v_prediction"
    ideal = scheduler.get_velocity(x0, noise, timesteps) if v else noise
    loss = mse_loss(output, ideal, reduction="none").mean([1, 2, 3])
    if "min-SNR" in name:
        snr = compute_snr(scheduler, timesteps)
        loss = loss * snr.clamp(max=5) / (snr + 1 if v else snr)
    loss.mean().backward()
    torch.testing.assert_close(actual, loss, rtol=1e-5, atol=1e-7)
    gradient, expected = (torch.cat([p.grad.flatten() for p in unit.parameters()]) for unit in (net, unet))
    assert (gradient - expected).norm() < 1e-5 * expected.norm()


def test_patterns_select_the_trained_modules():
    net = make("model.train.patterns=[mid_block,up_blocks.*.attentions]")
    names = trained_names(net)
    assert names == set(net.state_dict())
    assert {name.split(".")[1] for name in names} == {"mid_block", "up_blocks"}
    assert all("attentions" in name for name in names if "up_blocks" in name)
    assert len(make().state_dict()) == len(load_unet(tiny_sdxl()).state_dict())


def test_lora_state_is_only_its_weights_and_loads_exactly():
    net, other = make("model/train=lora", "model.train.dora=true"), make("model/train=lora", "model.train.dora=true")
    for p in filter(lambda p: p.requires_grad, net.parameters()):
        p.data = torch.randn_like(p)
    state = net.state_dict()
    assert set(state) == trained_names(net)
    assert all("lora_" in name for name in state)
    other.load_state_dict(state)
    z, t, cond = inputs()
    with torch.no_grad():
        assert torch.equal(net.eval()(z, t, **cond), other.eval()(z, t, **cond))
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict(dict(list(state.items())[1:]))


def test_new_lora_keeps_the_output_and_training_updates_the_named_layers():
    z, t, cond = inputs()
    modules = '["to_q", "ff.net.*", "resnets.*.conv1", "conv_in"]'
    net = make("model/train=lora", f"model.train.modules={modules}", "model.train.rank=3")
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(z, t, **cond), make().eval()(z, t, **cond))
    reached = {name.partition(".lora_")[0] for name in net.state_dict()}
    layers = {name for name, part in make().named_modules() if isinstance(part, torch.nn.Linear | torch.nn.Conv2d)}
    expected = {n for n in layers if n.endswith(("to_q", "conv1", "conv_in")) or ".ff.net." in n}
    assert reached == expected
    assert {p.shape[0] for name, p in net.state_dict().items() if "lora_A" in name} == {3}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.train.patterns=[mid_blok]"],
            r"model\.train\.patterns has 'mid_blok', which matches nothing; there are",
        ),
        (
            ["model.train.patterns=mid_block"],
            r"model\.train\.patterns must be a list of values, such as \[a, b\], got 'mid_block'",
        ),
        (["model/train=lora", "model.train.modules=[to_q,foo]"], r"model\.train\.modules has 'foo'"),
        (["model/train=lora", "model.train.rank=0"], r"model\.train\.rank must be an integer of 1 or more"),
        (["model/train=lora", "model.train.base=fp8"], r"model\.train\.base must be one of float32, bfloat16"),
        (["model.train=null"], r"model\.train must be a TrainableSelection"),
    ],
)
def test_unknown_patterns_modules_rank_or_base_are_refused_with_the_key(overrides, message):
    with pytest.raises(ConfigError, match=message):
        make(*overrides)


@pytest.mark.parametrize(("base", "error", "size"), [("bfloat16", 0.03, 0.5), ("8bit", 0.04, 0.4), ("4bit", 0.2, 0.33)])
def test_quantised_base_approximates_the_network_and_its_average(base, error, size):
    z, t, cond = inputs()
    exact, net = make("model/train=lora").eval(), make("model/train=lora", f"model.train.base={base}")
    average = make_ema(net, 0.5).module
    with torch.no_grad():
        expected = exact(z, t, **cond)
        for either in (net, average, net):  # what bitsandbytes does at the first call must not spoil the other
            output = either.to("cpu").eval()(z, t, **cond)
            assert (output - expected).norm() < error * expected.norm()
    bytes_of = [sum(p.nbytes for p in n.parameters() if not p.requires_grad) for n in (net, exact)]
    assert bytes_of[0] < size * bytes_of[1] * 1.02
    net(z, t, **cond).square().mean().backward()
    assert all(p.grad is not None for name, p in net.named_parameters() if name in net.trainable_names)


def test_average_of_a_lora_shares_only_the_frozen_base():
    net = make("model/train=lora", "model.train.base=bfloat16")
    averaged = make_ema(net, 0.5).module
    frozen = {name: p for name, p in averaged.named_parameters() if name not in net.trainable_names}
    assert all(p is dict(net.named_parameters())[name] for name, p in frozen.items())
    assert not any(p is q for p in averaged.state_dict().values() for q in net.state_dict().values())
    assert averaged.state_dict().keys() == net.state_dict().keys()
    assert {p.dtype for p in frozen.values()} == {torch.bfloat16}
    assert {p.dtype for p in averaged.state_dict().values()} == {torch.float32}
    copy = deepcopy(make())
    assert not any(p is q for p, q in zip(copy.parameters(), make().parameters(), strict=True))


def test_updating_an_average_changes_only_what_is_trained():
    net = make("model/train=lora")
    average, counted = make_ema(net, 0.5), dict(net.named_parameters())
    shared = [p for name, p in average.module.named_parameters() if p is counted[name]]
    assert {id(p) for p in average.averaged}.isdisjoint(map(id, shared))
    assert len(average.averaged) + len(shared) == len(counted)
    versions = [p._version for p in shared]
    for value in (1.0, 2.0):
        for name in net.trainable_names:
            counted[name].data.fill_(value)
        average.update_parameters(net)
    assert [p._version for p in shared] == versions
    for p in average.averaged:
        torch.testing.assert_close(p, torch.full_like(p, 1 + 9 / 11))


@pytest.mark.parametrize("train", ["full", "lora"])
def test_gradient_checkpointing_changes_no_gradient(train):
    gradients = []
    for checkpointing in ("false", "true"):
        net = make(f"model/train={train}", f"model.gradient_checkpointing={checkpointing}").train()
        z, t, cond = inputs()
        net(z, t, **cond).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients)
