from functools import cache

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig

from tests.tiny import tiny_sdxl, tiny_sdxl_file
from ztsnr.core.errors import CheckpointError
from ztsnr.formats.ldm import from_ldm, ldm_names, to_ldm
from ztsnr.formats.single_file import SingleFile, join
from ztsnr.models.architectures import ARCHITECTURES
from ztsnr.models.parts import plain_state
from ztsnr.models.pretrained import find_source, load_part
from ztsnr.models.source import part_class
from ztsnr.models.text import load_text_encoders

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


@cache
def released(family):
    """Part -> tensors of the released model, on the meta device."""
    with init_empty_weights():
        networks = {
            part: part_class(part)(CLIPTextConfig(**config)) if "text" in part else part_class(part).from_config(config)
            for part, config in ARCHITECTURES[family].items()
        }
    return {part: plain_state(network) for part, network in networks.items()}


@pytest.mark.slow
def test_single_file_loads_in_diffusers_bit_for_bit():
    pipeline = StableDiffusionXLPipeline.from_single_file(tiny_sdxl_file(), config=tiny_sdxl(), local_files_only=True)
    for part in PARTS:
        state, expected = plain_state(getattr(pipeline, part)), plain_state(load_part(tiny_sdxl(), part))
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in expected), part


@pytest.mark.parametrize("part", PARTS)
def test_single_file_and_folder_are_the_same_model(part):
    of_file, of_folder = (load_part(path, part).state_dict() for path in (tiny_sdxl_file(), tiny_sdxl()))
    assert of_file.keys() == of_folder.keys()
    assert all(torch.equal(of_file[name], of_folder[name]) for name in of_folder)
    assert find_source(tiny_sdxl_file()).fingerprint(part) == find_source(tiny_sdxl()).fingerprint(part)


def test_single_file_and_folder_encode_prompts_alike():
    embeddings = [load_text_encoders(path).encode(["a cat", ""]) for path in (tiny_sdxl_file(), tiny_sdxl())]
    for name in ("text", "pooled"):
        assert torch.equal(embeddings[0][name], embeddings[1][name])


@pytest.mark.parametrize(("family", "counts"), [("sdxl", [1680, 248, 196, 389]), ("sd15", [686, 248, 196])])
def test_converted_model_has_as_many_tensors_as_the_released_file(family, counts):
    parts = released(family)
    assert [len(to_ldm(part, state)) for part, state in parts.items()] == counts
    assert len(join(family, parts)) == sum(counts)  # no two of the same name


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("model.diffusion_model.input_blocks.3.0.op.weight", (320, 320, 3, 3)),
        ("model.diffusion_model.input_blocks.4.0.skip_connection.weight", (640, 320, 1, 1)),
        ("model.diffusion_model.input_blocks.7.1.transformer_blocks.9.attn2.to_k.weight", (1280, 2048)),
        ("model.diffusion_model.middle_block.1.proj_in.weight", (1280, 1280)),
        ("model.diffusion_model.output_blocks.2.2.conv.weight", (1280, 1280, 3, 3)),
        ("model.diffusion_model.output_blocks.8.0.in_layers.2.weight", (320, 640, 3, 3)),
        ("model.diffusion_model.label_emb.0.0.weight", (1280, 2816)),
        ("model.diffusion_model.out.2.weight", (4, 320, 3, 3)),
        ("first_stage_model.encoder.mid.attn_1.q.weight", (512, 512, 1, 1)),
        ("first_stage_model.decoder.up.0.block.0.nin_shortcut.weight", (128, 256, 1, 1)),
        ("first_stage_model.decoder.up.3.upsample.conv.weight", (512, 512, 3, 3)),
        ("first_stage_model.quant_conv.weight", (8, 8, 1, 1)),
        ("conditioner.embedders.0.transformer.text_model.encoder.layers.11.mlp.fc1.weight", (3072, 768)),
        ("conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight", (3840, 1280)),
        ("conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_fc.bias", (5120,)),
        ("conditioner.embedders.1.model.positional_embedding", (77, 1280)),
        ("conditioner.embedders.1.model.text_projection", (1280, 1280)),
    ],
)
def test_sdxl_tensors_have_the_names_of_its_file(key, shape):
    assert join("sdxl", released("sdxl"))[key].shape == shape


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),  # no attention in that block
        ("up_blocks.1.upsamplers.0.conv.weight", "output_blocks.5.2.conv.weight"),
        ("down_blocks.3.resnets.1.conv1.weight", "input_blocks.11.0.in_layers.2.weight"),
    ],
)
def test_sd15_tensors_have_the_names_of_its_file(name, other):
    assert ldm_names("unet", released("sd15")["unet"])[name] == other


def test_single_file_of_an_unknown_family_or_architecture_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="is not a single-file checkpoint of Stable Diffusion"):
        load_part(str(path), "unet")
    weights = load_file(tiny_sdxl_file())
    others = {key: value for key, value in weights.items() if not key.startswith("conditioner")}
    save_file(others, path)
    with pytest.raises(CheckpointError, match=r"neither Stable Diffusion XL nor 1\.5"):
        assert SingleFile(path).family
    save_file(weights, path)  # without its architecture it is taken for the released model
    with pytest.raises(CheckpointError, match=r"its vae lacks .* tensors, first"):
        load_part(str(path), "vae")


@pytest.mark.parametrize("part", ["vae", "text_encoder_2"])
def test_part_with_missing_extra_or_misshapen_tensors_is_refused(part):
    reference = plain_state(load_part(tiny_sdxl(), part))
    weights = to_ldm(part, reference)
    name = sorted(weights)[3]
    for change, message in (
        ({name: None}, "lacks 1 tensors"),
        ({"extra": torch.zeros(1)}, "has 1 unexpected tensors, first extra"),
        ({name: torch.zeros(7)}, r"of shape \(7,\)"),
    ):
        changed_weights = {key: value for key, value in (weights | change).items() if value is not None}
        with pytest.raises(CheckpointError, match=message):
            from_ldm(part, changed_weights, reference, "it")
    assert from_ldm(part, weights | {"logit_scale": torch.zeros(())}, reference, "it").keys() == reference.keys()
