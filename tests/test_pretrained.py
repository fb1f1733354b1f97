import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from tests.tiny import tiny_sdxl
from ztsnr.core.errors import CheckpointError, ConfigError
from ztsnr.models.pretrained import find_source, load_unet, load_vae
from ztsnr.models.text import load_text_encoders

LONG = "a long prompt of many letters, each of which is a token of its own here, so that it takes two windows"


@pytest.fixture(scope="module")
def encoders():
    return load_text_encoders(tiny_sdxl())


@pytest.fixture(scope="module")
def pipeline():
    return StableDiffusionXLPipeline.from_pretrained(tiny_sdxl())


@pytest.fixture
def model_folder(tmp_path):
    return Path(shutil.copytree(tiny_sdxl(), tmp_path / "copy"))


def test_embeddings_equal_those_of_diffusers_pipeline(encoders, pipeline):
    prompts = ["a red house", "", "the Sea, 3 ships!"]
    embeddings = encoders.encode(prompts)
    text, _, pooled, _ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False)
    torch.testing.assert_close(embeddings["text"], text)
    torch.testing.assert_close(embeddings["pooled"], pooled)


def test_long_prompt_is_encoded_window_by_window(encoders, pipeline):
    assert encoders.tokenizers.windows([LONG]) == 2
    embeddings = encoders.encode([LONG, "short"])
    for i, encoder in enumerate((pipeline.text_encoder, pipeline.text_encoder_2)):
        tokenizer = (pipeline.tokenizer, pipeline.tokenizer_2)[i]
        ids = tokenizer(LONG, add_special_tokens=False).input_ids
        last = [*ids[75:], tokenizer.eos_token_id]
        last += [tokenizer.pad_token_id] * (76 - len(last))
        for window, ids_of_window in enumerate(([*ids[:75], tokenizer.eos_token_id], last)):
            output = encoder(torch.tensor([[tokenizer.bos_token_id, *ids_of_window]]), output_hidden_states=True)
            part = embeddings["text"][0, 77 * window : 77 * (window + 1)].split([32, 64], -1)[i]
            torch.testing.assert_close(part, output.hidden_states[-2][0])
    torch.testing.assert_close(embeddings["pooled"][1], encoders.encode(["short"])["pooled"][0])
    with pytest.raises(ConfigError, match="is longer than 1 windows of 75"):
        encoders.encode([LONG], windows=1)


def test_long_captions_are_cut_at_a_word(encoders):
    assert encoders.tokenizers.cut("word " * 50, 1) == " ".join(["word"] * 18)  # of four tokens each
    assert encoders.tokenizers.cut("short", 1) == "short"


def test_batched_prompts_are_encoded_as_single_ones(encoders):
    prompts = [f"image {number}" for number in range(20)]
    batch = encoders.encode(prompts)
    single_texts = torch.cat([encoders.encode([prompt])["text"] for prompt in prompts])
    torch.testing.assert_close(batch["text"], single_texts)


def test_parts_are_loaded_frozen_in_float32(encoders):
    vae = load_vae(tiny_sdxl())
    for network in (vae, encoders):
        assert not network.training
        assert {(p.dtype, p.requires_grad) for p in network.parameters()} == {(torch.float32, False)}
    assert load_unet(tiny_sdxl()).config.addition_embed_type == "text_time"


def test_fingerprint_depends_only_on_the_weights(model_folder):
    parts = ("vae", "text_encoder", "text_encoder_2")
    fingerprints = {part: find_source(tiny_sdxl()).fingerprint(part) for part in parts}
    assert len(set(fingerprints.values())) == 3
    assert {part: find_source(str(model_folder)).fingerprint(part) for part in fingerprints} == fingerprints
    file = model_folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["decoder.conv_in.bias"][0] += 1e-3
    save_file(weights, file)
    assert find_source(str(model_folder)).fingerprint("vae") != fingerprints["vae"]
    assert find_source(str(model_folder)).fingerprint("text_encoder") == fingerprints["text_encoder"]


def test_missing_or_unsupported_model_is_refused_by_name(model_folder, tmp_path):
    for name in ("model.ckpt", "model.bin"):
        with pytest.raises(CheckpointError, match="is a pickle, which can run any code"):
            load_vae(str(tmp_path / name))
    with pytest.raises(CheckpointError, match="does not exist"):
        load_vae(str(tmp_path / "absent"))
    shutil.rmtree(model_folder / "vae")
    with pytest.raises(CheckpointError, match="is incomplete: it has no vae folder"):
        load_vae(str(model_folder))
    file = model_folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be loaded as UNet2DConditionModel"):
        load_unet(str(model_folder))


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_folder_with_missing_extra_or_misshapen_tensors_is_refused_by_name(model_folder, part):
    (file,) = (model_folder / part).glob("*.safetensors")
    weights = load_file(file)
    name = sorted(weights)[0]
    for change in ({name: None}, {"extra": torch.zeros(1)}, {name: torch.zeros(3)}):
        save_file({key: value for key, value in (weights | change).items() if value is not None}, file)
        with pytest.raises(CheckpointError, match=f"{name}|extra"):
            load_unet(str(model_folder)) if part == "unet" else load_text_encoders(str(model_folder))


def test_absent_single_file_is_refused_with_the_key(tmp_path):
    with pytest.raises(CheckpointError, match=r"model\.pretrained=.*absent\.safetensors is not a file"):
        find_source(str(tmp_path / "absent.safetensors"))
