"""Captions for a network: what the text encoders say of them, or tokens for text encoders that are trained."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ztsnr.caching.adaptive import Adaptive
from ztsnr.caching.encode import device
from ztsnr.caching.progress import Tell
from ztsnr.models.text import TextEncoders, Tokenizers


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    group = "texts"


class TextEncoder:
    """encoder(texts) -> {"text" (N, L, W), ...}, each of so many windows of tokens, in the cache's dtype."""

    def __init__(self, encoders: TextEncoders, windows: int, dtype: str, batch_size: int):
        self.encoders, self.windows, self.dtype = encoders.to(device()), windows, getattr(torch, dtype)
        self.parts = Adaptive(batch_size)

    def __call__(self, texts: list[Text], tell: Tell = lambda more: None) -> dict[str, Tensor]:
        def work(items: range) -> dict[str, Tensor]:
            cut = [self.encoders.tokenizers.cut(texts[i].text, self.windows) for i in items]
            said = self.encoders.encode(cut, self.windows)
            tell(len(items))
            return {name: value.to(self.dtype).cpu() for name, value in said.items()}

        return self.parts.over(len(texts), work)


@dataclass(frozen=True)
class Tokenized:
    """tokenized(texts) -> {"tokens" (N, encoders, windows, 77)}."""

    tokenizers: Tokenizers
    windows: int

    def __call__(self, texts: list[Text], tell: Tell = lambda more: None) -> dict[str, Tensor]:
        cut = [self.tokenizers.cut(entry.text, self.windows) for entry in texts]
        tell(len(texts))
        return {"tokens": self.tokenizers.tokens(cut, self.windows).int().contiguous()}
