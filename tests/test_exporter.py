import json
from copy import copy
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from tests.tiny import V, exported, inputs, latents_of_pipeline, make, tiny_sdxl
from ztsnr.core.errors import CheckpointError, ConfigError
from ztsnr.core.sampling import Euler, Guidance, guided_denoise
from ztsnr.formats import lora
from ztsnr.formats.diagnosis import diagnose_file, diagnose_folder
from ztsnr.formats.ldm import from_ldm
from ztsnr.formats.single_file import SingleFile
from ztsnr.models.latents import fold_latents
from ztsnr.models.parts import plain_state
from ztsnr.models.pretrained import load_unet, load_vae
from ztsnr.models.text import load_text_encoders

EPS = ("schedule=sdxl", "loss=eps")
LORA = ("model/train=lora", "model.train.rank=3", "model.train.alpha=2")


def sample_latents(export, prompt, size, guidance, rescale=0.0):
    """An image's latents by our sampler, from noise of seed 0."""
    encoders = load_text_encoders(tiny_sdxl())
    ids = torch.tensor([[float(size), size, 0, 0, size, size]])
    cond, negative = ({**encoders.encode([words]), "time_ids": ids} for words in (prompt, ""))
    z = torch.randn(1, 4, size // 8, size // 8, generator=torch.Generator().manual_seed(0))
    denoise = guided_denoise(
        export.objective, export.network, cond, negative, Guidance(scale=guidance, rescale=rescale)
    )
    with torch.no_grad():
        return Euler()(denoise, z, export.objective.schedule.grid.sigmas(export.steps))


@pytest.mark.slow
@pytest.mark.parametrize(("overrides", "rescale"), [(V, 0.7), (EPS, 0.0), (("schedule=sdxl_ztsnr", "loss=x0"), 0.0)])
def test_diffusers_folder_samples_as_our_sampler_does(tmp_path, overrides, rescale):
    export = exported(*overrides)
    expected = sample_latents(export, "a red house", 128, 3.0, rescale)
    export.write_diffusers(tmp_path / "model")
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(
        latents_of_pipeline(pipeline, "a red house", 128, 3.0, rescale), expected, rtol=1e-3, atol=2e-4
    )


@pytest.mark.slow
def test_single_file_has_the_same_weights_markers_and_diagnosis(tmp_path):
    export, path = exported(*V), tmp_path / "model.safetensors"
    export.write_single_file(path)
    tensors = load_file(path)
    assert {"v_pred", "ztsnr"} <= tensors.keys()
    assert tensors["v_pred"].numel() == tensors["ztsnr"].numel() == 0
    pipeline = StableDiffusionXLPipeline.from_single_file(str(path), config=tiny_sdxl(), local_files_only=True)
    weights = export.network.unet.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in pipeline.unet.state_dict().items())
    loaded_weights = load_unet(str(path)).state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in loaded_weights.items())
    diagnosis = diagnose_file(path)
    assert diagnosis.properties["ComfyUI"] == diagnosis.properties["A1111, Forge"] == "v, sigma_max 4518.76"
    assert diagnosis.properties["trained as"] == "v, table up to sigma inf, sampled from inf"
    assert diagnosis.notes == []


def test_metadata_is_plain_json_without_class_paths(tmp_path):
    exported(*V).write_single_file(tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    sigmas, grid = json.loads(metadata["ztsnr.sigmas"]), json.loads(metadata["ztsnr.grid"])
    assert len(sigmas) == 1000
    assert sigmas[-1] == grid[0] == "inf"
    assert (len(grid), grid[-1], metadata["ztsnr.target"]) == (5, 0.0, "v")
    assert metadata["modelspec.prediction_type"] == "v"
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base"
    assert "ztsnr.latents" not in metadata
    assert json.loads(metadata["ztsnr.config"])["schedule"]["_class_"] == "schedule"


def test_exported_unet_has_its_markers_where_comfyui_looks(tmp_path):
    export, path = exported(*V), tmp_path / "unet.safetensors"
    export.write_unet(path)
    state = load_file(path)
    assert {"v_pred", "ztsnr", "input_blocks.0.0.weight"} <= state.keys()
    weights = {key: value for key, value in state.items() if key not in ("v_pred", "ztsnr")}
    expected = export.network.unet.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in from_ldm("unet", weights, expected, "it").items())
    assert diagnose_file(path).properties["ComfyUI"] == "v, sigma_max 4518.76"
    tensors = {f"model.diffusion_model.{key}": value for key, value in weights.items()} | {"v_pred": torch.zeros(0)}
    save_file(tensors, path)
    diagnosis = diagnose_file(path)
    assert diagnosis.properties["ComfyUI"] == "eps, sigma_max 14.6146"
    assert "drops v_pred" in diagnosis.notes[0]


