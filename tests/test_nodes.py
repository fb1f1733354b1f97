"""The nodes' maths against the core, what they read against what is exported, their contract against a stand-in."""

import json
import math
import re
import sys
import tomllib
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from tests.comfyui import CONST, KSAMPLER, NODES, SDXL, Patcher, load_nodes, modules
from ztsnr.config.registry import build, compose, make
from ztsnr.core.errors import CheckpointError, ConfigError
from ztsnr.core.noise import alpha
from ztsnr.core.sampling import Euler, Guidance
from ztsnr.core.target import EDM, V
from ztsnr.formats.metadata import export_metadata

PREDICTION, RESCALE, LAPLACE, SIGMAS, SAMPLER = (
    f"ZTSNR{name}" for name in ("VPrediction", "CFGRescale", "LaplaceScheduler", "Sigmas", "Sampler")
)
OWN = "the checkpoint's own"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of ComfyUI's models."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("checkpoints", "loras"):
        (folder / kind).mkdir()
    return folder


@pytest.fixture(scope="module")
def nodes(folder):
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules(folder).items():
            patch.setitem(sys.modules, name, module)
        yield load_nodes()


def run(nodes, name, **inputs):
    """What the node gives, its widgets being at their defaults but for `inputs`."""
    node = nodes.NODE_CLASS_MAPPINGS[name]
    ports = node.INPUT_TYPES()["required"]
    defaults = {port: options["default"] for port, (_, options) in ports.items() if "default" in options}
    return getattr(node(), node.FUNCTION)(**defaults | inputs)[0]


def predicting(nodes, model=None, **inputs):
    return run(nodes, PREDICTION, model=model or Patcher(), **inputs)


def sampling_of(nodes, model=None, **inputs):
    return predicting(nodes, model, **inputs).get_model_object("model_sampling")


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def draw_normal(*shape, **kind):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), **kind)


def schedule(*overrides):
    """The configuration's whose terminal level is the nodes' ceiling."""
    return build(compose("schedule=ztsnr", "schedule.table.terminal=20000.0", *overrides).schedule)


@cache
def exported(*overrides):
    """The objective of a run, and what an export of it says in its metadata."""
    objective = build(compose(*overrides).objective)
    return objective, export_metadata(objective, {}, 4, "sdxl")


def write(folder, metadata, name="it.safetensors", kind="checkpoints"):
    save_file({"weight": torch.zeros(1)}, folder / kind / name, metadata)
    return name


# The table


@pytest.mark.parametrize("terminal", [20000.0, 4518.76])
def test_default_table_is_the_cores_zero_terminal_one(nodes, terminal):
    sampling = sampling_of(nodes, sigma_max=terminal)
    assert torch.equal(sampling.sigmas, make("schedule/table", "sdxl_ztsnr", terminal=terminal).sigmas.float())


def test_other_ends_stretch_the_models_own_table_in_alpha(nodes):
    own = make("schedule/table", "sdxl").sigmas
    stretched = predicting(nodes, zero_terminal=False, sigma_min=0.05, sigma_max=30.0)
    sigmas = stretched.get_model_object("model_sampling").sigmas.double()
    slope = alpha(sigmas).diff() / alpha(own).diff()
    assert (sigmas[0].item(), sigmas[-1].item()) == (pytest.approx(0.05), 30.0)
    torch.testing.assert_close(slope, slope.mean().expand(999), rtol=1e-2, atol=0)
    restored = sampling_of(nodes, stretched, zero_terminal=False, sigma_max=own[-1].item())
    torch.testing.assert_close(restored.sigmas, own.float())


def test_resolution_moves_the_visited_levels_and_not_their_timesteps(nodes):
    latent = {"samples": torch.zeros(1, 4, 128, 512)}
    plain, wide = predicting(nodes), predicting(nodes, latent=latent, native_resolution=1024)
    narrow, broad = (model.get_model_object("model_sampling") for model in (plain, wide))
    torch.testing.assert_close(broad.sigmas[:-1], 2 * narrow.sigmas[:-1])
    assert broad.sigma_max == narrow.sigma_max == 20000
    assert torch.equal(broad.timestep(f64(0.5, 3.0)), narrow.timestep(f64(0.5, 3.0)))
    for grid in ("karras from the terminal level", "progressive ladder"):
        one, other = (run(nodes, SIGMAS, model=model, steps=6, grid=grid) for model in (plain, wide))
        torch.testing.assert_close(other, one * torch.tensor([1.0, 2, 2, 2, 2, 2, 2]))


