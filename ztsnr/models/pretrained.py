"""The parts of a pretrained model, each loaded alone: from a diffusers folder or a name on the hub."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ztsnr.errors import CheckpointError

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
WINDOW = 75  # tokens of a prompt that a text encoder reads at a time, besides a marker at either end
PROMPTS = 16  # that go through the text encoders at once


def load_vae(pretrained: str) -> nn.Module:
    """diffusers' AutoencoderKL in float32, in which SDXL's does not overflow; in eval mode, frozen."""
    from diffusers import AutoencoderKL

    return _frozen(_load(AutoencoderKL, pretrained, "vae"))


def load_unet(pretrained: str) -> nn.Module:
    """diffusers' UNet2DConditionModel in float32."""
    from diffusers import UNet2DConditionModel

    return _load(UNet2DConditionModel, pretrained, "unet")


class TextEncoders(nn.Module):
    """What a model of the family says of prompts: SDXL's two text encoders, or Stable Diffusion 1.5's one.

    In float32, in eval mode, frozen.
    """

    def __init__(self, pretrained: str):
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        super().__init__()
        self.tokenizers = [CLIPTokenizer.from_pretrained(part_folder(pretrained, "tokenizer"))]
        encoders = [_load(CLIPTextModel, pretrained, "text_encoder")]
        self.two = has_part(pretrained, "text_encoder_2")
        if self.two:
            self.tokenizers.append(CLIPTokenizer.from_pretrained(part_folder(pretrained, "tokenizer_2")))
            encoders.append(_load(CLIPTextModelWithProjection, pretrained, "text_encoder_2"))
        self.encoders = nn.ModuleList(encoders)
        _frozen(self)

    def windows(self, prompts: list[str]) -> int:
        """How many windows of 75 tokens the longest of these prompts needs, at least 1."""
        longest = max(len(ids) for ids in _words(self.tokenizers[0], prompts))
        return max(1, -(-longest // WINDOW))

    @torch.no_grad()
    def encode(self, prompts: list[str], windows: int | None = None) -> dict[str, Tensor]:
        """`text` (N, 77 * windows, width) and, of SDXL, `pooled` (N, width), in float32 on the encoders' device.

        SDXL's text is both encoders' penultimate states side by side, and pooled the second's projection of the first
        window; 1.5's text is its last state, normalised. `windows`: of each prompt; null takes what the longest needs.
        """
        windows = windows or self.windows(prompts)
        parts = [self._encode(prompts[i : i + PROMPTS], windows) for i in range(0, len(prompts), PROMPTS)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _encode(self, prompts: list[str], windows: int) -> dict[str, Tensor]:
        states, said = [], {}
        for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
            ids = tokens(tokenizer, prompts, windows).to(encoder.device)
            read = encoder(ids.flatten(0, 1), output_hidden_states=True)
            state = read.hidden_states[-2] if self.two else read.last_hidden_state
            states.append(state.unflatten(0, (-1, windows)).flatten(1, 2))
        if self.two:
            said["pooled"] = read.text_embeds.unflatten(0, (-1, windows))[:, 0]
        return {"text": torch.cat(states, -1), **said}


def tokens(tokenizer, prompts: list[str], windows: int) -> Tensor:
    """(N, windows, 77): each window with its markers, padded. Raises CheckpointError for a prompt that is longer."""
    size, rows = WINDOW * windows, []
    for ids in _words(tokenizer, prompts):
        if len(ids) > size:
            raise CheckpointError(f"a prompt of {len(ids)} tokens is longer than {windows} windows of {WINDOW}")
        for start in range(0, size, WINDOW):
            piece = [tokenizer.bos_token_id, *ids[start : start + WINDOW], tokenizer.eos_token_id]
            rows.append(piece + [tokenizer.pad_token_id] * (WINDOW + 2 - len(piece)))
    return torch.tensor(rows).unflatten(0, (-1, windows))


def fingerprint(pretrained: str, part: str) -> str:
    """A hash of the weights of "vae", "text_encoder", ..., and of the scale of a VAE's latents: 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr(config_of(pretrained, part).get("scaling_factor")).encode())
    for name, tensor in _tensors(part_folder(pretrained, part)):
        digest.update(f"{name.removeprefix('text_model.')} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def config_of(pretrained: str, part: str) -> dict:
    return json.loads((part_folder(pretrained, part) / "config.json").read_text(encoding="utf-8"))


def has_part(pretrained: str, part: str) -> bool:
    try:
        return part_folder(pretrained, part).is_dir()
    except CheckpointError:
        return False


def part_folder(pretrained: str, part: str) -> Path:
    """The part's folder, downloaded where `pretrained` names a model on the hub. Raises CheckpointError."""
    place = Path(pretrained)
    if place.suffix.lower() in PICKLES:
        raise CheckpointError(
            f"model.pretrained={pretrained} is a pickle, which can run anything when it is read. "
            f"Use the same weights as .safetensors."
        )
    if not place.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(pretrained)):
        place = _from_hub(str(pretrained), part)
    folder = place / part
    if not folder.is_dir():
        what = "has no folder" if (place / "model_index.json").is_file() else "is no diffusers folder: it lacks"
        raise CheckpointError(
            f"model.pretrained={pretrained} {what} {part}. It must be a folder that diffusers saved, or its name on "
            f"the hub, such as stabilityai/stable-diffusion-xl-base-1.0"
        )
    return folder


def _from_hub(name: str, part: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    weights = [f"{part}/{file}" for file in ("*.json", "*.txt", "model*.safetensors", "diffusion*.safetensors")]
    try:
        return Path(snapshot_download(name, allow_patterns=weights, ignore_patterns=["*.fp16.*", "*.non_ema.*"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"model.pretrained={name} is no folder here and could not be had from the hub: {error}"
        ) from error


def _load(cls: type, pretrained: str, part: str):
    folder = part_folder(pretrained, part)
    variant = {"variant": "fp16"} if not _weights(folder, "") and _weights(folder, ".fp16") else {}
    kind = "dtype" if cls.__module__.startswith("transformers") else "torch_dtype"
    settings = {"use_safetensors": True, "output_loading_info": True, kind: torch.float32, **variant}
    try:
        network, told = cls.from_pretrained(folder, **settings)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder} cannot be loaded as {cls.__name__}: {error}") from error
    for what in ("missing", "unexpected", "mismatched"):
        if keys := sorted(str(key) for key in told[f"{what}_keys"]):
            raise CheckpointError(f"{folder} does not fit {cls.__name__}: {len(keys)} {what} tensors, first {keys[0]}")
    return network


def _weights(folder: Path, variant: str) -> list[Path]:
    return [file for file in folder.glob("*.safetensors") if (".fp16" in file.name) == (variant == ".fp16")]


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a folder in the order of their names."""
    where = {}
    for file in sorted(_weights(folder, "") or _weights(folder, ".fp16")):
        with safe_open(file, "pt") as opened:
            where |= dict.fromkeys(opened.keys(), file)
    if not where:
        raise CheckpointError(f"{folder} holds no .safetensors file")
    for name in sorted(where):
        with safe_open(where[name], "pt") as opened:
            yield name, opened.get_tensor(name)


def _words(tokenizer, prompts: list[str]) -> list[list[int]]:
    return tokenizer(prompts, add_special_tokens=False, verbose=False).input_ids


def _frozen(network: nn.Module) -> nn.Module:
    return network.requires_grad_(False).eval()
