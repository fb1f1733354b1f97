"""The tiny SDXL of scripts/make_tiny_sdxl.py, made once for all tests of a process."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from tests.test_readme import load_script


@cache
def tiny_sdxl() -> str:
    """Its folder."""
    folder = _folder()
    load_script("make_tiny_sdxl").make_pipeline().save_pretrained(folder)
    return str(folder)


@cache
def tiny_sdxl_file() -> str:
    """The same weights as a single file."""
    script, file = load_script("make_tiny_sdxl"), _folder() / "tiny.safetensors"
    script.save_single_file(script.make_pipeline(), file)
    return str(file)


@cache
def tiny_sd15() -> str:
    """A folder with the parts of Stable Diffusion 1.5, as small; of the tiny SDXL's VAE and first text encoder."""
    script, folder = load_script("make_tiny_sdxl"), _folder()
    torch.manual_seed(0)
    vocab = script.vocabulary()
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=script.TEXT,
    )
    unet.save_pretrained(folder / "unet")
    script.make_vae().save_pretrained(folder / "vae")
    script.make_encoder(CLIPTextModel, vocab, script.TEXT, "quick_gelu").save_pretrained(folder / "text_encoder")
    CLIPTokenizer(vocab, model_max_length=77).save_pretrained(folder / "tokenizer")
    (folder / "model_index.json").write_text("{}")
    return str(folder)


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tiny_sdxl_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
