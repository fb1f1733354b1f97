"""Writes a tiny SDXL with random weights as a diffusers folder or single file, offline, in seconds.

    .venv/bin/python scripts/make_tiny_sdxl.py FOLDER [--seed 0]
    .venv/bin/python scripts/make_tiny_sdxl.py FILE.safetensors --single-file   # tokenizers go beside it

Tests, docs and CI use it in place of the real model, with the same code. The U-Net has 3.1 M parameters, the VAE 1.0 M,
the two text encoders 3 layers each; the tokenizers have single bytes. Sides of images are multiples of 16 pixels.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ztsnr.formats.single_file import join
from ztsnr.io.tensors import write_tensors
from ztsnr.models.architectures import serialisable_config
from ztsnr.models.parts import plain_state

TEXT, TEXT_2, TIME = 32, 64, 8
"""Widths of the encoders' states and of a time id. Readers of single files distinguish the encoders by their width."""
START, END = "<|startoftext|>", "<|endoftext|>"


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(2, 4, 4),
        cross_attention_dim=TEXT + TEXT_2,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME,
        projection_class_embeddings_input_dim=TEXT_2 + 6 * TIME,
    )


def make_vae() -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=128,
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        scaling_factor=0.13025,
        force_upcast=True,
    )


def vocabulary() -> dict[str, int]:
    """All bytes in CLIP's notation, inside a word and at its end, then the two markers, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    words = [*characters, *(character + "</w>" for character in characters), START, END]
    return {word: number for number, word in enumerate(words)}


def make_encoder(cls: type, vocab: dict[str, int], width: int, act: str):
    return cls(
        CLIPTextConfig(
            vocab_size=len(vocab),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=3,
            num_attention_heads=2,
            projection_dim=width,
            hidden_act=act,
            bos_token_id=vocab[START],
            eos_token_id=vocab[END],
            pad_token_id=vocab[END],
        )
    )


def make_pipeline(seed: int = 0) -> StableDiffusionXLPipeline:
    torch.manual_seed(seed)
    vocab = vocabulary()
    return StableDiffusionXLPipeline(
        unet=make_unet(),
        vae=make_vae(),
        text_encoder=make_encoder(CLIPTextModel, vocab, TEXT, "quick_gelu"),
        text_encoder_2=make_encoder(CLIPTextModelWithProjection, vocab, TEXT_2, "gelu"),
        tokenizer=CLIPTokenizer(vocab, model_max_length=77),
        tokenizer_2=CLIPTokenizer(vocab, model_max_length=77, pad_token="!"),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        force_zeros_for_empty_prompt=True,
    )


def save_single_file(pipeline: StableDiffusionXLPipeline, path: Path) -> None:
    networks = {part: getattr(pipeline, part) for part in ("unet", "vae", "text_encoder", "text_encoder_2")}
    architecture = {part: serialisable_config(network) for part, network in networks.items()}
    tensors = join("sdxl", {part: plain_state(network) for part, network in networks.items()})
    write_tensors(path, tensors, {"ztsnr.architecture": json.dumps(architecture)})
    for name in ("tokenizer", "tokenizer_2"):
        getattr(pipeline, name).save_pretrained(path.parent / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--single-file", action="store_true")
    arguments = parser.parse_args()
    pipeline = make_pipeline(arguments.seed)
    if arguments.single_file:
        save_single_file(pipeline, arguments.path)
    else:
        pipeline.save_pretrained(arguments.path)
    print(arguments.path)


if __name__ == "__main__":
    main()