MODULES = 'model.train.modules=["to_q","ff.net.*","resnets.*.conv1","proj_in","downsamplers.0.conv","time_emb_proj"]'


@pytest.mark.slow
@pytest.mark.parametrize("format", ["lora_kohya", "lora_peft"])
def test_exported_lora_gives_the_same_output_in_diffusers(tmp_path, format):
    latents = {"mean": [4.8, 0.2, 1.4, -1.8], "std": [9.9, 6.3, 7.6, 6.0]}
    export, path = copy(exported(*V, *LORA, MODULES)), tmp_path / "lora.safetensors"
    export.latents = latents
    z, t, cond = inputs()
    with torch.no_grad():
        expected = export.network(z, t, **cond)
    export.write(format, path)
    assert json.loads(SingleFile(path).metadata["ztsnr.latents"]) == latents
    assert diagnose_file(path).properties["latents"].startswith("normalised by channel")
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_sdxl())
    pipeline.load_lora_weights(str(tmp_path / "lora.safetensors"))
    layer_names = {name for name, _ in pipeline.unet.named_parameters() if ".lora_A." in name}
    assert len(layer_names) == len(export.network.state_dict()) // 2
    added_cond = {"text_embeds": cond["pooled"], "time_ids": cond["time_ids"]}
    with torch.no_grad():
        output = pipeline.unet(z, t, cond["text"], added_cond_kwargs=added_cond).sample
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_merged_lora_gives_the_output_of_the_network_with_it(tmp_path):
    z, t, cond = inputs()
    for dora in ("false", "true"):
        export = exported(*V, *LORA, MODULES, f"model.train.dora={dora}")
        with torch.no_grad():
            expected = export.network(z, t, **cond)
        export.write_single_file(tmp_path / f"{dora}.safetensors")
        with torch.no_grad():
            output = make(pretrained=tmp_path / f"{dora}.safetensors").eval()(z, t, **cond)
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_folded_vae_decodes_latents_normalised_by_channel(tmp_path):
    mean, std = [4.8, 0.2, 1.4, -1.8], [9.9, 6.3, 7.6, 6.0]
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    stock_vae, folded_vae = load_vae(tiny_sdxl()), load_vae(tiny_sdxl())
    fold_latents(folded_vae, mean, std)
    per_channel = [torch.tensor(values)[:, None, None] for values in (mean, std)]
    posterior, folded_posterior = stock_vae.encode(images).latent_dist, folded_vae.encode(images).latent_dist
    x0 = (posterior.mean - per_channel[0]) / per_channel[1]
    torch.testing.assert_close(folded_posterior.mean * 0.13025, x0, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(folded_posterior.std * 0.13025, posterior.std / per_channel[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        folded_vae.decode(x0 / 0.13025).sample, stock_vae.decode(posterior.mean).sample, rtol=1e-3, atol=1e-4
    )
    export = copy(exported(*V))
    export.latents = {"mean": mean, "std": std}
    export.write_single_file(tmp_path / "model.safetensors")
    vae_state = plain_state(load_vae(str(tmp_path / "model.safetensors")))
    assert all(torch.equal(vae_state[key], value) for key, value in plain_state(folded_vae).items())
    export.write_unet(tmp_path / "unet.safetensors")
    content = (tmp_path / "unet.safetensors").read_bytes()
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    assert json.loads(metadata["ztsnr.latents"]) == {"mean": mean, "std": std}


def test_export_to_a_format_that_cannot_represent_the_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="need a LoRA, and this checkpoint is not one"):
        exported(*V).write_lora_kohya(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="DoRA cannot be written as format=lora_kohya"):
        exported(*V, *LORA, "model.train.dora=true").write_lora_kohya(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="no scheduler for target=flow"):
        exported("schedule=flow_uniform", "loss=flow").write_diffusers(tmp_path / "x")
    export = exported(*V, dtype="fp16")
    next(export.network.parameters()).data.fill_(1e5)
    with pytest.raises(CheckpointError, match=r"1 tensors are not finite as torch\.float16"):
        export.write_unet(tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_custom_table_is_exported_to_diffusers_as_betas(tmp_path):
    export = exported("schedule=sdxl_ztsnr", "loss=vpred", "schedule.table.terminal=20000")
    expected = sample_latents(export, "x", 64, 1.0)
    export.write_diffusers(tmp_path / "model")
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "model")
    assert len(pipeline.scheduler.config.trained_betas) == 1000
    torch.testing.assert_close(latents_of_pipeline(pipeline, "x", 64, 1.0), expected, rtol=1e-3, atol=2e-4)
    diagnosis = diagnose_folder(tmp_path / "model")
    assert diagnosis.properties["diffusers"] == "v, sigma_max 20000, trailing timesteps"


@pytest.mark.slow
def test_sd15_is_exported_in_every_format(tmp_path):
    export, path = exported(*V, model="sd15"), tmp_path / "model.safetensors"
    export.write_single_file(path)
    weights = export.network.unet.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in load_unet(str(path)).state_dict().items())
    diagnosis = diagnose_file(path)
    assert diagnosis.properties["ComfyUI"] == "eps, sigma_max 14.6146"
    assert diagnosis.notes[0] == "ComfyUI uses it as eps, but it was trained on v: use our nodes."
    export.write_diffusers(tmp_path / "model")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    assert pipeline.scheduler.config.rescale_betas_zero_snr
    lora_export = exported(*V, "model/train=lora", model="sd15")
    lora_export.write_lora_kohya(tmp_path / "lora.safetensors")
    pipeline.load_lora_weights(str(tmp_path / "lora.safetensors"))
    names = [name for name, _ in pipeline.unet.named_parameters() if "lora_A" in name]
    assert len(names) == len(lora_export.network.state_dict()) // 2


