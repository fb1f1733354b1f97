"""The nodes' maths against the core, and their contract against a stand-in of ComfyUI."""

import json
import math
import sys
import tomllib
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from tests.comfyui import KSAMPLER as Inner
from tests.comfyui import NODES, SDXL, Patcher, load_nodes, modules
from ztsnr.errors import CheckpointError, ConfigError
from ztsnr.noise import alpha
from ztsnr.registry import build, compose, make
from ztsnr.sampling import Euler, Guidance
from ztsnr.target import EDM, V

INF = math.inf


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def nodes(folder):
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules(folder).items():
            patch.setitem(sys.modules, name, module)
        yield load_nodes()


def part(nodes, name):
    return sys.modules[f"{nodes.__name__}.{name}"]


def run(nodes, name, **inputs):
    node = nodes.NODE_CLASS_MAPPINGS[name]
    ports = node.INPUT_TYPES()["required"]
    told = {port: options["default"] for port, (_, options) in ports.items() if "default" in options}
    return getattr(node(), node.FUNCTION)(**told | inputs)[0]


def sampling_of(nodes, model=None, **inputs):
    patched = run(nodes, "ZTSNRVPrediction", model=model or Patcher(), **inputs)
    return patched.get_model_object("model_sampling")


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def core(*overrides):
    """The schedule of the configuration whose terminal level is the nodes' ceiling."""
    return build(compose("schedule=ztsnr", "schedule.table.terminal=20000.0", *overrides).schedule)


def metadata(**changed):
    facts = {
        "format": "1",
        "target": "v",
        "sigmas": json.dumps([*torch.linspace(0.1, 9, 49).tolist(), "inf"]),
        "grid": '["inf", 8.0, 2.0, 0.5, 0.0]',
        "latents": '{"mean": [1, 2, 3, 4], "std": [5, 6, 7, 8]}',
    }
    return {f"ztsnr.{name}": value for name, value in (facts | changed).items() if value is not None}


def write(folder, name, facts):
    save_file({"weight": torch.zeros(1)}, folder / name, facts)
    return name


# The table


@pytest.mark.parametrize("terminal", [20000.0, 4518.76])
def test_default_table_is_the_cores_zero_terminal_one(nodes, terminal):
    sampling = sampling_of(nodes, sigma_max=terminal)
    assert torch.equal(sampling.sigmas, make("schedule/table", "sdxl_ztsnr", terminal=terminal).sigmas.float())


def test_without_zero_terminal_and_at_its_own_end_the_table_is_the_models(nodes):
    own = make("schedule/table", "sdxl").sigmas
    sampling = sampling_of(nodes, zero_terminal=False, sigma_max=own[-1].item())
    torch.testing.assert_close(sampling.sigmas, own.float())


def test_other_ends_stretch_the_table_in_alpha(nodes):
    sigmas = sampling_of(nodes, zero_terminal=False, sigma_min=0.05, sigma_max=30.0).sigmas.double()
    own = alpha(make("schedule/table", "sdxl").sigmas)
    slope = alpha(sigmas).diff() / own.diff()
    assert (sigmas[0].item(), sigmas[-1].item()) == (pytest.approx(0.05), 30.0)
    torch.testing.assert_close(slope, slope.mean().expand(999), rtol=1e-2, atol=0)


def test_network_is_told_what_training_told_it(nodes):
    sampling, timesteps = sampling_of(nodes), core().timesteps
    sigma = f64(1e-3, 0.0292, 0.7, 17.8, 500.0, 20000.0, 1e6).float()
    torch.testing.assert_close(sampling.timestep(sigma), timesteps(sigma).float())
    assert sampling.timestep(sigma.reshape(7, 1)).shape == (7, 1)


def test_resolution_moves_what_is_visited_and_not_what_is_told(nodes):
    latent = {"samples": torch.zeros(1, 4, 128, 512)}
    plain, wide = sampling_of(nodes), sampling_of(nodes, latent=latent, native_resolution=1024)
    torch.testing.assert_close(wide.sigmas[:-1], 2 * plain.sigmas[:-1])
    assert wide.sigma_max == plain.sigma_max == 20000
    sigma = f64(0.5, 3.0)
    assert torch.equal(wide.timestep(sigma), plain.timestep(sigma))


def test_resolution_that_passes_the_terminal_level_is_refused(nodes):
    latent = {"samples": torch.zeros(1, 4, 4096, 4096)}
    with pytest.raises(ConfigError, match="past the terminal"):
        sampling_of(nodes, latent=latent)


