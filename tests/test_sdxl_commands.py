"""The tiny SDXL through the commands, as a user gives them: cache, LoRA training with previews, export, doctor."""

import json

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from safetensors import safe_open

from tests.processes import run
from tests.tiny import tiny_sdxl, tiny_sdxl_file

SMALL = ["trainer=smoke", "trainer.steps=2", "trainer.batch_size=2", "data.sizes.resolution=128", "data.held_out=0.3"]
PREVIEWS = ["samples=prompts", "samples.file=prompts.txt", "samples.size=[128,128]", "samples.steps=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures, prompts, and the run of a LoRA on them."""
    folder = tmp_path_factory.mktemp("sdxl")
    (folder / "images").mkdir()
    for number in range(8):
        Image.new("RGB", (128, 128), (30 * number, 90, 200 - 20 * number)).save(folder / "images" / f"{number}.png")
        (folder / "images" / f"{number}.txt").write_text(f"a plain image, number {number}")
    (folder / "prompts.txt").write_text("a plain image\n")
    model = ["model=sdxl", f"model.pretrained={tiny_sdxl()}", "model/train=lora", "data=folder", "data.root=images"]
    words = [
        *model,
        *SMALL,
        *PREVIEWS,
        "schedule=ztsnr",
        "loss=vpred",
        "data.latent_normalisation=channel",
        "hydra.run.dir=run",
    ]
    done = run(folder, "train", *words)
    assert done.stdout.startswith("score ")
    return folder


@pytest.mark.slow
def test_training_run_writes_only_the_lora_and_previews(folder):
    assert {"final.safetensors", "samples_guidance_5.png"} <= {entry.name for entry in (folder / "run").iterdir()}
    with safe_open(folder / "run" / "final.safetensors", "pt") as file:
        assert all("lora_" in key for key in file.keys())  # noqa: SIM118 (it is not iterable)
        assert len(json.loads(file.metadata()["ztsnr.facts"])["latents"]["std"]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("train", ["lora", "full"])
def test_sample_command_reproduces_the_previews_of_training(folder, train):
    if train == "full":
        words = ["model=sdxl", f"model.pretrained={tiny_sdxl()}", "data=folder", "data.root=images", *SMALL]
        done = run(folder, "train", *words, *PREVIEWS, "schedule=ztsnr", "loss=vpred", "hydra.run.dir=full")
        assert "ztsnr.sample checkpoint=full/final.safetensors file=prompts.txt" in done.stderr
    run_folder = "run" if train == "lora" else "full"
    arguments = [f"checkpoint={run_folder}/final.safetensors", "steps=2", f"output={train}.png"]
    assert run(folder, "sample", *arguments, "file=prompts.txt").stdout == f"{train}.png\n"
    preview = pil_to_tensor(folder / run_folder / "samples_guidance_5.png")
    assert (pil_to_tensor(folder / f"{train}.png") - preview).abs().max() <= 1
    other = ["prompts=[a blue ship,a plain image]", "negative=a house", "size=[64,128]", "columns=3", "seed=5"]
    run(folder, "sample", *arguments, *other, f"pretrained={tiny_sdxl_file()}")
    assert Image.open(folder / f"{train}.png").size == (3 * 132 + 4, 2 * 68 + 4)


def pil_to_tensor(file):
    return torch.tensor(list(Image.open(file).getdata())).int()


@pytest.mark.slow
def test_exports_load_in_diffusers_and_are_diagnosed(folder):
    checkpoint = "checkpoint=run/final.safetensors"
    run(folder, "export", checkpoint, "output=model", "format=diffusers", "dtype=fp32")
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder / "model")
    images = pipeline("a plain image", num_inference_steps=2, height=128, width=128, output_type="pt").images
    assert images.shape == (1, 3, 128, 128)
    assert torch.isfinite(images).all()
    run(folder, "export", checkpoint, "output=model.safetensors")
    report = run(folder, "doctor", "model.safetensors").stdout
    assert "Stable Diffusion XL, a single file of float16" in report
    assert "v, sigma_max 4518.76" in report
    run(folder, "export", checkpoint, "output=lora.safetensors", "format=lora_kohya")
    pipeline.load_lora_weights(str(folder / "lora.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "words", "message"),
    [
        ("export", ["checkpoint=run/final.safetensors", "output=x.bin"], "output must be a .safetensors file"),
        (
            "export",
            ["checkpoint=run/final.safetensors", "output=model", "format=x"],
            "format must be one of single_file",
        ),
        ("export", ["checkpoint=absent", "output=x.safetensors"], "absent is not a file"),
        ("doctor", ["prompts.txt"], "prompts.txt is truncated or not a safetensors file"),
        ("train", ["model=sdxl", "model.pretrained=x.ckpt", "data=folder", "data.root=images"], "is a pickle"),
        (
            "sample",
            ["checkpoint=run/final.safetensors"],
            "set either prompts=[...] or file=FILE",
        ),
        ("sample", ["checkpoint=run/final.safetensors", "classes=[1]"], "classes is not for run/final.safetensors"),
        ("sample", ["checkpoint=run/final.safetensors", "prompts=[x]", "size=[60,64]"], "size must be a height and"),
        ("train", ["model=sdxl"], "model.pretrained must be given"),
    ],
)
def test_user_error_prints_a_message_without_a_traceback(folder, module, words, message):
    done = run(folder, module, *words, code=2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
