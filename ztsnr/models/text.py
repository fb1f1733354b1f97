"""Prompts as tokens, and as what a model's text encoders say of them."""

import bisect

import torch
from torch import Tensor, nn

from ztsnr.core.errors import ConfigError
from ztsnr.models.source import Source, find_source

WINDOW = 75
"""Tokens of a prompt that a text encoder reads at a time, besides a marker at either end."""
PROMPTS = 16
"""That go through the text encoders at once."""


class Tokenizers:
    """SDXL's two, which differ in what they pad with, or Stable Diffusion 1.5's one."""

    def __init__(self, source: Source):
        self.all = [source.tokenizer(part.replace("text_encoder", "tokenizer")) for part in encoders_of(source)]

    def windows(self, prompts: list[str]) -> int:
        """How many windows of 75 tokens the longest of these prompts needs, at least 1."""
        longest = max(len(ids) for ids in self._words(0, prompts))
        return max(1, -(-longest // WINDOW))

    def tokens(self, prompts: list[str], windows: int) -> Tensor:
        """(N, tokenizers, windows, 77): each window with its markers, padded. Raises ConfigError for a prompt that is
        longer."""
        numbers = range(len(self.all))
        return torch.stack([torch.tensor(self._rows(n, prompts, windows)) for n in numbers]).transpose(0, 1)

    def cut(self, text: str, windows: int) -> str:
        """The text, less as many of its last words as do not fit."""
        if self.windows([text]) <= windows:
            return text
        words = text.split()
        fits = bisect.bisect(range(1, len(words)), windows, key=lambda n: self.windows([" ".join(words[:n])]))
        return " ".join(words[:fits])

    @property
    def identity(self) -> tuple:
        """What tokens depend on."""
        return tuple((sorted(t.get_vocab().items()), t.pad_token_id) for t in self.all)

    def _words(self, number: int, prompts: list[str]) -> list[list[int]]:
        return self.all[number](prompts, add_special_tokens=False, verbose=False).input_ids

    def _rows(self, number: int, prompts: list[str], windows: int) -> list[list[list[int]]]:
        tokenizer, rows = self.all[number], []
        for ids in self._words(number, prompts):
            if len(ids) > WINDOW * windows:
                raise ConfigError(f"a prompt of {len(ids)} tokens is longer than {windows} windows of {WINDOW}")
            pieces = [ids[start : start + WINDOW] for start in range(0, WINDOW * windows, WINDOW)]
            framed = [[tokenizer.bos_token_id, *piece, tokenizer.eos_token_id] for piece in pieces]
            rows.append([piece + [tokenizer.pad_token_id] * (WINDOW + 2 - len(piece)) for piece in framed])
        return rows


class TextEncoders(nn.Module):
    """What a model of the family says of prompts. In float32, in eval mode, frozen."""

    def __init__(self, pretrained: str):
        super().__init__()
        source = find_source(pretrained)
        self.tokenizers = Tokenizers(source)
        self.parts = nn.ModuleDict({part: source.network(part) for part in encoders_of(source)})
        self.requires_grad_(False).eval()

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """tokens (N, encoders, windows, 77) -> `text` (N, 77 * windows, width) and, of SDXL, `pooled` (N, width).

        SDXL's text is both encoders' penultimate states side by side, and pooled the second's projection of the first
        window; 1.5's text is its last state, normalised.
        """
        states, said, windows = [], {}, tokens.shape[2]
        for ids, encoder in zip(tokens.unbind(1), self.parts.values(), strict=True):
            read = encoder(ids.flatten(0, 1), output_hidden_states=True)
            state = read.hidden_states[-2] if len(self.parts) > 1 else read.last_hidden_state
            states.append(state.unflatten(0, (-1, windows)).flatten(1, 2))
        if len(self.parts) > 1:
            said["pooled"] = read.text_embeds.unflatten(0, (-1, windows))[:, 0]
        return {"text": torch.cat(states, -1), **said}

    @torch.no_grad()
    def encode(self, prompts: list[str], windows: int | None = None) -> dict[str, Tensor]:
        """What is said of prompts, each of so many windows; null takes what the longest needs."""
        tokens = self.tokenizers.tokens(prompts, windows or self.tokenizers.windows(prompts)).to(self.device)
        said = [self(some) for some in tokens.split(PROMPTS)]
        return {name: torch.cat([part[name] for part in said]) for name in said[0]}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def freeze_unused(self) -> None:
        """SDXL's first encoder is read before its last layer, which no gradient reaches."""
        if len(self.parts) > 1:
            first = self.parts["text_encoder"]
            model = getattr(first, "text_model", first)  # as transformers before 5 calls it
            for unused in (model.encoder.layers[-1], model.final_layer_norm):
                unused.requires_grad_(False)


def encoders_of(source: Source) -> tuple[str, ...]:
    """The names of its text encoders."""
    return ("text_encoder", "text_encoder_2") if source.has("text_encoder_2") else ("text_encoder",)