def test_percent_counts_along_a_table_of_any_length(nodes, folder):
    sampling = sampling_of(nodes, checkpoint=write(folder, "fifty.safetensors", metadata()))
    assert sampling.percent_to_sigma(0.0) > 1e8
    assert sampling.percent_to_sigma(1.0) == 0
    assert sampling.percent_to_sigma(0.5) == pytest.approx(sampling.sigma(torch.tensor(24.5)).item())


@pytest.mark.parametrize("sigma_data", [1.0, 0.5])
def test_denoised_on_x_is_the_cores_on_z(nodes, sigma_data):
    sampling, sigma = sampling_of(nodes, sigma_data=sigma_data), f64(0.03, 1.0, 20000.0)
    z, output = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = z / alpha(sigma)[:, None]
    target = V() if sigma_data == 1 else EDM(sigma_data=sigma_data)
    seen = target.c_in(sigma)[:, None] * z
    torch.testing.assert_close(sampling.calculate_input(sigma, x), seen)
    sign = 1 if sigma_data == 1 else -1
    torch.testing.assert_close(sampling.calculate_denoised(sigma, output, x), target.denoised(sign * output, z, sigma))


# The checkpoint's metadata


def test_checkpoint_sets_table_grid_target_and_latents(nodes, folder):
    patched = run(nodes, "ZTSNRVPrediction", model=Patcher(), checkpoint=write(folder, "told.safetensors", metadata()))
    sampling, latents = (patched.get_model_object(name) for name in ("model_sampling", "latent_format"))
    assert sampling.sigmas.tolist() == pytest.approx([*torch.linspace(0.1, 9, 49).tolist(), 20000])
    assert sampling.grid == (INF, 8.0, 2.0, 0.5, 0.0)
    latent = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(latents.process_in(latent)[:, 1], (latent[:, 1] - 2) / 6)
    torch.testing.assert_close(latents.process_out(latents.process_in(latent)), latent)


def test_previews_of_normalised_latents_are_those_of_plain_ones(nodes, folder):
    patched = run(nodes, "ZTSNRVPrediction", model=Patcher(), checkpoint=write(folder, "l.safetensors", metadata()))
    latents, plain = patched.get_model_object("latent_format"), SDXL()
    latent = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(0))

    def preview(known, of):
        factors, bias = torch.tensor(of.latent_rgb_factors), torch.tensor(of.latent_rgb_factors_bias)
        return known.permute(0, 2, 3, 1) @ factors + bias

    wanted = preview(latent * plain.scale_factor, plain)
    torch.testing.assert_close(preview(latents.process_in(latent), latents), wanted)


@pytest.mark.parametrize("target", ["v", "eps", "x0", "edm"])
def test_target_of_the_checkpoint_is_comfyuis_class_of_it(nodes, folder, target):
    facts = metadata(target=target, sigma_data="0.5", latents=None, grid=None)
    sampling = sampling_of(nodes, checkpoint=write(folder, f"{target}.safetensors", facts))
    names = {"v": "V_PREDICTION", "eps": "EPS", "x0": "X0", "edm": "EDM"}
    assert isinstance(sampling, getattr(sys.modules["comfy.model_sampling"], names[target]))
    assert sampling.sigma_data == (0.5 if target == "edm" else 1)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"format": None}, "no ztsnr metadata"),
        ({"sigmas": None}, "damaged"),
        ({"sigmas": "[1, 2"}, "damaged"),
        ({"sigmas": "[1, 3, 2]"}, "ascend"),
        ({"sigmas": '[1, "inf", "inf"]'}, "ascend"),
        ({"sigmas": "[1]"}, "ascend"),
        ({"grid": "[1, 2, 0]"}, "decrease"),
        ({"grid": "[3, 2]"}, "decrease to 0"),
        ({"latents": '{"mean": [1], "std": [1]}'}, "4 means"),
        ({"latents": '{"mean": [1, 2, 3, 4], "std": [0, 1, 1, 1]}'}, "positive"),
        ({"target": "edm"}, "sigma_data"),
    ],
)
def test_metadata_that_does_not_hold_is_refused(nodes, folder, changed, said):
    name = write(folder, "damaged.safetensors", metadata(**changed))
    with pytest.raises(CheckpointError, match=said):
        sampling_of(nodes, checkpoint=name)