@pytest.mark.parametrize("sigma_data", [1.0, 0.5])
def test_denoised_on_x_is_the_cores_on_z(nodes, sigma_data):
    sampling, sigma = sampling_of(nodes, sigma_data=sigma_data), f64(0.03, 1.0, 20000.0)
    z, output = draw_normal(2, 3, 4, dtype=torch.float64)
    x = z / alpha(sigma)[:, None]
    target, sign = (V(), 1) if sigma_data == 1 else (EDM(sigma_data=sigma_data), -1)
    torch.testing.assert_close(sampling.calculate_input(sigma, x), target.c_in(sigma)[:, None] * z)
    torch.testing.assert_close(sampling.calculate_denoised(sigma, output, x), target.denoised(sign * output, z, sigma))


# What an export says


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (["schedule=ztsnr", "loss=vpred"], "V_PREDICTION"),
        (["schedule=sdxl", "loss=eps", "schedule.timesteps.quantize=true"], "EPS"),
        (["schedule=ztsnr", "loss=x0", "schedule.table.terminal=4000"], "X0"),
        (["schedule=edm2", "loss=edm", "target.sigma_data=0.25"], "EDM"),
        (["schedule=cosine_table", "loss=vpred", "schedule/timesteps=flow"], "V_PREDICTION"),
    ],
)
def test_network_gets_the_inputs_it_was_trained_with(nodes, folder, overrides, kind):
    objective, metadata = exported(*overrides)
    model = predicting(nodes, checkpoint=write(folder, metadata))
    sampling, trained = model.get_model_object("model_sampling"), objective.schedule
    assert isinstance(sampling, getattr(sys.modules["comfy.model_sampling"], kind))
    assert sampling.sigma_data == getattr(objective.target, "sigma_data", 1)
    assert torch.equal(sampling.sigmas, trained.table.sigmas.clamp(max=20000).float())
    sigma = f64(0.03, 0.7, 3.3, 14.0)
    torch.testing.assert_close(sampling.timestep(sigma.reshape(2, 2)).flatten(), trained.timesteps(sigma).float())
    own_sigmas = run(nodes, SIGMAS, model=model, steps=4, grid=OWN)
    torch.testing.assert_close(own_sigmas, trained.grid.sigmas(4).clamp(max=20000).float())
    for steps in (7, 1):
        sigmas = run(nodes, SIGMAS, model=model, steps=steps, grid=OWN)
        assert (len(sigmas), sigmas[0], sigmas[-1]) == (steps + 1, own_sigmas[0], 0)
    assert sampling.percent_to_sigma(0.0) > 1e8
    assert sampling.percent_to_sigma(1.0) == 0
    half = sampling.sigma(torch.tensor((len(sampling.sigmas) - 1) / 2)).item()
    assert sampling.percent_to_sigma(0.5) == pytest.approx(half)


