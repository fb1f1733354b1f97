"""Proof of nodes/ inside a real ComfyUI, in its own process, on a small random SDXL U-Net.

python scripts/comfyui_proof.py /path/to/ComfyUI [classic], by a Python that has ComfyUI's requirements; with `classic`
ComfyUI's V3 API is hidden from the nodes. Prints what was measured; the first statement that does not hold ends it.
"""

import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ("--cpu", "--fp32-text-enc")
STEPS, SEED, CFG, RESCALE, SIZE = 8, 7, 5.0, 0.7, 16


def start(comfyui: str, classic: bool = False):
    """ComfyUI's own modules on the CPU, with nodes/ linked in and loaded by its own loader."""
    os.chdir(comfyui)
    sys.path.insert(0, comfyui)
    sys.argv = ["main.py", *FLAGS]
    import comfy.options

    comfy.options.enable_args_parsing()
    import nodes

    link = Path(tempfile.mkdtemp()) / "ztsnr"
    link.symlink_to(ROOT / "nodes")
    extras = ("custom_sampler", "model_advanced", "latent")
    for name in extras:
        assert asyncio.run(
            nodes.load_custom_node(f"{comfyui}/comfy_extras/nodes_{name}.py", module_parent="comfy_extras")
        )
    hidden = sys.modules.pop("comfy_api.latest")
    sys.modules["comfy_api.latest"] = None if classic else hidden
    began = time.perf_counter()
    assert asyncio.run(nodes.load_custom_node(str(link)))
    sys.modules["comfy_api.latest"] = hidden
    import comfyui_version

    print(f"ComfyUI {comfyui_version.__version__}, {'classic' if classic else 'V3'} API")
    print(f"nodes imported in {1000 * (time.perf_counter() - began):.0f} ms")
    heavy = {"hydra", "omegaconf", "mlflow", "diffusers", "accelerate"} & set(sys.modules)
    assert not heavy, heavy


def run(name: str, **inputs):
    """What the node gives, as the executor calls it."""
    import nodes

    node = nodes.NODE_CLASS_MAPPINGS[name]
    output = getattr(node(), node.FUNCTION)(**inputs)
    result = getattr(output, "result", output)
    return result[0] if len(result) == 1 else result


def small_sdxl(dtype=torch.float32):
    """A ModelPatcher over ComfyUI's SDXL class with 32 channels and random weights."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    unet = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
        "channel_mult": [1, 2], "transformer_depth": [0, 1], "transformer_depth_output": [0, 0, 1, 1],
        "transformer_depth_middle": 1, "context_dim": 2048, "adm_in_channels": 2816, "num_classes": "sequential",
        "use_spatial_transformer": True, "use_linear_in_transformer": True, "num_heads": -1, "num_head_channels": 16,
        "legacy": False, "use_temporal_attention": False, "dtype": dtype,
    }  # fmt: skip
    model = comfy.model_base.SDXL(comfy.supported_models.SDXL(unet))
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.diffusion_model.named_parameters():
        values = torch.randn(weight.shape, generator=generator)
        scale = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1
        weight.data = (scale * values + (weight.ndim == 1 and name.endswith("weight"))).to(dtype)
    return comfy.model_patcher.ModelPatcher(model.eval(), torch.device("cpu"), torch.device("cpu"))


def conditions():
    generator = torch.Generator().manual_seed(1)
    pairs = [(torch.randn(1, 77, 2048, generator=generator), torch.randn(1, 1280, generator=generator)) for _ in "+-"]
    return [[[context, {"pooled_output": pooled}]] for context, pooled in pairs]


def sample(model, sampler, sigmas, cfg=CFG, latent=None):
    """Latents by the stock SamplerCustom, in the VAE's space."""
    positive, negative = conditions()
    latent = {"samples": torch.zeros(1, 4, SIZE, SIZE)} if latent is None else latent
    return run(
        "SamplerCustom", model=model, add_noise=True, noise_seed=SEED, cfg=cfg, positive=positive, negative=negative,
        sampler=sampler, sigmas=sigmas, latent_image=latent,
    )[0]["samples"]  # fmt: skip