def test_flow_and_files_of_another_kind_are_refused(nodes, folder):
    with pytest.raises(ConfigError, match="must be one of v, eps, x0, edm, got 'flow'"):
        sampling_of(nodes, checkpoint=write(folder, "flow.safetensors", metadata(target="flow")))
    (folder / "old.ckpt").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(CheckpointError, match="no readable safetensors file"):
        sampling_of(nodes, checkpoint="old.ckpt")


def test_a_file_written_anew_is_read_anew(nodes, folder):
    node, name = nodes.NODE_CLASS_MAPPINGS["ZTSNRVPrediction"], write(folder, "anew.safetensors", metadata())
    before = node.IS_CHANGED(checkpoint=name, model=None)
    assert node.IS_CHANGED(checkpoint=name, model=None) == before
    write(folder, name, metadata(grid=None))
    assert node.IS_CHANGED(checkpoint=name, model=None) != before
    assert node.IS_CHANGED(checkpoint="set below") == "set below"


# What other nodes have patched


def test_patches_of_others_stay_and_the_original_is_untouched(nodes):
    def foreign(args):
        return args["denoised"]

    model = Patcher()
    model.set_model_sampler_post_cfg_function(foreign)
    patched = run(nodes, "ZTSNRCFGRescale", model=run(nodes, "ZTSNRVPrediction", model=model, snr_gamma=5.0))
    twice = run(nodes, "ZTSNRVPrediction", model=run(nodes, "ZTSNRCFGRescale", model=patched), snr_gamma=7.0)
    functions = twice.model_options["sampler_post_cfg_function"]
    assert functions[0] is foreign
    assert [type(function).__name__ for function in functions[1:]] == ["Rescale", "DynamicSNR"]
    assert functions[2].gamma == 7
    assert model.model_options["sampler_post_cfg_function"] == [foreign]
    assert not model.object_patches


def test_table_is_the_models_own_after_any_number_of_nodes(nodes):
    once = run(nodes, "ZTSNRVPrediction", model=Patcher(), sigma_max=100.0, zero_terminal=False)
    assert torch.equal(sampling_of(nodes, once).sigmas, sampling_of(nodes).sigmas)


OTHERS = {"a transformer": {"image_model": "flux"}, "no text": {"in_channels": 3}, "video": {"context_dim": 1024}}


@pytest.mark.parametrize("kind", OTHERS)
def test_models_other_than_sd_and_sdxl_are_refused(nodes, kind):
    with pytest.raises(ConfigError, match="SD or SDXL"):
        sampling_of(nodes, Patcher(**OTHERS[kind], use_temporal_attention=kind == "video"))


def test_flow_models_are_refused(nodes):
    model = Patcher()
    model.add_object_patch("model_sampling", sys.modules["comfy.model_sampling"].CONST())
    with pytest.raises(ConfigError, match="flow-matching"):
        sampling_of(nodes, model)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"sigma_min": 5.0, "sigma_max": 1.0}, "sigma_min must be below sigma_max=1.0"),
        ({"sigma_min": 15.0}, "own highest level"),
        ({"sigma_max": 10.0}, "sigma_max stands for infinity"),
        ({"sigma_data": 0.0}, "sigma_data"),
        ({"snr_gamma": -1.0}, "snr_gamma"),
    ],
)
def test_settings_that_no_sampling_could_use_are_refused(nodes, inputs, said):
    with pytest.raises(ConfigError, match=said):
        sampling_of(nodes, **inputs)


# Guidance


def estimates(sigma=(0.2, 3.0, 20000.0)):
    generator = torch.Generator().manual_seed(0)
    positive, negative, z = torch.randn(3, len(sigma), 4, 5, 5, generator=generator)
    sigma = torch.tensor(sigma)
    guided = negative + 5 * (positive - negative)
    x = z / alpha(sigma).reshape(-1, 1, 1, 1)
    levels = {"transformer_options": {"sample_sigmas": torch.tensor([20000.0, 17.8, 3.0, 0.2, 0.0])}}
    args = {"denoised": guided, "cond_denoised": positive, "input": x, "sigma": sigma, "model_options": levels}
    return args, positive, negative, z


def post_cfg(nodes, name, **inputs):
    return run(nodes, name, model=Patcher(), **inputs).model_options["sampler_post_cfg_function"][-1]


def test_rescale_is_the_cores(nodes):
    args, positive, negative, z = estimates()
    wanted = Guidance(scale=5.0, rescale=0.7).combine(positive, negative, z, args["sigma"].double())
    torch.testing.assert_close(post_cfg(nodes, "ZTSNRCFGRescale")(args), wanted, rtol=1e-3, atol=1e-3)