def test_latents_of_a_lora_have_its_statistics_and_plain_previews(nodes, folder):
    statistics = {"mean": [1, 2, 3, 4], "std": [5, 6, 7, 8]}
    _, metadata = exported("schedule=ztsnr", "loss=vpred")
    write(folder, metadata | {"ztsnr.latents": json.dumps(statistics)}, "l.safetensors", "loras")
    (options, _) = nodes.NODE_CLASS_MAPPINGS[PREDICTION].INPUT_TYPES()["required"]["checkpoint"]
    assert options[-1] == "loras: l.safetensors"
    model, stock_format, latent = predicting(nodes, checkpoint=options[-1]), SDXL(), draw_normal(2, 4, 3, 3)
    latents = model.get_model_object("latent_format")
    torch.testing.assert_close(latents.process_in(latent)[:, 1], (latent[:, 1] - 2) / 6)
    torch.testing.assert_close(latents.process_out(latents.process_in(latent)), latent)

    def preview(latent, by):
        return latent.movedim(1, -1) @ torch.tensor(by.latent_rgb_factors) + torch.tensor(by.latent_rgb_factors_bias)

    colours = preview(latents.process_in(latent), latents)
    torch.testing.assert_close(colours, preview(latent * stock_format.scale_factor, stock_format))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": None}, "no ztsnr metadata"),
        ({"sigmas": None}, r"lacks 'ztsnr\.sigmas'"),
        ({"sigmas": "[1, 2"}, "cannot use"),
        ({"sigmas": "[1, 3, 2]"}, "ascend"),
        ({"sigmas": '[1, 30000, "inf"]'}, "ascend"),
        ({"sigmas": "[1]"}, "at least two"),
        ({"grid": "[1, 2, 0]"}, "must exceed"),
        ({"grid": "[3, 2]"}, "decrease to 0"),
        ({"timesteps": '{"name": "mine"}'}, r"ztsnr\.timesteps must be one of tableindex"),
        ({"timesteps": '{"name": "logsigma"}'}, "scale"),
        ({"latents": '{"mean": [1], "std": [1]}'}, "4 means"),
        ({"latents": '{"mean": [1, 2, 3, 4], "std": [0, 1, 1, 1]}'}, "positive"),
        ({"target": "edm"}, "sigma_data"),
        ({"target": "flow"}, "must be one of v, eps, x0, edm, got 'flow'"),
    ],
)
def test_unusable_metadata_is_refused(nodes, folder, fields, message):
    _, metadata = exported("schedule=ztsnr", "loss=vpred")
    metadata = metadata | {f"ztsnr.{name}": value for name, value in fields.items()}
    name = write(folder, {key: value for key, value in metadata.items() if value is not None})
    with pytest.raises(CheckpointError, match=message):
        predicting(nodes, checkpoint=name)


def test_files_of_other_formats_are_refused(nodes, folder):
    for content in (b"PK\x03\x04 something else", b"", b"\x02" + bytes(7) + b"[]"):
        (folder / "checkpoints" / "old.ckpt").write_bytes(content)
        with pytest.raises(CheckpointError, match="not a readable safetensors file"):
            predicting(nodes, checkpoint="old.ckpt")


def test_a_rewritten_file_is_read_again(nodes, folder):
    node, name = nodes.NODE_CLASS_MAPPINGS[PREDICTION], write(folder, {"a": "b"})
    before = node.IS_CHANGED(checkpoint=name, model=None)
    assert node.IS_CHANGED(checkpoint=name, model=None) == before
    write(folder, {"a": "longer"})
    assert node.IS_CHANGED(checkpoint=name, model=None) != before
    assert node.IS_CHANGED(checkpoint="set below") == "set below"


# The model


def test_patches_of_other_nodes_stay_and_the_input_model_is_unchanged(nodes):
    def foreign(args):
        return args["denoised"]

    model = Patcher()
    model.set_model_sampler_post_cfg_function(foreign)
    patched = run(nodes, RESCALE, model=predicting(nodes, model, snr_gamma=5.0))
    twice = predicting(nodes, run(nodes, RESCALE, model=patched), snr_gamma=7.0)
    functions = twice.model_options["sampler_post_cfg_function"]
    assert functions[0] is foreign
    assert [type(function).__name__ for function in functions[1:]] == ["Rescale", "DynamicSNR"]
    assert functions[2].gamma == 7
    assert model.model_options["sampler_post_cfg_function"] == [foreign]
    assert not model.object_patches


def flow_model():
    model = Patcher()
    model.add_object_patch("model_sampling", CONST())
    return model


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"model": flow_model()}, "flow-matching"),
        ({"model": Patcher(image_model="flux")}, "SD or SDXL"),
        ({"model": Patcher(in_channels=3)}, "SD or SDXL"),
        ({"model": Patcher(context_dim=1024, use_temporal_attention=True)}, "SD or SDXL"),
        ({"sigma_min": 5.0, "sigma_max": 1.0}, r"sigma_min must be below sigma_max=1\.0"),
        ({"sigma_min": 15.0}, "own highest level"),
        ({"sigma_max": 10.0}, "sigma_max stands for infinity"),
        ({"sigma_data": 0.0}, "sigma_data"),
        ({"snr_gamma": -1.0}, "snr_gamma"),
        ({"latent": {"samples": torch.zeros(1, 4, 4096, 4096)}}, "above the terminal one"),
    ],
)
def test_unusable_models_and_settings_are_refused(nodes, inputs, message):
    with pytest.raises(ConfigError, match=message):
        predicting(nodes, **inputs)


