"""The tiny SDXL of scripts/make_tiny_sdxl.py, made once for all tests of a process, with its latents and exports."""

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from tests.helpers import load_script
from ztsnr.config.identity import result_config
from ztsnr.config.registry import build, compose
from ztsnr.core.randomness import normal, order
from ztsnr.models.exporter import Exporter
from ztsnr.models.text import load_text_encoders

V = ("schedule=sdxl_ztsnr", "loss=vpred")
WORDS = ["a red house", "", "a blue ship at sea"]


@cache
def tiny_sdxl() -> str:
    """The folder of the tiny SDXL in the format of diffusers."""
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
    """A Stable Diffusion 1.5 of the same size, in a folder: its VAE and text encoder are like the tiny SDXL's."""
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


def make(*overrides, model="sdxl", pretrained=None):
    torch.manual_seed(0)
    return build(compose(f"model={model}", f"model.pretrained={pretrained or tiny_sdxl()}", *overrides), "model")


def inputs(rows=2):
    g = torch.Generator().manual_seed(0)
    cond = {"text": torch.randn(rows, 77, 96, generator=g), "pooled": torch.randn(rows, 64, generator=g)}
    cond["time_ids"] = torch.tensor([[128.0, 128, 0, 0, 128, 128]]).repeat(rows, 1)
    return torch.randn(rows, 4, 16, 24, generator=g), torch.linspace(0, 998.5, rows), cond


def trained_names(net):
    return {name for name, p in net.named_parameters() if p.requires_grad}


@dataclass
class Latents:
    """Random latents with prompts, in the form of a data set of latents."""

    count: int = 8

    def __post_init__(self):
        self.x0 = normal(0, "latents", 0, range(self.count), (4, 8, 8))
        embeddings = load_text_encoders(tiny_sdxl()).encode([WORDS[i % len(WORDS)] for i in range(self.count)])
        self.cond = embeddings | {"time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]]).repeat(self.count, 1)}

    def batch_sizes(self, batch_size):
        return {batch_size}

    def size(self, step, batch_size):
        return batch_size

    def held_out_batches(self, samples, batch_size):
        yield range(self.count), self.x0, self.cond

    def batch(self, step, rows, batch_size):
        index = order(0, range(step * batch_size + rows.start, step * batch_size + rows.stop), self.count)
        return self.x0[index], {name: value[index] for name, value in self.cond.items()}

    @property
    def facts(self):
        return {"latents": {"mean": [0.0] * 4, "std": [1 / 0.13025] * 4}}


def composed_for(file, *overrides):
    settings = ["samples.steps=2", "samples.columns=2", "samples.size=[64,64]", "trainer=smoke", "optimizer.lr=1e-3"]
    settings += ["trainer.batch_size=4", "trainer.steps=3", "tracking=none"]
    paths = [f"model.pretrained={tiny_sdxl()}", "samples=prompts", f"samples.file={file}"]
    return compose("model=sdxl", *paths, *settings, *overrides)


@cache
def exported(*overrides, dtype="fp32", model="sdxl"):
    """A network whose trained weights are random, ready to be written."""
    pretrained = tiny_sdxl() if model == "sdxl" else tiny_sd15()
    composed = compose(f"model={model}", f"model.pretrained={pretrained}", "samples.steps=4", *overrides)
    torch.manual_seed(0)
    network = build(composed.model)
    for name, p in network.state_dict().items():
        p += 0.02 * torch.randn(p.shape) * (5 if "lora" in name else 1)
    return Exporter(network.eval(), build(composed.objective), result_config(composed), None, dtype)


def latents_of_pipeline(pipeline, prompt, size, guidance, rescale=0.0):
    z = torch.randn(1, 4, size // 8, size // 8, generator=torch.Generator().manual_seed(0))
    pipeline.set_progress_bar_config(disable=True)
    settings = {
        "height": size,
        "width": size,
        "guidance_scale": guidance,
        "guidance_rescale": rescale,
        "negative_prompt": "",
    }
    return pipeline(prompt, num_inference_steps=4, latents=z, output_type="latent", **settings).images
