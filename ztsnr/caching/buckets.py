"""Aspect-ratio buckets: their sizes, the assignment of images, and each image's resize and crop."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from ztsnr.caching.decode import View
from ztsnr.caching.shards import KeyText, key_text
from ztsnr.core import checks
from ztsnr.core.checks import Bounds, Part, key
from ztsnr.core.errors import ConfigError

USED, TOO_SMALL, TOO_LONG = range(3)
"""An image's fate: trained, or excluded for one of two reasons."""
Size = tuple[int, int]
"""Height and width in pixels."""


def _aspect_then_width(size: Size) -> tuple[float, int]:
    return size[1] / size[0], size[1]


@dataclass(frozen=True, kw_only=True)
class Sizes(Part):
    """A list of sizes, (height, width) in pixels, multiples of `step`."""

    step: checks.Count
    sizes: list[tuple[int, int]]

    def __post_init__(self) -> None:
        super().__post_init__()
        for size in self.sizes:
            if any(side < 1 or side % self.step for side in size):
                raise ConfigError(f"{key('sizes')} must be pairs of multiples of {self.step}, got {size!r}")

    @property
    def key_text(self) -> KeyText:
        return key_text("Sizes", step=self.step, sizes=self.sizes)

    def all(self) -> list[Size]:
        """Every size once, from the tallest to the widest."""
        return sorted({(height, width) for height, width in self.sizes}, key=_aspect_then_width)


@dataclass(frozen=True, kw_only=True)
class AutoSizes(Part):
    """For each width, the tallest size with an area of at most resolution² and an aspect of at most `max_aspect`."""

    step: checks.Count
    resolution: checks.Count
    max_aspect: Annotated[float, Bounds(at_least=1)]

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.integer("resolution", self.resolution, at_least=self.step)

    @property
    def key_text(self) -> KeyText:
        return key_text("AutoSizes", step=self.step, resolution=self.resolution, max_aspect=self.max_aspect)

    def all(self) -> list[Size]:
        """Every size once, from the tallest to the widest."""
        area = self.resolution**2
        sizes = set()
        for width in range(self.step, area // self.step + 1, self.step):
            height = area // width // self.step * self.step
            if max(height, width) <= min(height, width) * self.max_aspect:
                sizes |= {(height, width), (width, height)}
        return sorted(sizes, key=_aspect_then_width)


@dataclass(frozen=True)
class Plan:
    """The bucket and fate of each image. All arrays but `sizes` have an entry for each image."""

    sizes: np.ndarray
    """(K, 2) int64: height and width of the buckets that have an image."""
    bucket: np.ndarray
    """(N,) int64: row in `sizes`; -1 for an excluded image."""
    fate: np.ndarray
    """(N,) int64: USED, TOO_SMALL or TOO_LONG."""
    upscaled: np.ndarray
    """(N,) float64: factor of the resize."""
    cropped: np.ndarray
    """(N,) float64 in [0, 1): share of the image that is cut off."""
    merged: np.ndarray
    """(N,) bool: its own bucket was too small for a batch."""

    def view(self, image: int, size: Size, position: tuple[float, float], flip: bool) -> View:
        """The view of an image of this size. `position` of the crop is in [0, 1): 0.5 is the centre."""
        height, width = self.sizes[self.bucket[image]].tolist()
        scale = max(height / size[0], width / size[1])
        resized = max(height, round(size[0] * scale)), max(width, round(size[1] * scale))
        top = int((resized[0] - height + 1) * position[0])
        left = int((resized[1] - width + 1) * position[1])
        return View(resized, (top, left), (height, width), flip)


def make_plan(
    images: np.ndarray,
    counts: np.ndarray,
    sizes: list[Size],
    *,
    max_aspect: float,
    max_upscale: float,
    min_samples: int,
) -> Plan:
    """Assigns images (N, 2), height and width, each `counts` (N,) times in an epoch, to the size of nearest aspect.

    What is longer than `max_aspect` or smaller than 1 / max_upscale of its bucket is left out. Buckets with fewer than
    `min_samples` samples are merged, the smallest first, each image into the nearest bucket that is left.
    """
    targets = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    aspect = np.log(images[:, 1] / images[:, 0])
    bucket = nearest(aspect, targets, np.arange(len(targets)))
    fate = np.where(np.abs(aspect) > math.log(max_aspect) + 1e-9, TOO_LONG, USED)
    own = bucket.copy()
    moved = fate == USED
    while True:
        fate[moved & (np.max(targets[bucket] / images, axis=1, initial=0) > max_upscale)] = TOO_SMALL
        used = fate == USED
        samples = np.bincount(bucket[used], counts[used], len(targets))
        left = np.flatnonzero(samples)
        smallest = min(left, key=lambda k: (samples[k], k), default=None)
        if smallest is None or samples[smallest] >= min_samples or len(left) == 1:
            return _without_empty_buckets(images, targets, bucket, fate, own)

        # merge it
        moved = used & (bucket == smallest)
        bucket[moved] = nearest(aspect[moved], targets, left[left != smallest])


def nearest(aspect: np.ndarray, targets: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The bucket in `among` with the nearest logarithm of width / height. In a tie, the largest."""
    order = among[np.lexsort((-targets[among].prod(1), np.log(targets[among, 1] / targets[among, 0])))]
    levels = np.log(targets[order, 1] / targets[order, 0])
    keep = np.append(True, np.diff(levels) > 1e-12)
    order, levels = order[keep], levels[keep]
    return order[np.searchsorted((levels[1:] + levels[:-1]) / 2, aspect)]


def _without_empty_buckets(
    images: np.ndarray, targets: np.ndarray, bucket: np.ndarray, fate: np.ndarray, own: np.ndarray
) -> Plan:
    used = fate == USED
    nonempty = np.unique(bucket[used])
    number = np.full(len(targets) + 1, -1)
    number[nonempty] = np.arange(len(nonempty))
    scale = np.max(targets[bucket] / images, axis=1, initial=0)
    visible = targets[bucket].prod(1) / (images.prod(1) * scale**2)
    return Plan(
        sizes=targets[nonempty],
        bucket=np.where(used, number[bucket], -1),
        fate=fate,
        upscaled=scale,
        cropped=1 - np.minimum(visible, 1),
        merged=used & (bucket != own),
    )