# Guidance


def estimates(*levels):
    """The arguments of a post_cfg function at three levels, with the parts of the guided estimate."""
    positive, negative, z = draw_normal(3, 3, 4, 5, 5)
    sigma = torch.tensor([0.2, 3.0, 20000.0])
    options = {"transformer_options": {"sample_sigmas": torch.tensor(levels)}} if levels else {}
    args = {"denoised": negative + 5 * (positive - negative), "cond_denoised": positive}
    args |= {"input": z / alpha(sigma).reshape(-1, 1, 1, 1), "sigma": sigma, "model_options": options}
    return args, positive, negative, z


def post_cfg(nodes, name, **inputs):
    return run(nodes, name, model=Patcher(), **inputs).model_options["sampler_post_cfg_function"][-1]


def test_rescale_is_the_cores_on_v_and_gives_the_conditional_spread_on_x0(nodes):
    args, positive, negative, z = estimates()
    expected = Guidance(scale=5.0, rescale=0.7).combine(positive, negative, z, args["sigma"].double())
    torch.testing.assert_close(post_cfg(nodes, RESCALE)(args), expected, rtol=1e-3, atol=1e-3)
    rescaled = post_cfg(nodes, RESCALE, multiplier=1.0, space="x0")(args)
    torch.testing.assert_close(rescaled.flatten(1).std(1), positive.flatten(1).std(1))
    for space in ("v", "x0"):
        torch.testing.assert_close(post_cfg(nodes, RESCALE, multiplier=0.0, space=space)(args), args["denoised"])


SHARES = {
    "constant": (1, 1, 1),
    "linear": (0, 1 / 3, 1),
    "cosine": (0, 0.25, 1),
    "karras": (0, (3 ** (1 / 7) - 0.2 ** (1 / 7)) / (20000 ** (1 / 7) - 0.2 ** (1 / 7)), 1),
    "exponential": (0, math.log(3 / 0.2) / math.log(20000 / 0.2), 1),
    "noise share": (0.04 / 1.04, 0.9, 1),
}


@pytest.mark.parametrize("method", SHARES)
def test_methods_are_their_formulas(nodes, method):
    args, *_ = estimates(20000.0, 17.8, 3.0, 0.2, 0.0)
    function, sigma = post_cfg(nodes, RESCALE, method=method), args["sigma"].double()
    share = function.share(sigma, args["model_options"])
    torch.testing.assert_close(share, f64(*SHARES[method]), rtol=1e-6, atol=1e-6)
    one_step, *_ = estimates(20000.0, 0.0)
    assert function.share(f64(20000.0), one_step["model_options"]).item() == pytest.approx(1)
    options, widget = nodes.NODE_CLASS_MAPPINGS[RESCALE].INPUT_TYPES()["required"]["method"]
    assert sorted(options) == sorted(SHARES)
    assert f"{method}: " in widget["tooltip"]
    if method not in ("constant", "noise share"):
        with pytest.raises(ConfigError, match="method=constant"):
            function.share(sigma, {})


def test_dynamic_snr_weights_guidance_by_min_snr_over_gamma(nodes):
    args, positive, negative, _ = estimates()
    weight = torch.tensor([1.0, (1 / 9) / 5, 1 / 20000**2 / 5]).reshape(-1, 1, 1, 1)
    expected = positive + 4 * weight * (positive - negative)
    torch.testing.assert_close(post_cfg(nodes, PREDICTION, snr_gamma=5.0)(args), expected)
    assert post_cfg(nodes, PREDICTION)(args) is args["denoised"]


# Levels


def test_grids_are_the_cores(nodes):
    lowest = make("schedule/table", "sdxl").sigmas[0].item()
    references = {
        LAPLACE: schedule("schedule/grid=laplace_terminal"),
        "karras from the terminal level": schedule(f"schedule.grid.grid.sigma_min={lowest}"),
        "progressive ladder": schedule("schedule/grid=progressive"),
    }
    for name, reference in references.items():
        for steps in (1, 2, 10, 28):
            inputs = {} if name == LAPLACE else {"model": predicting(nodes), "grid": name}
            sigmas = run(nodes, LAPLACE if name == LAPLACE else SIGMAS, steps=steps, **inputs)
            torch.testing.assert_close(sigmas, reference.grid.sigmas(steps).float(), rtol=2e-6, atol=0)