def test_rescale_of_x0_by_1_gives_the_conditional_spread(nodes):
    args, positive, *_ = estimates()
    rescaled = post_cfg(nodes, "ZTSNRCFGRescale", multiplier=1.0, space="x0")(args)
    torch.testing.assert_close(rescaled.flatten(1).std(1), positive.flatten(1).std(1))


@pytest.mark.parametrize("space", ["v", "x0"])
def test_multiplier_0_changes_nothing(nodes, space):
    args, *_ = estimates()
    torch.testing.assert_close(post_cfg(nodes, "ZTSNRCFGRescale", multiplier=0.0, space=space)(args), args["denoised"])


LEVELS = {
    "constant": (1, 1, 1),
    "linear": (0, 1 / 3, 1),
    "cosine": (0, 0.25, 1),
    "karras": (0, (3 ** (1 / 7) - 0.2 ** (1 / 7)) / (20000 ** (1 / 7) - 0.2 ** (1 / 7)), 1),
    "exponential": (0, math.log(3 / 0.2) / math.log(20000 / 0.2), 1),
    "noise share": (0.04 / 1.04, 0.9, 1),
}


@pytest.mark.parametrize("method", LEVELS)
def test_methods_are_their_formulas(nodes, method):
    args, *_ = estimates()
    share = post_cfg(nodes, "ZTSNRCFGRescale", method=method).share(args["sigma"].double(), args["model_options"])
    torch.testing.assert_close(share, f64(*LEVELS[method]), rtol=1e-6, atol=1e-6)


def test_every_method_is_offered_and_one_step_has_the_whole_of_it(nodes):
    options = nodes.NODE_CLASS_MAPPINGS["ZTSNRCFGRescale"].INPUT_TYPES()["required"]["method"][0]
    assert sorted(options) == sorted(LEVELS)
    one = {"transformer_options": {"sample_sigmas": torch.tensor([20000.0, 0.0])}}
    assert post_cfg(nodes, "ZTSNRCFGRescale", method="karras").share(f64(20000.0), one).tolist() == [1]


def test_methods_of_the_levels_need_a_comfyui_that_says_them(nodes):
    with pytest.raises(ConfigError, match="method=constant"):
        post_cfg(nodes, "ZTSNRCFGRescale", method="linear").share(f64(1.0), {})


def test_dynamic_snr_weights_guidance_by_min_snr_over_gamma(nodes):
    args, positive, negative, _ = estimates()
    weight = torch.tensor([1.0, (1 / 9) / 5, 1 / 20000**2 / 5]).reshape(-1, 1, 1, 1)
    wanted = positive + 4 * weight * (positive - negative)
    torch.testing.assert_close(post_cfg(nodes, "ZTSNRVPrediction", snr_gamma=5.0)(args), wanted)
    assert post_cfg(nodes, "ZTSNRVPrediction")(args) is args["denoised"]


# Levels


@pytest.mark.parametrize("steps", [1, 2, 28])
def test_laplace_is_the_cores_grid_from_the_terminal_level(nodes, steps):
    grid = core("schedule/grid=laplace_terminal").grid
    assert torch.equal(run(nodes, "ZTSNRLaplaceScheduler", steps=steps), grid.sigmas(steps).float())


def test_laplace_maps_to_one_in_ln_sigma(nodes):
    sigmas = run(nodes, "ZTSNRLaplaceScheduler", steps=9, mu=1.0, b=0.8, u_max=0.9, terminal_step=False).double()
    x = torch.linspace(0.9, 0, 10, dtype=torch.float64)[:-1] - 0.5
    in_ln_sigma = -0.5 - 0.4 * x.sign() * (1 - 2 * x.abs()).log()  # mean -mu / 2, scale b / 2
    torch.testing.assert_close(sigmas[:-1].log(), in_ln_sigma, rtol=1e-5, atol=1e-5)
    assert sigmas[-1] == 0


def test_laplace_stays_below_any_sigma_max(nodes):
    inside = run(nodes, "ZTSNRLaplaceScheduler", steps=8, b=3.0, sigma_max=10.0, u_max=1.0, terminal_step=False)
    assert inside[0] == pytest.approx(10)
    with pytest.raises(ConfigError, match="twice"):
        run(nodes, "ZTSNRLaplaceScheduler", steps=8, sigma_max=10.0, b=3.0, u_max=1.0)


