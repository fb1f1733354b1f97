"""Captions as they are trained: tags shuffled and dropped, wildcards chosen, prefix and suffix put around them."""

import re
from dataclasses import dataclass
from typing import Annotated

import torch

from ztsnr.core import checks
from ztsnr.core.checks import Bounds, Part
from ztsnr.core.randomness import generator

CHOICE = re.compile(r"\{([^{}]*\|[^{}]*)\}")
"""Of the alternatives a, b in {a|b}, innermost first, so that they nest."""


@dataclass(frozen=True, kw_only=True)
class Captions(Part):
    """`variants` of each caption are made, each with draws of its own, which an image's content and their number fix.

    In a caption with `keep_separator`, all tags before its first occurrence keep their place, as do the first
    `keep_tokens`. A dropped tag is one of the others. With `split_lines` each line is a caption of its own.
    """

    variants: checks.Count
    split_lines: bool
    separator: str
    shuffle: bool
    keep_tokens: checks.NonNegativeInt
    keep_separator: str | None
    tag_dropout: Annotated[float, Bounds(at_least=0, below=1)]
    prefix: str
    suffix: str

    def texts(self, captions: tuple[str, ...], trigger: str, digest: bytes) -> list[str]:
        """What an image is trained with, each text once; `trigger` comes after the prefix and before the tags.

        An image without a caption has the empty one. `digest` is of its content.
        """
        if self.split_lines:
            captions = tuple(line for caption in captions for line in caption.splitlines())
        cleaned = [" ".join(caption.split()) for caption in captions if caption.strip()] or [""]

        texts = []
        for number, caption in enumerate(cleaned):
            for variant in range(self.variants):
                source = generator(0, f"caption {digest.hex()}", number, variant)
                texts.append(self._text(caption, trigger, source))
        return list(dict.fromkeys(texts))

    def _text(self, caption: str, trigger: str, source: torch.Generator) -> str:
        while choice := CHOICE.search(caption):
            options = choice[1].split("|")
            chosen = options[int(torch.randint(len(options), (), generator=source))].strip()
            caption = caption[: choice.start()] + chosen + caption[choice.end() :]
        return self.prefix + self._join([trigger, *self.tags(caption, source)]) + self.suffix

    def tags(self, caption: str, source: torch.Generator) -> list[str]:
        """A caption's tags after shuffling and dropout; a caption that is left as it is, is its only tag."""
        if not (self.shuffle or self.tag_dropout or self.keep_separator):
            return [caption]
        kept, free = self._divide(caption)
        if self.shuffle:
            free = [free[i] for i in torch.randperm(len(free), generator=source)]
        draws = torch.rand(len(free), generator=source).tolist()
        return kept + [tag for tag, draw in zip(free, draws, strict=True) if draw >= self.tag_dropout]

    def _divide(self, caption: str) -> tuple[list[str], list[str]]:
        """Tags that keep their place, and the others."""
        kept: list[str] = []
        free = self.split(caption)
        if self.keep_separator and self.keep_separator in caption:
            before, _, after = caption.partition(self.keep_separator)
            kept, free = self.split(before), self.split(after)
        more = max(0, self.keep_tokens - len(kept))  # the tags before the separator count among keep_tokens
        return kept + free[:more], free[more:]

    def split(self, caption: str) -> list[str]:
        return [tag.strip() for tag in caption.split(self.separator.strip() or None) if tag.strip()]

    def _join(self, tags: list[str]) -> str:
        return self.separator.join(tag for tag in tags if tag)
