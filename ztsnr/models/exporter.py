"""Trained networks written as other programs read them."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from ztsnr.core.errors import CheckpointError, ConfigError
from ztsnr.core.objective import Objective
from ztsnr.formats import lora
from ztsnr.formats.ldm import State, to_ldm
from ztsnr.formats.metadata import markers, metadata_of, scheduler_config
from ztsnr.formats.single_file import join
from ztsnr.io.tensors import write_tensors
from ztsnr.models.architectures import ARCHITECTURES, told_of
from ztsnr.models.pretrained import load_part
from ztsnr.models.sdxl import PretrainedUNet
from ztsnr.models.source import cast, find_source, plain_state
from ztsnr.models.trainable import LoRA

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FORMATS = ("single_file", "diffusers", "unet", "lora_kohya", "lora_peft")


class Export:
    """A trained network with what it was trained on, ready to be written in any format.

    `config` is the run's; its model.pretrained is where the other parts are, its samples.steps those of the sampling
    grid that files tell. `latents` are {"mean": [...], "std": [...]} by channel, of what the VAE says: x0 * std + mean;
    None is the VAE's own factor.
    """

    def __init__(
        self, network: PretrainedUNet, objective: Objective, config: Mapping, latents: Mapping | None, dtype: str
    ):
        self.network, self.objective, self.config, self.latents = network, objective, dict(config), latents
        self.pretrained, self.steps, self.dtype = (
            config["model"]["pretrained"],
            config["samples"]["steps"],
            DTYPES[dtype],
        )

    def write(self, format: str, output: Path) -> None:
        getattr(self, format)(output)

    def single_file(self, output: Path) -> None:
        networks = self._networks()
        architecture = {part: told_of(network) for part, network in networks.items()}
        tensors = join(self.network.family, {part: plain_state(network) for part, network in networks.items()})
        told = self._metadata() | {"ztsnr.architecture": json.dumps(architecture)}
        write_tensors(output, self._cast(tensors) | markers(self.objective), told)

    def unet(self, output: Path) -> None:
        """Without a prefix, with which ComfyUI's loader of U-Nets would drop the markers."""
        network = self._trained["unet"]
        told = self._metadata() | self._told_latents() | {"ztsnr.architecture": json.dumps({"unet": told_of(network)})}
        write_tensors(output, self._cast(to_ldm("unet", plain_state(network))) | markers(self.objective), told)

    def diffusers(self, output: Path) -> None:
        """Written beside `output` and moved there once whole."""
        try:
            scheduler = scheduler_config(self.objective)
        except KeyError as error:
            raise CheckpointError(
                f"format=diffusers has no scheduler for target={error.args[0]}. Use format=single_file and our nodes"
            ) from error
        partial = output.with_name(f".{output.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            self._write_folder(partial, scheduler)
            partial.rename(output)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{output} could not be written: {error}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _write_folder(self, folder: Path, scheduler: dict) -> None:
        from diffusers import DDIMScheduler

        networks = self._networks()
        for part, network in networks.items():
            self._whole(network.state_dict())
            network.save_pretrained(folder / part)
        for part in [part.replace("text_encoder", "tokenizer") for part in networks if part.startswith("text")]:
            find_source(self.pretrained).tokenizer(part).save_pretrained(folder / part)
        DDIMScheduler.from_config(scheduler).save_pretrained(folder / "scheduler")
        for name, told in (("model_index", model_index(self.network.family)), ("ztsnr", self._metadata())):
            (folder / f"{name}.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")

    def lora_kohya(self, output: Path) -> None:
        found = self._lora()
        first = next(iter(found["unet"].values()))
        told = self._told_latents() | {"ss_network_module": "networks.lora", "ss_network_dim": str(first.rank)}
        told |= {"ss_network_alpha": str(first.alpha), "ss_v_parameterization": str(bool(markers(self.objective)))}
        told |= {"ss_base_model_version": "sdxl_base_v1-0" if self.network.family == "sdxl" else "sd_v1"}
        tensors = lora.to_kohya(found, self.network.family, self.network.layers)
        write_tensors(output, self._cast(tensors), self._metadata("/lora") | told)

    def lora_peft(self, output: Path) -> None:
        told = self._metadata("/lora") | self._told_latents()
        write_tensors(output, self._cast(lora.to_peft(self._lora())), told)

    def _lora(self) -> lora.LoRA:
        parts = self.network.parts()
        if not all(isinstance(what, LoRA) for _, what in parts.values()):
            raise ConfigError("format=lora_kohya and format=lora_peft are of a LoRA, and this checkpoint is none")
        state, alphas = self.network.state_dict(), {part: what.alpha for part, (_, what) in parts.items()}
        state = {key.removeprefix("text_encoders.parts."): value.float().cpu() for key, value in state.items()}
        found = lora.read(state, self.network.layers, "the checkpoint")
        return {
            part: {module: replace(update, alpha=alphas[part]) for module, update in updates.items()}
            for part, updates in found.items()
        }

    @cached_property
    def _trained(self) -> dict[str, nn.Module]:
        return {part: cast(network, self.dtype) for part, network in self.network.merged().items()}

    def _networks(self) -> dict[str, nn.Module]:
        """All parts, each in its final type before the next is loaded: SDXL is 14 GB in float32.

        A VAE is made to speak of x0, where that is not its own latent.
        """
        networks = dict(self._trained)
        for part in ARCHITECTURES[self.network.family]:
            if part not in networks:
                network = load_part(self.pretrained, part)
                if part == "vae" and self.latents and not self._stock_latents(network.config):
                    fold_latents(network, **self.latents)
                networks[part] = cast(network, self.dtype)
        return networks

    def _stock_latents(self, vae_config: Mapping) -> bool:
        mean, std = (torch.tensor(self.latents[name]) for name in ("mean", "std"))
        return bool((mean == 0).all()) and torch.allclose(std * vae_config["scaling_factor"], torch.ones_like(std))

    def _told_latents(self) -> dict[str, str]:
        """For files without a VAE, into which the statistics could be put."""
        if not self.latents or self._stock_latents(find_source(self.pretrained).config("vae")):
            return {}
        return {"ztsnr.latents": json.dumps(self.latents)}

    def _metadata(self, kind: str = "") -> dict[str, str]:
        return metadata_of(self.objective, self.config, self.steps, self.network.family, kind)

    def _cast(self, tensors: State) -> State:
        return self._whole({key: value.detach().cpu().to(self.dtype).contiguous() for key, value in tensors.items()})

    def _whole(self, tensors: State) -> State:
        if lost := [key for key, value in tensors.items() if not value.isfinite().all()]:
            raise CheckpointError(
                f"{len(lost)} tensors leave the finite numbers as {self.dtype}, first {lost[0]}. Use dtype=bf16 or fp32"
            )
        return tensors


def fold_latents(vae: nn.Module, mean: list[float], std: list[float]) -> None:
    """Puts x0 = (latent - mean) / std into the VAE's two 1 x 1 convolutions, so that its latents, times its scaling
    factor, are x0. A reader that knows nothing of the normalisation then encodes and decodes right."""
    mean, scale = torch.tensor(mean), torch.tensor(std) * vae.config.scaling_factor
    enter, leave = vae.quant_conv, vae.post_quant_conv
    with torch.no_grad():
        leave.bias += leave.weight[..., 0, 0] @ mean
        leave.weight *= scale[:, None, None]
        means, log_variances = slice(0, len(mean)), slice(len(mean), None)
        enter.weight[means] /= scale[:, None, None, None]
        enter.bias[means] = (enter.bias[means] - mean) / scale
        enter.bias[log_variances] -= 2 * scale.log()


def model_index(family: str) -> dict:
    """diffusers' list of a pipeline's parts."""
    index: dict[str, object] = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
    }
    if family == "sdxl":
        second = {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}
        second |= {"tokenizer_2": ["transformers", "CLIPTokenizer"], "force_zeros_for_empty_prompt": False}
        return {"_class_name": "StableDiffusionXLPipeline", **index, **second}
    return {"_class_name": "StableDiffusionPipeline", **index, "safety_checker": [None, None]} | {
        "requires_safety_checker": False
    }
