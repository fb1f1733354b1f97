"""Proof of nodes/ through a real ComfyUI's HTTP API, on a full-size SDXL that ztsnr trained and exported.

    .venv/bin/python scripts/comfyui_http.py /path/to/ComfyUI FOLDER /path/to/ComfyUI's/python

What is not in the folder yet is made: an SDXL of random weights (diffusers/, 7 GB), a LoRA of it after one step (run/),
and its export to models/checkpoints (7 GB). Each example workflow runs in 4 steps at an eighth of its size; its latents
are compared with those of ztsnr's own text encoders, network and sampler. 16 GB of memory, and half an hour on two
cores.
"""

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = ROOT / "nodes" / "example_workflows" / "api"
PORT, STEPS, SMALLER, NAME, TOLERANCE = 8399, 4, 8, "ztsnr.safetensors", 5e-4
TRAIN = (
    "model=sdxl", "model/train=lora", "model.train.rank=4", "data=folder", "data.root=images", "data.held_out=0.5",
    "data.sizes.resolution=128", "data.latent_normalisation=channel", "schedule=ztsnr", "loss=vpred",
    "optimizer.lr=1e-2",
    "trainer=smoke", "trainer.steps=1", "trainer.batch_size=1", "trainer.ema=null", f"samples.steps={STEPS}",
    "validation.sigmas=[1.0]", "validation.samples=1",
)  # fmt: skip


def write_random_sdxl(folder: Path, tokenizer: Path) -> None:
    """A diffusers folder of SDXL's size in fp16, with CLIP's vocabulary."""
    from transformers import CLIPTextConfig

    from ztsnr.models.architectures import ARCHITECTURES
    from ztsnr.models.source import part_class

    torch.manual_seed(0)
    for part, config in ARCHITECTURES["sdxl"].items():
        kind = part_class(part)
        network = kind(CLIPTextConfig(**config)) if part.startswith("text") else kind.from_config(config)
        network.half().save_pretrained(folder / part)
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(tokenizer, folder / name)


def write_images(folder: Path) -> None:
    from PIL import Image

    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (128, 128), (60 * number, 90, 200 - 60 * number)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a plain image, number {number}")


def make_checkpoint(folder: Path, tokenizer: Path) -> Path:
    """By ztsnr.train and ztsnr.export."""
    path = folder / "models" / "checkpoints" / NAME
    if not (folder / "diffusers").exists():
        write_random_sdxl(folder / "diffusers", tokenizer)
        write_images(folder / "images")
    if not (folder / "run" / "final.safetensors").exists():
        command("ztsnr.train", folder, *TRAIN, "model.pretrained=diffusers", "hydra.run.dir=run")
    if not path.exists():
        command("ztsnr.export", folder, "checkpoint=run/final.safetensors", f"output={path}")
        for name in ("tokenizer", "tokenizer_2"):
            (path.parent / name).symlink_to(tokenizer)
    return path


def command(module: str, folder: Path, *words: str) -> None:
    subprocess.run([sys.executable, "-m", module, *words], cwd=folder, check=True)


def ask(path: str, body=None):
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", body and json.dumps(body).encode())
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        return json.load(answer)


def serve(comfyui: str, folder: Path, python: str) -> subprocess.Popen:
    command = [python, "main.py", "--cpu", "--fp32-text-enc", "--listen", "127.0.0.1", "--port", str(PORT)]
    command += ["--base-directory", str(folder), "--database-url", f"sqlite:///{folder / 'comfyui.db'}"]
    with (folder / "comfyui.log").open("w") as log:
        server = subprocess.Popen(command, cwd=comfyui, stdout=log, stderr=log)
    for _ in range(120):
        time.sleep(1)
        try:
            print("serves ComfyUI", ask("/system_stats")["system"]["comfyui_version"], flush=True)
            return server
        except OSError:
            continue
    server.terminate()
    raise SystemExit(f"ComfyUI did not answer within 2 minutes: {folder / 'comfyui.log'}")


def read_workflow(name: str) -> dict:
    """The example in few steps at a smaller size, its latents saved beside the image."""
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    for node in workflow.values():
        inputs = node["inputs"]
        for key in {"width", "height", "native_resolution"} & inputs.keys():
            inputs[key] //= SMALLER
        inputs |= {"steps": STEPS} if "steps" in inputs else {}
    workflow["100"] = {"class_type": "SaveLatent", "inputs": {"samples": ["10", 0], "filename_prefix": "latent"}}
    return workflow