def foreign(lora_state, trainer):
    """The same LoRA as another trainer names it."""
    names = {"down": "lora_down.weight", "up": "lora_up.weight"}
    if trainer == "OneTrainer":
        return {
            f"lora_unet_{m.replace('.', '_')}.{names[f]}": getattr(u, f) for m, u in lora_state.items() for f in names
        }
    names = {"down": "lora_A.weight", "up": "lora_B.weight"}
    return {f"unet.{m}.{names[f]}": getattr(u, f) for m, u in lora_state.items() for f in names}


@pytest.mark.parametrize("trainer", ["OneTrainer", "SimpleTuner"])
def test_lora_of_each_trainer_reads_as_the_same_updates(trainer):
    export = exported(*V, *LORA, MODULES)
    expected = export.lora_updates()["unet"]
    updates = lora.read(foreign(expected, trainer), export.network.layers, trainer)["unet"]
    assert updates.keys() == expected.keys()
    assert all(torch.equal(updates[m].up, expected[m].up) and updates[m].alpha == 3 for m in expected)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["lora_kohya", "lora_peft"])
def test_training_continues_from_an_exported_lora(tmp_path, format):
    export, path = exported(*V, *LORA, MODULES), tmp_path / "lora.safetensors"
    export.write(format, path)
    z, t, cond = inputs()
    settings = ["model/train=lora", "model.train.rank=3", MODULES, f"model.train.start={path}"]
    with torch.no_grad():
        output = make(*settings, "model.train.alpha=6").eval()(z, t, **cond)
        torch.testing.assert_close(output, export.network(z, t, **cond), rtol=1e-4, atol=1e-5)
    for other_settings in (settings[:2] + settings[3:], ["model.train.rank=4", *settings[:1], *settings[2:]]):
        with pytest.raises(CheckpointError, match=r"does not fit model\.train: set its rank, dora and modules"):
            make(*other_settings)


def test_lora_of_a_different_network_is_refused_by_name():
    export = exported(*V, *LORA)
    state = lora.to_kohya(export.lora_updates(), "sdxl", export.network.layers)
    for key, message in (
        ("lora_unet_foo", "does not fit this U-Net"),
        ("lora_te1_text_model_x", "updates a text encoder too, so use model/train_text=lora .*"),
    ):
        with pytest.raises(CheckpointError, match=f"it {message}: {key}"):
            lora.read(state | {f"{key}.lora_up.weight": torch.zeros(1)}, export.network.layers, "it")
    with pytest.raises(CheckpointError, match="it lacks half of the update of"):
        lora.read(dict(list(state.items())[1:]), export.network.layers, "it")


def test_files_of_other_programs_are_diagnosed(tmp_path):
    path = tmp_path / "x.safetensors"
    UNet2DConditionModel.from_pretrained(tiny_sdxl(), subfolder="unet").save_pretrained(tmp_path)
    assert (
        diagnose_file(tmp_path / "diffusion_pytorch_model.safetensors")
        .properties["file"]
        .startswith("a U-Net under diff")
    )
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"is not a Stable Diffusion model: it has 1 tensors, first a"):
        diagnose_file(path)
    diagnosis = diagnose_folder(Path(tiny_sdxl()))
    assert diagnosis.properties["diffusers"] == "eps, sigma_max 14.6146, leading timesteps"