def by_core(patcher, sampler, terminal, guide=None, levels=None, conds=None, size=SIZE, steps=STEPS):
    """The same by ztsnr's own sampler on z in float32, from the same noise, network and conditions, in SDXL's space.

    guide(positive, negative, z, sigma) -> the guided estimate; levels: Karras entered from the terminal one.
    """
    from ztsnr.core.sampling import Guidance
    from ztsnr.core.schedule.grid import KarrasGrid, WithTerminalStep
    from ztsnr.core.schedule.table import STABLE_DIFFUSION, ZeroTerminal
    from ztsnr.core.schedule.timesteps import TableIndex
    from ztsnr.core.target import V

    table = ZeroTerminal(table=STABLE_DIFFUSION, terminal=terminal)
    inner_grid = KarrasGrid(sigma_min=table.sigmas[0].item(), sigma_max=17.8, rho=7.0)
    levels = WithTerminalStep(grid=inner_grid, terminal=terminal).sigmas(steps) if levels is None else levels
    guide = guide or Guidance(scale=CFG, rescale=RESCALE).combine
    timesteps, model = TableIndex(table=table, quantize=False), patcher.model
    dtype, shape = model.manual_cast_dtype or model.get_dtype(), {"width": 8 * size, "height": 8 * size}
    adm = [model.encode_adm(device=torch.device("cpu"), **shape, **cond[0][1]) for cond in conds or conditions()]

    def denoise(z, sigma):
        sigma, estimates = sigma.expand(1), []
        for cond, y in zip(conds or conditions(), adm, strict=True):
            network_input, context, y = (part.to(dtype) for part in (z, cond[0][0], y))
            output = model.diffusion_model(network_input, timesteps(sigma).float(), context=context, y=y)
            estimates.append(V().denoised(output.float(), z, sigma))
        return guide(*estimates, z, sigma)

    noise = torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(SEED))
    with torch.inference_mode():
        return sampler(denoise, noise, levels)


def same(what: str, actual, expected, tolerance: float) -> None:
    error = ((actual - expected).abs().max() / expected.std()).item()
    print(f"{what}: largest difference {error:.1e} of the latents' deviation (at most {tolerance:.0e})")
    assert error <= tolerance


def prediction(model, **inputs):
    settings = {
        "checkpoint": "set below", "zero_terminal": True, "sigma_min": 0.0, "sigma_max": 20000.0,
        "sigma_data": 1.0, "snr_gamma": 0.0, "native_resolution": 1024,
    }  # fmt: skip
    return run("ZTSNRVPrediction", model=model, **settings | inputs)


def rescaled(model, method="constant", space="v"):
    return run("ZTSNRCFGRescale", model=model, multiplier=RESCALE, method=method, space=space)


def karras(model, steps=STEPS):
    return run("ZTSNRSigmas", model=model, steps=steps, grid="karras from the terminal level", start=17.8, rho=7.0)


def stock(name):
    return run("KSamplerSelect", sampler_name=name)


def leaving(name):
    return run("ZTSNRSampler", sampler=stock(name))


def prove_samples() -> None:
    from ztsnr.core import sampling

    model = small_sdxl()
    scale = model.model.latent_format.scale_factor
    patched = rescaled(prediction(model))
    sigmas = karras(patched)
    euler, heun = stock("euler"), stock("heun")
    finite, infinite = (by_core(model, sampling.Euler(), terminal) / scale for terminal in (20000.0, torch.inf))
    same("ZTSNR Sampler, euler, against ztsnr at 20000", sample(patched, leaving("euler"), sigmas), finite, 1e-4)
    same("ZTSNR Sampler, euler, against ztsnr at inf", sample(patched, leaving("euler"), sigmas), infinite, 5e-4)
    same("stock euler against ztsnr at 20000", sample(patched, euler, sigmas), finite, 2e-3)
    multistep = by_core(model, sampling.DPMpp2M(), torch.inf) / scale
    same("ZTSNR Sampler, dpmpp_2m, against ztsnr at inf", sample(patched, leaving("dpmpp_2m"), sigmas), multistep, 5e-4)
    reference = run("RescaleCFG", model=prediction(model), multiplier=RESCALE)
    same("CFG Rescale against stock RescaleCFG", sample(patched, euler, sigmas), sample(reference, euler, sigmas), 5e-3)
    spread = [sample(patched, sampler, sigmas).std() / infinite.std() for sampler in (heun, leaving("heun"))]
    print(
        f"deviation of heun's latents, of those of ztsnr's euler: stock {spread[0]:.2f}, ZTSNR Sampler {spread[1]:.2f}"
    )