def test_laplace_maps_to_one_in_ln_sigma_and_stays_below_any_sigma_max(nodes):
    sigmas = run(nodes, LAPLACE, steps=9, mu=1.0, b=0.8, u_max=0.9, terminal_step=False).double()
    x = torch.linspace(0.9, 0, 10, dtype=torch.float64)[:-1] - 0.5
    in_ln_sigma = -0.5 - 0.4 * x.sign() * (1 - 2 * x.abs()).log()  # mean -mu / 2, scale b / 2
    torch.testing.assert_close(sigmas[:-1].log(), in_ln_sigma, rtol=1e-5, atol=1e-5)
    wide = {"steps": 8, "b": 3.0, "sigma_max": 10.0, "u_max": 1.0}
    assert run(nodes, LAPLACE, **wide, terminal_step=False)[0] == pytest.approx(10)
    with pytest.raises(ConfigError, match="twice"):
        run(nodes, LAPLACE, **wide)


def test_grids_that_cannot_be_sampled_are_refused(nodes):
    for steps in (0, -1):
        with pytest.raises(ConfigError, match="steps must be"):
            run(nodes, LAPLACE, steps=steps)
        with pytest.raises(ConfigError, match="steps must be"):
            run(nodes, SIGMAS, model=predicting(nodes), steps=steps)
    with pytest.raises(ConfigError, match="carries no sampling grid"):
        run(nodes, SIGMAS, model=Patcher(), grid=OWN)
    with pytest.raises(ConfigError, match="highest level of the model must exceed"):
        run(nodes, SIGMAS, model=Patcher())
    with pytest.raises(ConfigError, match="lowest level must be below start"):
        run(nodes, SIGMAS, model=predicting(nodes), start=0.01)


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
    """A model as samplers get it, of highest level 20000."""

    inner_model = SimpleNamespace(
        inner_model=SimpleNamespace(model_sampling=SimpleNamespace(sigma_max=torch.tensor(20000.0)))
    )

    def __call__(self, x, sigma, **options):
        return denoise(x, sigma, **options)


def test_first_step_loses_nothing_in_float32(nodes):
    sigmas, noise = f64(20000.0, 17.8, 3.0, 0.03, 0.0), draw_normal(2, 4, 8, 8, dtype=torch.float64)
    exact = Euler()(lambda z, sigma: denoise(z / alpha(sigma), sigma), noise, sigmas)
    x = (noise / alpha(sigmas[0])).float()
    sample = run(nodes, SAMPLER, sampler=KSAMPLER(comfy_euler)).sampler_function
    errors = [(f(Wrapped(), x, sigmas.float()) - exact).abs().max() for f in (sample, comfy_euler)]
    assert errors[0] < 2e-6
    assert errors[1] > 1e-5


@pytest.mark.parametrize("levels", [[20000.0, 17.8, 3.0, 0.0], [20000.0, 0.0], [14.6, 3.0, 0.0]])
def test_callback_gets_each_step_once_and_the_other_sampler_any_lower_start(nodes, levels):
    sample, steps = run(nodes, SAMPLER, sampler=KSAMPLER(comfy_euler)).sampler_function, []
    x, sigmas = levels[0] * draw_normal(1, 4, 8, 8), torch.tensor(levels)
    latents = sample(Wrapped(), x, sigmas, callback=lambda step: steps.append(step["i"]))
    assert steps == list(range(len(levels) - 1))
    tolerance = 0 if levels[0] < 20000 else 2e-3
    torch.testing.assert_close(latents, comfy_euler(Wrapped(), x, sigmas), rtol=0, atol=tolerance)


def test_settings_of_the_other_sampler_are_kept(nodes):
    sampler = run(nodes, SAMPLER, sampler=KSAMPLER(comfy_euler, {"eta": 0.5}, {"random": True}))
    assert (sampler.extra_options, sampler.inpaint_options) == ({"eta": 0.5}, {"random": True})
    with pytest.raises(ConfigError, match="KSAMPLER"):
        run(nodes, SAMPLER, sampler=object())


# The contract


