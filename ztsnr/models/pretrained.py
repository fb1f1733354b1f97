"""The parts of a pretrained model, each loaded alone."""

import hashlib

import torch
from torch import Tensor, nn

from ztsnr.errors import ConfigError
from ztsnr.models.source import TEXT_MODEL, find_source

WINDOW = 75
"""Tokens of a prompt that a text encoder reads at a time, besides a marker at either end."""
PROMPTS = 16
"""That go through the text encoders at once."""


def load_vae(pretrained: str) -> nn.Module:
    """diffusers' AutoencoderKL in float32, in which SDXL's does not overflow; in eval mode, frozen."""
    return _frozen(load_part(pretrained, "vae"))


def load_unet(pretrained: str) -> nn.Module:
    """diffusers' UNet2DConditionModel in float32."""
    return load_part(pretrained, "unet")


def load_part(pretrained: str, part: str) -> nn.Module:
    """In float32. Raises CheckpointError."""
    return find_source(pretrained).network(part)


class TextEncoders(nn.Module):
    """What a model of the family says of prompts: SDXL's two text encoders, or Stable Diffusion 1.5's one.

    In float32, in eval mode, frozen.
    """

    def __init__(self, pretrained: str):
        super().__init__()
        source = find_source(pretrained)
        self.two = source.has("text_encoder_2")
        numbers = ("", "_2") if self.two else ("",)
        self.tokenizers = [source.tokenizer(f"tokenizer{number}") for number in numbers]
        self.encoders = nn.ModuleList(load_part(pretrained, f"text_encoder{number}") for number in numbers)
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
    """(N, windows, 77): each window with its markers, padded. Raises ConfigError for a prompt that is longer."""
    size, rows = WINDOW * windows, []
    for ids in _words(tokenizer, prompts):
        if len(ids) > size:
            raise ConfigError(f"a prompt of {len(ids)} tokens is longer than {windows} windows of {WINDOW}")
        for start in range(0, size, WINDOW):
            piece = [tokenizer.bos_token_id, *ids[start : start + WINDOW], tokenizer.eos_token_id]
            rows.append(piece + [tokenizer.pad_token_id] * (WINDOW + 2 - len(piece)))
    return torch.tensor(rows).unflatten(0, (-1, windows))


def fingerprint(pretrained: str, part: str) -> str:
    """A hash of the weights of "vae", "text_encoder", ..., and of the scale of a VAE's latents: 32 hex digits."""
    source, digest = find_source(pretrained), hashlib.blake2b(digest_size=16)
    digest.update(repr(source.config(part).get("scaling_factor")).encode())
    for name, tensor in source.tensors(part):
        digest.update(f"{name.removeprefix(TEXT_MODEL)} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _words(tokenizer, prompts: list[str]) -> list[list[int]]:
    return tokenizer(prompts, add_special_tokens=False, verbose=False).input_ids


def _frozen(network: nn.Module) -> nn.Module:
    return network.requires_grad_(False).eval()
