"""Exports a trained network in the formats that other programs read."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn

from ztsnr.core import metadata_keys as keys
from ztsnr.core.errors import CheckpointError, ConfigError
from ztsnr.core.format_names import target_name
from ztsnr.core.objective import Objective
from ztsnr.formats import lora
from ztsnr.formats.diffusers_folder import PREDICTION_TYPES, model_index, scheduler_config
from ztsnr.formats.ldm import StateDict, to_ldm
from ztsnr.formats.metadata import export_metadata, markers
from ztsnr.formats.single_file import join
from ztsnr.io.tensors import write_tensors
from ztsnr.models.architectures import ARCHITECTURES, serialisable_config
from ztsnr.models.latents import fold_latents, is_default_normalisation
from ztsnr.models.parts import plain_state, to_dtype
from ztsnr.models.pretrained import find_source, load_part, load_vae
from ztsnr.models.sdxl import PretrainedUNet
from ztsnr.models.trainable import LoRA

EXPORT_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KOHYA_BASES = {"sdxl": "sdxl_base_v1-0", "sd15": "sd_v1"}


class Exporter:
    """Writes a trained network, with the other parts of its pretrained model, in any of FORMATS.

    config: the run's config, encoded for a file. Its model.pretrained is the location of the other parts, and its
    samples.steps the length of the sampling grid in the metadata. latents: {"mean": [...], "std": [...]} by channel:
    the VAE's latent is x0 * std + mean. None is the VAE's own factor.
    """

    def __init__(
        self,
        network: PretrainedUNet,
        objective: Objective,
        config: Mapping[str, Any],
        latents: dict[str, list[float]] | None,
        dtype: str,
    ) -> None:
        self.network = network
        self.objective = objective
        self.config = dict(config)
        self.latents = latents
        self.dtype = EXPORT_DTYPES[dtype]
        self.pretrained: str = config["model"]["pretrained"]
        self.steps: int = config["samples"]["steps"]

    def write(self, format: str, output: Path) -> None:
        """`format`: one of FORMATS. Raises CheckpointError and ConfigError."""
        WRITERS[format](self, output)

    def write_single_file(self, output: Path) -> None:
        networks = self._all_parts()
        architecture = {part: serialisable_config(network) for part, network in networks.items()}
        states = {part: plain_state(network) for part, network in networks.items()}
        metadata = self._metadata() | {keys.ARCHITECTURE: json.dumps(architecture)}
        tensors = self._to_dtype(join(self.network.family, states))
        write_tensors(output, tensors | markers(self.objective), metadata)

    def write_unet(self, output: Path) -> None:
        """Omits the prefix of single files, because with it ComfyUI's U-Net loader would drop the markers."""
        network = self.merged_parts["unet"]
        architecture = {"unet": serialisable_config(network)}
        metadata = self._metadata() | self._latent_metadata() | {keys.ARCHITECTURE: json.dumps(architecture)}
        tensors = self._to_dtype(to_ldm("unet", plain_state(network)))
        write_tensors(output, tensors | markers(self.objective), metadata)

    def write_diffusers(self, output: Path) -> None:
        """Writes to a temporary folder and renames it when it is complete."""
        if type(self.objective.target) not in PREDICTION_TYPES:
            raise CheckpointError(
                f"format=diffusers has no scheduler for target={target_name(self.objective.target)}. "
                f"Use format=single_file and our nodes"
            )
        partial = output.with_name(f".{output.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            self._write_folder(partial)
            partial.rename(output)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{output} could not be written: {error}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _write_folder(self, folder: Path) -> None:
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        networks = self._all_parts()
        for part, network in networks.items():
            self._require_finite(network.state_dict())
            cast("Any", network).save_pretrained(folder / part)
        for part in networks:
            if part.startswith("text_encoder"):
                tokenizer = part.replace("text_encoder", "tokenizer")
                find_source(self.pretrained).tokenizer(tokenizer).save_pretrained(folder / tokenizer)
        scheduler = cast("DDIMScheduler", DDIMScheduler.from_config(scheduler_config(self.objective)))
        scheduler.save_pretrained(folder / "scheduler")

        for name, content in (("model_index", model_index(self.network.family)), ("ztsnr", self._metadata())):
            (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def write_lora_kohya(self, output: Path) -> None:
        updates = self.lora_updates()
        tensors = self._to_dtype(lora.to_kohya(updates, self.network.family, self.network.layers))
        first = next(iter(updates["unet"].values()))
        metadata = self._metadata("/lora") | self._latent_metadata()
        metadata["ss_network_module"] = "networks.lora"
        metadata["ss_network_dim"] = str(first.rank)
        metadata["ss_network_alpha"] = str(first.alpha)
        metadata["ss_v_parameterization"] = str(bool(markers(self.objective)))
        metadata["ss_base_model_version"] = KOHYA_BASES[self.network.family]
        write_tensors(output, tensors, metadata)

    def write_lora_peft(self, output: Path) -> None:
        tensors = self._to_dtype(lora.to_peft(self.lora_updates()))
        write_tensors(output, tensors, self._metadata("/lora") | self._latent_metadata())

    def lora_updates(self) -> lora.LoRAUpdates:
        """The updates of a LoRA, in float32. Raises ConfigError if the network's own weights were trained."""
        alphas = {}
        for part, (_, selection) in self.network.parts().items():
            if not isinstance(selection, LoRA):
                raise ConfigError("format=lora_kohya and format=lora_peft need a LoRA, and this checkpoint is not one")
            alphas[part] = selection.alpha
        state = {
            key.removeprefix("text_encoders.parts."): value.float().cpu()
            for key, value in self.network.state_dict().items()
        }
        updates = lora.read(state, self.network.layers, "the checkpoint")
        for part, updates_of_part in updates.items():
            for module, update in updates_of_part.items():
                updates_of_part[module] = replace(update, alpha=alphas[part])
        return updates

    @cached_property
    def merged_parts(self) -> dict[str, nn.Module]:
        """The trained parts, with LoRAs merged, in the exported type."""
        return {part: to_dtype(network, self.dtype) for part, network in self.network.merged().items()}

    def _all_parts(self) -> dict[str, nn.Module]:
        """All parts. Converts each before it loads the next, since SDXL has 14 GB in float32.

        Folds normalised latents into the VAE, so that it encodes and decodes x0.
        """
        networks = dict(self.merged_parts)
        for part in ARCHITECTURES[self.network.family]:
            if part in networks:
                continue
            if part == "vae":
                network = load_vae(self.pretrained)
                if self.latents and not is_default_normalisation(self.latents, network.config):
                    fold_latents(network, **self.latents)
            else:
                network = load_part(self.pretrained, part)
            networks[part] = to_dtype(network, self.dtype)
        return networks

    def _latent_metadata(self) -> dict[str, str]:
        """The latents' statistics, for files without a VAE to fold them into."""
        vae_config = find_source(self.pretrained).config("vae")
        if not self.latents or is_default_normalisation(self.latents, vae_config):
            return {}
        return {keys.LATENTS: json.dumps(self.latents)}

    def _metadata(self, kind: str = "") -> dict[str, str]:
        return export_metadata(self.objective, self.config, self.steps, self.network.family, kind)

    def _to_dtype(self, tensors: StateDict) -> StateDict:
        converted = {key: value.detach().cpu().to(self.dtype).contiguous() for key, value in tensors.items()}
        self._require_finite(converted)
        return converted

    def _require_finite(self, tensors: Mapping[str, torch.Tensor]) -> None:
        overflown = [key for key, value in tensors.items() if not value.isfinite().all()]
        if overflown:
            raise CheckpointError(
                f"{len(overflown)} tensors are not finite as {self.dtype}, first {overflown[0]}. "
                f"Use dtype=bf16 or dtype=fp32"
            )


WRITERS: dict[str, Callable[[Exporter, Path], None]] = {
    "single_file": Exporter.write_single_file,
    "diffusers": Exporter.write_diffusers,
    "unet": Exporter.write_unet,
    "lora_kohya": Exporter.write_lora_kohya,
    "lora_peft": Exporter.write_lora_peft,
}
FORMATS = tuple(WRITERS)