def drawn_by_comfyui(folder: Path, name: str):
    """The latents of an example, in the VAE's space (1, 4, h, w)."""
    from safetensors.torch import load_file

    began, identifier = time.perf_counter(), ask("/prompt", {"prompt": read_workflow(name)})["prompt_id"]
    while not (history := ask(f"/history/{identifier}")):
        time.sleep(2)
    status = history[identifier]["status"]
    assert status["status_str"] == "success", status
    outputs = history[identifier]["outputs"]
    file = outputs["100"]["latents"][0]
    seconds, image = time.perf_counter() - began, outputs["12"]["images"][0]["filename"]
    print(f"{name}: {seconds:.0f} s, image {image}", flush=True)
    return load_file(folder / "output" / file["subfolder"] / file["filename"])["latent_tensor"]


def settings(name: str):
    """Sampler, levels (STEPS + 1,) and guide(positive, negative, z, sigma) of an example, by ztsnr."""
    from ztsnr.config.registry import build, compose
    from ztsnr.core.sampling import DPMpp2M, Euler, Guidance, rescale_v
    from ztsnr.core.schedule.density import Karras

    schedule, rescaled = build(compose("schedule=ztsnr").schedule), Guidance(scale=5.0, rescale=0.7).combine
    if name == "zero_terminal":  # down to the table's lowest level, 0.02917, which the checkpoint's own grid rounds
        inner_grid = replace(schedule.grid.grid, sigma_min=schedule.table.sigmas[0].item())
        return Euler(), replace(schedule.grid, grid=inner_grid).sigmas(STEPS), rescaled
    if name == "wide":
        levels = schedule.grid.sigmas(STEPS)
        levels[1:] *= (1536 * 1024) ** 0.5 / 1024
        return Euler(), levels, rescaled
    levels = build(compose("schedule=ztsnr", "schedule/grid=laplace_terminal").schedule).grid.sigmas(STEPS)
    share = Karras(sigma_min=levels[-2].item(), sigma_max=20000.0, rho=7.0)

    def guide(positive, negative, z, sigma):
        guided = Guidance(scale=5.0, rescale=0.0).combine(positive, negative, z, sigma)
        weighted = positive + (1 / (5.0 * sigma.square())).clamp(max=1).float() * (guided - positive)
        return rescale_v(weighted, positive, z, sigma, 0.7 * share.cdf(sigma).float())

    return DPMpp2M(), levels, guide


def conditions(path: Path, name: str) -> list[dict]:
    """Of the example's two texts, by ztsnr's text encoders."""
    from ztsnr.models.text import load_text_encoders

    workflow, encoders = read_workflow(name), load_text_encoders(str(path))
    height, width = (float(workflow["6"]["inputs"][side]) for side in ("height", "width"))
    ids = {"time_ids": torch.tensor([[height, width, 0, 0, height, width]])}
    return [encoders.encode([workflow[node]["inputs"]["text"]]) | ids for node in ("4", "5")]


def drawn_by_ztsnr(objective, network, name: str, conds: list[dict]):
    """The same latents from the same noise, in SDXL's space."""
    sampler, levels, guide = settings(name)
    workflow = read_workflow(name)
    height, width = (workflow["6"]["inputs"][side] // 8 for side in ("height", "width"))
    generator = torch.Generator().manual_seed(workflow["10"]["inputs"]["noise_seed"])
    noise = torch.randn(1, 4, height, width, generator=generator)

    def denoise(z, sigma):
        estimates = (objective.denoise(network, z, sigma, cond) for cond in conds)
        return guide(*estimates, z, sigma)

    with torch.inference_mode():
        return sampler(denoise, noise, levels)


def main(comfyui: str, folder: Path, python: str) -> None:
    from ztsnr.config.registry import build, compose

    names = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
    for name in ("custom_nodes", "models/checkpoints", "input", "output", "user"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if not (folder / "custom_nodes" / "ztsnr").exists():
        (folder / "custom_nodes" / "ztsnr").symlink_to(ROOT / "nodes")
    path = make_checkpoint(folder, Path(comfyui) / "comfy" / "sd1_tokenizer")
    server = serve(comfyui, folder, python)
    try:
        actual = {name: drawn_by_comfyui(folder, name) for name in names}
    finally:
        server.terminate()
        server.wait()
    conds = {name: conditions(path, name) for name in names}
    composed = compose("model=sdxl", f"model.pretrained={path}", "schedule=ztsnr", "loss=vpred")
    objective, network = build(composed.objective), build(composed.model).requires_grad_(False).eval()
    for name in names:
        reference = drawn_by_ztsnr(objective, network, name, conds[name]) / 0.13025
        error = ((actual[name] - reference).abs().max() / reference.std()).item()
        print(f"{name}: largest difference {error:.1e} of the latents' deviation (at most {TOLERANCE:.0e})", flush=True)
        assert error <= TOLERANCE


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve(), sys.argv[3])