def prove_precision() -> None:
    from ztsnr.core.sampling import Euler

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = small_sdxl(dtype)
        patched, expected = rescaled(prediction(model)), by_core(model, Euler(), 20000.0) / 0.13025
        results = [sample(patched, sampler, karras(patched)) for sampler in (stock("euler"), leaving("euler"))]
        results.append(
            by_core(model, lambda denoise, z, levels: Euler()(denoise, z * (1 + 1e-7), levels), 20000.0) / 0.13025
        )
        errors = [((latents - expected).square().mean().sqrt() / expected.std()).item() for latents in results]
        print(
            f"network in {dtype}, rms against ztsnr: stock euler {errors[0]:.1e}, ZTSNR Sampler {errors[1]:.1e}; ztsnr "
            f"from 1.0000001 times the noise {errors[2]:.1e}"
        )


def as_json(levels) -> str:
    return json.dumps(["inf" if level == torch.inf else level for level in levels])


def write_header(path: Path, **facts) -> str:
    """A safetensors file of one tensor with a checkpoint's metadata; its name."""
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, path, {f"ztsnr.{name}": str(value) for name, value in facts.items()})
    return path.name


def prove_metadata() -> None:
    import folder_paths

    from ztsnr.core import sampling
    from ztsnr.core.schedule.table import STABLE_DIFFUSION, ZeroTerminal

    folder = Path(tempfile.mkdtemp())
    folder_paths.add_model_folder_path("checkpoints", str(folder))
    table = ZeroTerminal(table=STABLE_DIFFUSION, terminal=torch.inf)
    model = small_sdxl()
    sigmas = karras(prediction(model)).tolist()
    latents = {"mean": [0.1, -0.2, 0.3, -0.4], "std": [4.0, 5.0, 6.0, 7.0]}
    facts = {
        "format": 1, "target": "v", "sigmas": as_json(table.sigmas.tolist()), "latents": json.dumps(latents),
        "grid": as_json([torch.inf, *sigmas[1:]]), "timesteps": '{"name": "tableindex", "quantize": false}',
    }  # fmt: skip
    from_metadata = prediction(model, checkpoint=write_header(folder / "metadata.safetensors", **facts))
    levels = run("ZTSNRSigmas", model=from_metadata, steps=STEPS, grid="the checkpoint's own", start=17.8, rho=7.0)
    assert levels.tolist() == sigmas
    mean, std = (torch.tensor(latents[name]).view(1, 4, 1, 1) for name in ("mean", "std"))
    expected = by_core(model, sampling.Euler(), torch.inf) * std + mean
    same(
        "table, grid and latent statistics from metadata",
        sample(rescaled(from_metadata), leaving("euler"), levels),
        expected,
        5e-4,
    )
    prove_targets(model, folder, facts)
    write_header(folder / "silent.safetensors")
    (folder / "broken.safetensors").write_bytes(b"not a header")
    write_header(folder / "flow.safetensors", **facts | {"target": "flow"})
    for name in ("silent", "broken", "flow"):
        refused(name, prediction, model, checkpoint=f"{name}.safetensors")