def test_classic_mappings_are_those_of_the_schema_and_each_widget_has_a_tooltip(nodes):
    assert nodes.NODE_DISPLAY_NAME_MAPPINGS[PREDICTION] == "ZTSNR V-Prediction"
    node = nodes.NODE_CLASS_MAPPINGS[PREDICTION]
    assert (node.CATEGORY, node.RETURN_TYPES, node.FUNCTION) == ("conditioning", ("MODEL",), "execute")
    inputs = node.INPUT_TYPES()
    assert inputs["required"]["model"] == ("MODEL", {})
    assert inputs["required"]["checkpoint"][0][0] == "set below"
    assert inputs["required"]["sigma_max"][1]["max"] == 20000
    assert list(inputs["optional"]) == ["latent"]
    assert {other.CATEGORY for other in nodes.NODES if other is not node} == {"sampling"}
    for other in nodes.NODES:
        for name, (kind, widget) in other.INPUT_TYPES()["required"].items():
            assert kind in ("MODEL", "SAMPLER") or widget["tooltip"], (other, name)


def test_new_comfyuis_get_the_extension_and_no_mappings(nodes, monkeypatch):
    class Extension:
        pass

    latest = SimpleNamespace(ComfyExtension=Extension, io=sys.modules[f"{nodes.__name__}.classic"])
    monkeypatch.setitem(sys.modules, "comfy_api", SimpleNamespace(latest=latest))
    monkeypatch.setitem(sys.modules, "comfy_api.latest", latest)
    module = load_nodes(name="custom_nodes_v3")
    extension = drive(module.comfy_entrypoint())
    assert isinstance(extension, Extension)
    assert drive(extension.get_node_list()) == module.NODES
    assert not hasattr(module, "NODE_CLASS_MAPPINGS")


def drive(coroutine):
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    return stop.value.value


def test_without_the_core_one_node_explains_what_to_do(nodes, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "ztsnr.core.sampling", None)
    module = load_nodes(name="custom_nodes_without_core")
    assert list(module.NODE_DISPLAY_NAME_MAPPINGS.values()) == ["ZTSNR: core not found"]
    assert "pip install --no-deps" in caplog.text
    (node,) = module.NODE_CLASS_MAPPINGS.values()
    with pytest.raises(RuntimeError, match="Link the nodes/ folder"):
        node.execute()


def test_core_is_found_in_the_folder_or_beside_it(nodes, tmp_path):
    assert nodes.find_core(NODES) == NODES.parent / "ztsnr"
    assert nodes.find_core(tmp_path / "nodes") is None
    (tmp_path / "nodes" / "ztsnr" / "core").mkdir(parents=True)
    (tmp_path / "nodes" / "ztsnr" / "core" / "noise.py").touch()
    assert nodes.find_core(tmp_path / "nodes") == tmp_path / "nodes" / "ztsnr"


@pytest.mark.parametrize("path", sorted(NODES.glob("example_workflows/api/*.json")), ids=lambda path: path.stem)
def test_examples_set_every_widget_of_our_nodes_within_its_bounds(nodes, path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    our_nodes = [node for node in workflow.values() if node["class_type"] in nodes.NODE_CLASS_MAPPINGS]
    assert len(our_nodes) >= 4
    for node in our_nodes:
        ports = nodes.NODE_CLASS_MAPPINGS[node["class_type"]].INPUT_TYPES()
        assert ports["required"].keys() <= node["inputs"].keys() <= (ports["required"] | ports["optional"]).keys()
        for name, (kind, widget) in ports["required"].items():
            value = node["inputs"][name]
            assert not isinstance(kind, list) or value in kind or name == "checkpoint"
            assert "min" not in widget or widget["min"] <= value <= widget["max"]
    page = json.loads((path.parent.parent / path.name).read_text(encoding="utf-8"))
    assert {str(node["id"]): node["type"] for node in page["nodes"]} == {
        number: node["class_type"] for number, node in workflow.items()
    }


def test_pyproject_has_the_fields_of_the_registry_except_the_publishers():
    settings = tomllib.loads((NODES / "pyproject.toml").read_text(encoding="utf-8"))
    project, comfy = settings["project"], settings["tool"]["comfy"]
    assert re.fullmatch(r"(?!.*comfyui)[a-z](-?[a-z0-9])+", project["name"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert (comfy["PublisherId"], comfy["DisplayName"], project["license"]["text"]) == ("", "ZTSNR", "Apache-2.0")