@pytest.mark.parametrize("steps", [0, -1])
@pytest.mark.parametrize("name", ["ZTSNRLaplaceScheduler", "ZTSNRSigmas"])
def test_fewer_than_one_step_is_refused(nodes, name, steps):
    model = {"model": run(nodes, "ZTSNRVPrediction", model=Patcher())} if name == "ZTSNRSigmas" else {}
    with pytest.raises(ConfigError, match="steps must be"):
        run(nodes, name, steps=steps, **model)


def test_karras_is_the_cores_from_the_models_ends(nodes):
    model = run(nodes, "ZTSNRVPrediction", model=Patcher())
    lowest = make("schedule/table", "sdxl").sigmas[0].item()
    grid = core(f"schedule.grid.grid.sigma_min={lowest}").grid
    torch.testing.assert_close(run(nodes, "ZTSNRSigmas", model=model, steps=28), grid.sigmas(28).float())


def test_ladder_is_the_one_of_the_configuration(nodes):
    model = run(nodes, "ZTSNRVPrediction", model=Patcher())
    sigmas = run(nodes, "ZTSNRSigmas", model=model, steps=10, grid="progressive ladder")
    assert torch.equal(sigmas, core("schedule/grid=progressive").grid.sigmas(10).float())


@pytest.mark.parametrize("steps", [4, 7, 1])
def test_own_grid_comes_from_the_metadata(nodes, folder, steps):
    name = write(folder, "own.safetensors", metadata())
    model = run(nodes, "ZTSNRVPrediction", model=Patcher(), checkpoint=name)
    sigmas = run(nodes, "ZTSNRSigmas", model=model, steps=steps, grid="the checkpoint's own")
    assert len(sigmas) == steps + 1
    assert (sigmas[0], sigmas[-1]) == (20000, 0)
    assert (sigmas.diff() < 0).all()
    assert steps != 4 or sigmas.tolist() == [20000, 8, 2, 0.5, 0]


def test_grids_that_the_model_cannot_enter_are_refused(nodes):
    with pytest.raises(ConfigError, match="carries no sampling grid"):
        run(nodes, "ZTSNRSigmas", model=Patcher(), grid="the checkpoint's own")
    with pytest.raises(ConfigError, match="highest level of the model must exceed"):
        run(nodes, "ZTSNRSigmas", model=Patcher())


# The sampler


def denoise(x, sigma, **_):
    """The exact estimate for data of mean 0.5 and deviation 0.7."""
    square = sigma.double().square().reshape(-1, 1, 1, 1)
    return ((0.49 * x.double() + square * 0.5) / (0.49 + square)).to(x)


def comfy_euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
    for i in range(len(sigmas) - 1):
        estimate = model(x, sigmas[i] * x.new_ones([len(x)]), **(extra_args or {}))
        if callback is not None:
            callback({"i": i, "x": x, "denoised": estimate})
        x = x + (x - estimate) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
    return x


class Wrapped:
    """A model as samplers get it, of a highest level."""

    def __init__(self, highest):
        sampling = SimpleNamespace(sigma_max=torch.tensor(highest))
        self.inner_model = SimpleNamespace(inner_model=SimpleNamespace(model_sampling=sampling))

    def __call__(self, x, sigma, **told):
        return denoise(x, sigma, **told)


def test_first_step_loses_nothing_in_float32(nodes):
    sigmas = f64(20000.0, 17.8, 3.0, 0.03, 0.0)
    noise = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = Euler()(lambda z, sigma: denoise(z / alpha(sigma), sigma), noise, sigmas)
    x = (noise / alpha(sigmas[0])).float()
    ours = run(nodes, "ZTSNRSampler", sampler=Inner(comfy_euler)).sampler_function
    lost = [(f(Wrapped(20000.0), x, sigmas.float()) - exact).abs().max() for f in (ours, comfy_euler)]
    assert lost[0] < 2e-6
    assert lost[1] > 1e-5


@pytest.mark.parametrize("levels", [[20000.0, 17.8, 3.0, 0.0], [20000.0, 0.0], [14.6, 3.0, 0.0]])
def test_steps_are_told_once_each_and_a_lower_start_is_the_other_samplers(nodes, levels):
    ours, steps = run(nodes, "ZTSNRSampler", sampler=Inner(comfy_euler)).sampler_function, []
    x = levels[0] * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    told = ours(Wrapped(20000.0), x, torch.tensor(levels), callback=lambda step: steps.append(step["i"]))
    assert steps == list(range(len(levels) - 1))
    plain = comfy_euler(Wrapped(20000.0), x, torch.tensor(levels))
    torch.testing.assert_close(told, plain, rtol=0, atol=0 if levels[0] < 20000 else 2e-3)


