"""Captions as they are trained: tags shuffled and dropped, wildcards chosen, prefix and suffix put around them."""

import re
from dataclasses import dataclass

import torch

from ztsnr.caching.keys import KeyText, key_text
from ztsnr.core import checks
from ztsnr.core.randomness import generator

CHOICE = re.compile(r"\{([^{}]*\|[^{}]*)\}")
"""Of the alternatives a, b in {a|b}, innermost first, so that they nest."""


@dataclass(frozen=True, kw_only=True)
class Captions:
    """`variants` of each caption are made, each with draws of its own, which a picture's content and their number fix.

    Where `keep_separator` stands in a caption, all tags before its first occurrence keep their place, as do the first
    `keep_tokens`. A dropped tag is one of the others. With `split_lines` each line is a
    caption of its own.
    """

    variants: int
    split_lines: bool
    separator: str
    shuffle: bool
    keep_tokens: int
    keep_separator: str | None
    tag_dropout: float
    prefix: str
    suffix: str

    def __post_init__(self):
        checks.integer("data.captions.variants", self.variants, at_least=1)
        checks.integer("data.captions.keep_tokens", self.keep_tokens, at_least=0)
        checks.finite("data.captions.tag_dropout", self.tag_dropout, at_least=0, below=1)
        for name in ("split_lines", "shuffle"):
            checks.flag(f"data.captions.{name}", getattr(self, name))
        for name in ("separator", "prefix", "suffix"):
            checks.instance(f"data.captions.{name}", getattr(self, name), str)
        if self.keep_separator is not None:
            checks.instance("data.captions.keep_separator", self.keep_separator, str)

    @property
    def key_text(self) -> KeyText:
        return key_text(
            "Captions",
            variants=self.variants,
            lines=self.split_lines,
            separator=self.separator,
            shuffle=self.shuffle,
            keep_tokens=self.keep_tokens,
            keep_separator=self.keep_separator,
            tag_dropout=self.tag_dropout,
            prefix=self.prefix,
            suffix=self.suffix,
        )

    def texts(self, captions: tuple[str, ...], trigger: str, picture: bytes) -> list[str]:
        """What a picture is trained with, each text once; `trigger` comes after the prefix and before the tags.

        A picture without a caption has the empty one. `picture` is its content's digest.
        """
        given = [part for caption in captions for part in (caption.splitlines() if self.split_lines else [caption])]
        given = [" ".join(caption.split()) for caption in given if caption.strip()] or [""]
        made = [
            self._text(caption, trigger, generator(0, f"caption {picture.hex()}", number, variant))
            for number, caption in enumerate(given)
            for variant in range(self.variants)
        ]
        return list(dict.fromkeys(made))

    def _text(self, caption: str, trigger: str, source: torch.Generator) -> str:
        while choice := CHOICE.search(caption):
            options = choice[1].split("|")
            chosen = options[torch.randint(len(options), (), generator=source)].strip()
            caption = caption[: choice.start()] + chosen + caption[choice.end() :]
        return self.prefix + self._join([trigger, *self.tags(caption, source)]) + self.suffix

    def tags(self, caption: str, source: torch.Generator) -> list[str]:
        """A caption's tags after shuffling and dropout; a caption that is left as it is, is its one tag."""
        if not (self.shuffle or self.tag_dropout or self.keep_separator):
            return [caption]
        kept, free = self._divide(caption)
        if self.shuffle:
            free = [free[i] for i in torch.randperm(len(free), generator=source)]
        drawn = torch.rand(len(free), generator=source).tolist()
        return kept + [tag for tag, number in zip(free, drawn, strict=True) if number >= self.tag_dropout]

    def _divide(self, caption: str) -> tuple[list[str], list[str]]:
        """Tags that keep their place, and the others."""
        before, mark, after = caption.partition(self.keep_separator) if self.keep_separator else ("", "", caption)
        head, tail = (self.split(before), self.split(after)) if mark else ([], self.split(caption))
        more = max(0, self.keep_tokens - len(head))
        return head + tail[:more], tail[more:]

    def split(self, caption: str) -> list[str]:
        return [tag.strip() for tag in caption.split(self.separator.strip() or None) if tag.strip()]

    def _join(self, tags: list[str]) -> str:
        return self.separator.join(tag for tag in tags if tag)
