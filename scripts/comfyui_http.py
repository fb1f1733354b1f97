"""Proof of nodes/ through a real ComfyUI's HTTP API, on a full-size SDXL.

python scripts/comfyui_http.py /path/to/ComfyUI FOLDER [CHECKPOINT], by a Python with ComfyUI's requirements. Without
a checkpoint of ztsnr.export one with random weights is written to the folder, 6.9 GB. Runs each example workflow at
256 pixels and compares its latents with ztsnr's own sampler on the same network.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
import zlib
from pathlib import Path

import torch
from comfyui_proof import FLAGS, ROOT, as_json, by_core, same, start

PORT, STEPS, SIZE = 8399, 4, 32
WORKFLOWS = ROOT / "nodes" / "example_workflows" / "api"


def write_random_sdxl(path: Path) -> None:
    """All the keys of an SDXL checkpoint in fp16, random, with the metadata of zero terminal SNR."""
    import comfy.model_base
    import comfy.ops
    import comfy.sdxl_clip
    import comfy.supported_models
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from safetensors.torch import save_file

    from ztsnr.schedule.grid import FromTerminal, Karras
    from ztsnr.schedule.table import ScaledLinear, ZeroTerminal

    unet = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "context_dim": 2048, "adm_in_channels": 2816,
        "num_classes": "sequential", "use_spatial_transformer": True, "use_linear_in_transformer": True,
        "num_heads": -1, "num_head_channels": 64, "legacy": False, "use_temporal_attention": False,
        "dtype": torch.float16,
    }  # fmt: skip
    vae = {
        "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
        "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    config = comfy.supported_models.SDXL(unet)
    with torch.device("meta"):
        parts = {
            "model.diffusion_model.": comfy.model_base.UNetModel(
                **unet, operations=comfy.ops.disable_weight_init
            ).state_dict(),
            "first_stage_model.": AutoencoderKL(ddconfig=vae, embed_dim=4).state_dict(),
        }
        clip = comfy.sdxl_clip.SDXLClipModel(dtype=torch.float16).state_dict()
    pool = torch.randn(2**26 + 2**20, generator=torch.Generator().manual_seed(0)).half()
    weights = {}
    for prefix, shapes in parts.items():
        weights |= {prefix + name: _drawn(pool, name, meta.shape) for name, meta in shapes.items()}
    drawn = {name: _drawn(pool, name, meta.shape) for name, meta in clip.items()}
    weights |= config.process_clip_state_dict_for_saving(drawn)
    weights |= {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    table = ZeroTerminal(table=ScaledLinear(beta_start=0.00085, beta_end=0.012, steps=1000), terminal=torch.inf)
    below = Karras(sigma_min=table.sigmas[0].item(), sigma_max=17.8, rho=7.0)
    grid = FromTerminal(grid=below, terminal=torch.inf).sigmas(STEPS).tolist()
    facts = {"format": "1", "target": "v", "sigmas": as_json(table.sigmas.tolist()), "grid": as_json(grid)}
    save_file(
        {name: weight.contiguous().clone() for name, weight in weights.items()},
        path,
        {f"ztsnr.{name}": value for name, value in facts.items()},
    )


def _drawn(pool, name: str, shape):
    """Of `shape` from the pool, by the name: matrices keep the variance of what they multiply."""
    first = zlib.crc32(name.encode()) % 2**20
    values = pool[first : first + shape.numel()].reshape(shape)
    if len(shape) > 1:
        return values * shape[1:].numel() ** -0.5
    return values * 0.02 + (1 if name.endswith("weight") else 0)


def ask(path: str, body=None):
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", body and json.dumps(body).encode())
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        return json.load(answer)


def serve(comfyui: str, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "main.py", *FLAGS, "--listen", "127.0.0.1", "--port", str(PORT)]
    command += ["--base-directory", str(folder), "--database-url", f"sqlite:///{folder / 'comfyui.db'}"]
    with (folder / "comfyui.log").open("w") as log:
        server = subprocess.Popen(command, cwd=comfyui, stdout=log, stderr=log)
    for _ in range(120):
        time.sleep(1)
        try:
            print("serves ComfyUI", ask("/system_stats")["system"]["comfyui_version"])
            return server
        except OSError:
            continue
    server.terminate()
    raise SystemExit(f"ComfyUI did not answer within 2 minutes: {folder / 'comfyui.log'}")


def shortened(workflow: dict, checkpoint: str) -> dict:
    """The example at 256 pixels in few steps with this checkpoint, its latents saved beside the picture."""
    for node in workflow.values():
        given = node["inputs"]
        given |= {key: value for key, value in (("width", 8 * SIZE), ("height", 8 * SIZE)) if key in given}
        given |= {"steps": STEPS} if "steps" in given else {}
        given |= {"ckpt_name": checkpoint} if "ckpt_name" in given else {}
        given |= {"checkpoint": checkpoint} if given.get("checkpoint", "set below") != "set below" else {}
    workflow["100"] = {"class_type": "SaveLatent", "inputs": {"samples": ["10", 0], "filename_prefix": "latent"}}
    return workflow


def latents(folder: Path, name: str, checkpoint: str):
    """What ComfyUI makes of an example, in the VAE's space (1, 4, SIZE, SIZE)."""
    from safetensors.torch import load_file

    workflow = shortened(json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8")), checkpoint)
    began, identifier = time.perf_counter(), ask("/prompt", {"prompt": workflow})["prompt_id"]
    while not (done := ask(f"/history/{identifier}")):
        time.sleep(2)
    status = done[identifier]["status"]
    assert status["status_str"] == "success", status
    outputs = done[identifier]["outputs"]
    saved = outputs["100"]["latents"][0]
    print(f"{name}: {time.perf_counter() - began:.0f} s, picture {outputs['12']['images'][0]['filename']}")
    return load_file(folder / "output" / saved["subfolder"] / saved["filename"])["latent_tensor"]


def reference(name: str, model, clip):
    """The same by ztsnr's sampler on the same network, in SDXL's space."""
    from ztsnr.sampling import DPMpp2M, Euler, Guidance, rescale_v
    from ztsnr.schedule.density import Karras, Laplace
    from ztsnr.schedule.grid import FromTerminal, Quantiles

    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    texts = [workflow[node]["inputs"]["text"] for node in ("4", "5")]
    told = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts]
    if name == "zero_terminal":
        return by_core(model, Euler(), torch.inf, told=told, size=SIZE, steps=STEPS)
    quantiles = Quantiles(density=Laplace(mu=0.0, b=0.5), u_max=0.99)
    levels = FromTerminal(grid=quantiles, terminal=20000.0).sigmas(STEPS)
    share = Karras(sigma_min=levels[-2].item(), sigma_max=20000.0, rho=7.0)

    def guide(positive, negative, z, sigma):
        guided = Guidance(scale=5.0, rescale=0.0).combine(positive, negative, z, sigma)
        weighted = positive + (1 / (5.0 * sigma.square())).clamp(max=1).float() * (guided - positive)
        return rescale_v(weighted, positive, z, sigma, 0.7 * share.cdf(sigma).float())

    return by_core(model, DPMpp2M(), torch.inf, guide, levels.where(levels < 20000, torch.inf), told, SIZE)


def main(comfyui: str, folder: Path, checkpoint: str | None = None) -> None:
    names = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
    for name in ("custom_nodes", "models/checkpoints", "input", "output", "user"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if not (folder / "custom_nodes" / "ztsnr").exists():
        (folder / "custom_nodes" / "ztsnr").symlink_to(ROOT / "nodes")
    path = folder / "models/checkpoints/ztsnr.safetensors"
    start(comfyui)
    if checkpoint:
        os.symlink(checkpoint, path)
    elif not path.exists():
        write_random_sdxl(path)
    server = serve(comfyui, folder)
    try:
        made = {name: latents(folder, name, path.name) for name in names}
    finally:
        server.terminate()
        server.wait()
    import comfy.model_management
    import comfy.sd

    model, clip, *_ = comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False)
    comfy.model_management.load_models_gpu([model])
    for name in names:
        same(f"{name} over HTTP against ztsnr", made[name], reference(name, model, clip) / 0.13025, 2e-3)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve(), *sys.argv[3:])