def test_settings_of_the_other_sampler_are_kept(nodes):
    sampler = run(nodes, "ZTSNRSampler", sampler=Inner(comfy_euler, {"eta": 0.5}, {"random": True}))
    assert (sampler.extra_options, sampler.inpaint_options) == ({"eta": 0.5}, {"random": True})
    with pytest.raises(ConfigError, match="KSAMPLER"):
        run(nodes, "ZTSNRSampler", sampler=object())


# The contract


def test_classic_mappings_say_what_the_schema_says(nodes):
    assert nodes.NODE_DISPLAY_NAME_MAPPINGS["ZTSNRVPrediction"] == "ZTSNR V-Prediction"
    node = nodes.NODE_CLASS_MAPPINGS["ZTSNRVPrediction"]
    assert (node.CATEGORY, node.RETURN_TYPES, node.FUNCTION) == ("conditioning", ("MODEL",), "execute")
    inputs = node.INPUT_TYPES()
    assert inputs["required"]["model"] == ("MODEL", {})
    assert inputs["required"]["checkpoint"][0][0] == "set below"
    assert inputs["required"]["sigma_max"][1]["max"] == 20000
    assert list(inputs["optional"]) == ["latent"]
    assert {other.CATEGORY for other in nodes.NODES if other is not node} == {"sampling"}


def test_every_widget_says_what_it_does(nodes):
    for node in nodes.NODES:
        for name, (kind, told) in (node.INPUT_TYPES()["required"]).items():
            assert kind in ("MODEL", "SAMPLER") or name == "steps" or told["tooltip"], (node, name)


def test_new_comfyuis_get_the_extension_and_no_mappings(nodes, folder, monkeypatch):
    class Extension:
        pass

    latest = SimpleNamespace(ComfyExtension=Extension, io=part(nodes, "classic"))
    monkeypatch.setitem(sys.modules, "comfy_api", SimpleNamespace(latest=latest))
    monkeypatch.setitem(sys.modules, "comfy_api.latest", latest)
    loaded = load_nodes(name="custom_nodes_v3")
    extension = drive(loaded.comfy_entrypoint())
    assert isinstance(extension, Extension)
    assert drive(extension.get_node_list()) == loaded.NODES
    assert not hasattr(loaded, "NODE_CLASS_MAPPINGS")


def drive(coroutine):
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    return stop.value.value


def test_without_the_core_one_node_says_what_to_do(nodes, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "ztsnr.sampling", None)
    loaded = load_nodes(name="custom_nodes_without_core")
    assert list(loaded.NODE_DISPLAY_NAME_MAPPINGS.values()) == ["ZTSNR: core not found"]
    assert "pip install --no-deps" in caplog.text
    (node,) = loaded.NODE_CLASS_MAPPINGS.values()
    with pytest.raises(RuntimeError, match="Link the nodes/ folder"):
        node.execute()


@pytest.mark.parametrize("path", sorted(NODES.glob("example_workflows/api/*.json")), ids=lambda path: path.stem)
def test_examples_set_every_widget_of_our_nodes_within_its_bounds(nodes, path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    ours = [node for node in workflow.values() if node["class_type"] in nodes.NODE_CLASS_MAPPINGS]
    assert len(ours) >= 4
    for node in ours:
        ports = nodes.NODE_CLASS_MAPPINGS[node["class_type"]].INPUT_TYPES()
        assert ports["required"].keys() <= node["inputs"].keys() <= (ports["required"] | ports["optional"]).keys()
        for name, (kind, told) in ports["required"].items():
            value = node["inputs"][name]
            if isinstance(kind, list):
                assert value in kind or name == "checkpoint"
            elif "min" in told:
                assert told["min"] <= value <= told["max"]


def test_metadata_is_what_the_registry_takes():
    read = tomllib.loads((NODES / "pyproject.toml").read_text(encoding="utf-8"))
    name = read["project"]["name"]
    assert "comfyui" not in name.lower()
    assert name[0].isalpha()
    assert [part.isdigit() for part in read["project"]["version"].split(".")] == [True] * 3
    assert read["tool"]["comfy"].keys() >= {"PublisherId", "DisplayName"}