def prove_targets(model, folder: Path, facts: dict) -> None:
    """What ComfyUI's own classes make of an output, against ztsnr's targets; the network receives rounded indices."""
    from ztsnr.core.noise import alpha
    from ztsnr.core.target import EDM, X0, Eps, V

    sigma = torch.tensor([0.03, 1.0, 17.8, 20000.0], dtype=torch.float64)
    z, output = torch.randn(2, 4, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for target in (V(), Eps(), X0(), EDM(sigma_data=0.5)):
        name = type(target).__name__.lower()
        settings = {"target": name, "sigma_data": 0.5, "timesteps": '{"name": "tableindex", "quantize": true}'}
        file = write_header(folder / f"{name}.safetensors", **facts | settings)
        sampling = prediction(model, checkpoint=file).get_model_object("model_sampling")
        x = z / alpha(sigma).reshape(-1, 1, 1, 1)
        network_input = target.c_in(sigma).reshape(-1, 1, 1, 1) * z
        torch.testing.assert_close(sampling.calculate_input(sigma, x), network_input)
        torch.testing.assert_close(sampling.calculate_denoised(sigma, output, x), target.denoised(output, z, sigma))
        index = sampling.timestep(sigma)
        assert torch.equal(index, index.round())
        assert index.tolist()[-1] == 999
    print("v, eps, x0 and edm: ComfyUI's classes give ztsnr's input and estimate")


def refused(what: str, call, *arguments, **inputs) -> None:
    from ztsnr.core.errors import ZtsnrError

    try:
        call(*arguments, **inputs)
    except ZtsnrError as error:
        print(f"refused, {what}: {error}")
    else:
        raise AssertionError(f"{what} was not refused")


def prove_refusals() -> None:
    model = small_sdxl()
    flow = run("ModelSamplingSD3", model=model, shift=3.0)
    transformer = small_sdxl()
    transformer.model.model_config.unet_config = {"image_model": "flux"}
    laplace = {"mu": 0.0, "b": 0.5, "sigma_max": 20000.0, "u_max": 0.99, "terminal_step": True}
    refused("flow", prediction, flow)
    refused("transformer", prediction, transformer)
    refused("sigma_min above sigma_max", prediction, model, sigma_min=5.0, sigma_max=1.0, zero_terminal=False)
    refused("steps 0", run, "ZTSNRLaplaceScheduler", steps=0, **laplace)
    refused("no terminal level", karras, model)
    refused("no grid", run, "ZTSNRSigmas", model=model, steps=4, grid="the checkpoint's own", start=17.8, rho=7.0)
    refused("no sampler", run, "ZTSNRSampler", sampler=object())


def prove_chains() -> None:
    """In each order of LoRA, stock ModelSamplingDiscrete, stock RescaleCFG and two of our nodes, twice each."""
    import comfy.sd

    base = small_sdxl()
    down, up = torch.randn(4, 32, generator=torch.Generator().manual_seed(2)), torch.full((128, 4), 0.05)
    name = "lora_unet_time_embed_0"
    lora = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(4.0)}
    links = {
        "lora": lambda model: comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)[0],
        "stock sampling": lambda model: run("ModelSamplingDiscrete", model=model, sampling="v_prediction", zsnr=True),
        "stock rescale": lambda model: run("RescaleCFG", model=model, multiplier=0.3),
        "ours": lambda model: prediction(prediction(model, snr_gamma=9.0), snr_gamma=5.0),
        "our rescale": lambda model: rescaled(rescaled(model, "linear"), "linear"),
    }
    sigmas, samples = karras(prediction(base), steps=3), {}
    for order in itertools.permutations(links):
        model = base
        for link in order:
            model = links[link](model)
        rescale_first = order.index("our rescale") < order.index("ours")
        winner = "stock" if order.index("stock sampling") > order.index("ours") else "ours"
        latents = sample(model, leaving("euler"), sigmas)
        reference = samples.setdefault((winner, rescale_first), latents)
        assert torch.equal(latents, reference), order
        assert len(model.model_options["sampler_post_cfg_function"]) == 2
    by_winner = [torch.equal(samples["ours", first], samples["stock", first]) for first in (True, False)]
    assert by_winner == [False, False]
    for left_out in links:
        model = base
        for link in (name for name in links if name != left_out):
            model = links[link](model)
        replaced = left_out == "stock sampling"  # by ours, which comes after it here
        assert torch.equal(sample(model, leaving("euler"), sigmas), samples["ours", False]) == replaced, left_out
    print("120 orders of LoRA, stock sampling and rescale, and our two nodes twice: none lost, none doubled")


if __name__ == "__main__":
    start(sys.argv[1], sys.argv[2:] == ["classic"])
    prove_samples()
    prove_precision()
    prove_metadata()
    prove_refusals()
    prove_chains()
