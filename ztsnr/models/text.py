"""Tokenizers and text encoders of a pretrained model."""

import bisect
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ztsnr.core.errors import ConfigError
from ztsnr.devices.processes import device_of
from ztsnr.models.pretrained import find_source
from ztsnr.models.source import Source

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

WINDOW = 75
"""Tokens that a text encoder reads at a time, without the marker at each end."""
ENCODE_BATCH = 16
"""Prompts in a batch of the text encoders."""


class Tokenizers:
    """SDXL's two, which differ in their padding, or Stable Diffusion 1.5's one."""

    def __init__(self, source: Source) -> None:
        names = [part.replace("text_encoder", "tokenizer") for part in source.text_encoders]
        self.all = [source.tokenizer(name) for name in names]

    def windows(self, prompts: list[str]) -> int:
        """How many windows of 75 tokens the longest of these prompts needs, at least 1."""
        longest = max(len(ids) for ids in self._ids(self.all[0], prompts))
        return max(1, -(-longest // WINDOW))

    def tokens(self, prompts: list[str], windows: int) -> Tensor:
        """(N, tokenizers, windows, 77): each window with its markers, padded.

        Raises ConfigError for a prompt that needs more windows.
        """
        rows = [torch.tensor(self._rows(tokenizer, prompts, windows)) for tokenizer in self.all]
        return torch.stack(rows).transpose(0, 1)

    def cut(self, text: str, windows: int) -> str:
        """The text without the last words that exceed the windows."""
        if self.windows([text]) <= windows:
            return text
        words = text.split()
        fits = bisect.bisect(range(1, len(words)), windows, key=lambda n: self.windows([" ".join(words[:n])]))
        return " ".join(words[:fits])

    @property
    def identity(self) -> tuple:
        """What tokens depend on."""
        return tuple((sorted(t.get_vocab().items()), t.pad_token_id) for t in self.all)

    def _ids(self, tokenizer: "CLIPTokenizer", prompts: list[str]) -> list[list[int]]:
        encoding = tokenizer(prompts, add_special_tokens=False, verbose=False)
        return cast("list[list[int]]", encoding["input_ids"])

    def _rows(self, tokenizer: "CLIPTokenizer", prompts: list[str], windows: int) -> list[list[list[int]]]:
        rows = []
        for ids in self._ids(tokenizer, prompts):
            if len(ids) > WINDOW * windows:
                raise ConfigError(f"a prompt of {len(ids)} tokens is longer than {windows} windows of {WINDOW}")
            row = []
            for start in range(0, WINDOW * windows, WINDOW):
                framed = [tokenizer.bos_token_id, *ids[start : start + WINDOW], tokenizer.eos_token_id]
                padding = [tokenizer.pad_token_id] * (WINDOW + 2 - len(framed))
                row.append(framed + padding)
            rows.append(row)
        return rows


class TextEncoders(nn.Module):
    """Text encoders of a model of the family: in float32, in eval mode, frozen."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.tokenizers = Tokenizers(source)
        self.parts = nn.ModuleDict({part: source.network(part) for part in source.text_encoders})
        self.requires_grad_(False).eval()

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """tokens (N, encoders, windows, 77) -> `text` (N, 77 * windows, width) and, for SDXL, `pooled` (N, width).

        SDXL's text is both encoders' penultimate states side by side, and pooled the second's projection of the first
        window; 1.5's text is its last state, normalised.
        """
        is_sdxl = len(self.parts) > 1
        windows = tokens.shape[2]
        states, pooled = [], {}
        for ids, encoder in zip(tokens.unbind(1), self.parts.values(), strict=True):
            output = encoder(ids.flatten(0, 1), output_hidden_states=True)
            state = output.hidden_states[-2] if is_sdxl else output.last_hidden_state
            states.append(state.unflatten(0, (-1, windows)).flatten(1, 2))
            if is_sdxl and len(states) == len(self.parts):
                pooled["pooled"] = output.text_embeds.unflatten(0, (-1, windows))[:, 0]
        return {"text": torch.cat(states, -1), **pooled}

    @torch.no_grad()
    def encode(self, prompts: list[str], windows: int | None = None) -> dict[str, Tensor]:
        """Embeddings of prompts, padded to `windows`; None uses the number that the longest prompt needs."""
        tokens = self.tokenizers.tokens(prompts, windows or self.tokenizers.windows(prompts)).to(self.device)
        batches = [self(batch) for batch in tokens.split(ENCODE_BATCH)]
        return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}

    @property
    def device(self) -> torch.device:
        return device_of(self)

    def freeze_unused(self) -> None:
        """Freezes the last layer of SDXL's first encoder: SDXL uses the state before it, so it has no gradient."""
        if len(self.parts) > 1:
            first = self.parts["text_encoder"]
            model = cast("Any", getattr(first, "text_model", first))  # transformers before 5 wraps it
            for unused in (model.encoder.layers[-1], model.final_layer_norm):
                unused.requires_grad_(False)


def load_text_encoders(pretrained: str) -> TextEncoders:
    """Raises CheckpointError."""
    return TextEncoders(find_source(pretrained))
