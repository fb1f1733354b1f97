"""Aspect-ratio buckets: which sizes there are, and which picture goes to which of them and how."""

import math
from dataclasses import dataclass

import numpy as np

from ztsnr.caching.decode import View
from ztsnr.caching.keys import KeyText, key_text
from ztsnr.core import checks
from ztsnr.core.errors import ConfigError

USED, TOO_SMALL, TOO_LONG = range(3)
"""What becomes of a picture."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of a list, (height, width) in pixels, multiples of `step`."""

    step: int
    sizes: tuple[tuple[int, int], ...]

    def __post_init__(self):
        checks.integer("data.sizes.step", self.step, at_least=1)
        for size in self.sizes:
            if len(size) != 2 or any(side < 1 or side % self.step for side in size):
                raise ConfigError(f"data.sizes.sizes must be pairs of multiples of {self.step}, got {size!r}")

    @property
    def key_text(self) -> KeyText:
        return key_text("Sizes", step=self.step, sizes=self.sizes)

    def all(self) -> list[tuple[int, int]]:
        """Every size once, from the tallest to the widest."""
        return sorted({tuple(size) for size in self.sizes}, key=lambda size: (size[1] / size[0], size[1]))


@dataclass(frozen=True, kw_only=True)
class AutoSizes:
    """For each width the tallest size whose area is no more than resolution², up to an aspect of `max_aspect`."""

    step: int
    resolution: int
    max_aspect: float

    def __post_init__(self):
        checks.integer("data.sizes.step", self.step, at_least=1)
        checks.integer("data.sizes.resolution", self.resolution, at_least=self.step)
        checks.finite("data.sizes.max_aspect", self.max_aspect, at_least=1)

    @property
    def key_text(self) -> KeyText:
        return key_text("AutoSizes", step=self.step, resolution=self.resolution, max_aspect=self.max_aspect)

    def all(self) -> list[tuple[int, int]]:
        area, step = self.resolution**2, self.step
        tallest = [(area // width // step * step, width) for width in range(step, area // step + 1, step)]
        found = {size for size in tallest if max(size) <= min(size) * self.max_aspect}
        return sorted(found | {size[::-1] for size in found}, key=lambda size: (size[1] / size[0], size[1]))


@dataclass(frozen=True)
class Plan:
    """Every picture's bucket and fate; arrays are parallel to the pictures that were given."""

    sizes: np.ndarray
    """(K, 2) int64: the buckets that have a picture, height and width."""
    bucket: np.ndarray
    """(N,) int64, of `sizes`; -1 for what is left out."""
    fate: np.ndarray
    """(N,) int64: USED, ..."""
    upscaled: np.ndarray
    """(N,) float64: how much larger it is shown than it is."""
    cropped: np.ndarray
    """(N,) float64 in [0, 1): the share of it that is not shown."""
    merged: np.ndarray
    """(N,) bool: its own bucket was too small for a batch."""

    def view(self, picture: int, size: tuple[int, int], place: tuple[float, float], flip: bool) -> View:
        """How a picture of this size is shown; `place`, in [0, 1), says where the kept part lies: 0.5 is the middle."""
        target = tuple(map(int, self.sizes[self.bucket[picture]]))
        scale = max(target[0] / size[0], target[1] / size[1])
        resized = tuple(max(wanted, round(side * scale)) for side, wanted in zip(size, target, strict=True))
        spare = (resized[0] - target[0] + 1, resized[1] - target[1] + 1)
        return View(resized, (int(spare[0] * place[0]), int(spare[1] * place[1])), target, flip)


def plan(
    pictures: np.ndarray,
    counts: np.ndarray,
    sizes: list[tuple[int, int]],
    *,
    max_aspect: float,
    max_upscale: float,
    least: int,
) -> Plan:
    """Places pictures (N, 2), height and width, each standing `counts` (N,) times in an epoch, in the nearest aspect.

    What is longer than `max_aspect` or smaller than 1 / max_upscale of its bucket is left out. Buckets with fewer than
    `least` samples are merged, the smallest first, each picture into the nearest bucket that is left.
    """
    targets = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    aspect = np.log(pictures[:, 1] / pictures[:, 0])
    bucket = nearest(aspect, targets, np.arange(len(targets)))
    fate = np.where(np.abs(aspect) > math.log(max_aspect) + 1e-9, TOO_LONG, USED)
    own, moved = bucket.copy(), fate == USED
    while True:
        fate[moved & (np.max(targets[bucket] / pictures, axis=1, initial=0) > max_upscale)] = TOO_SMALL
        used = fate == USED
        held = np.bincount(bucket[used], counts[used], len(targets))
        left = np.flatnonzero(held)
        smallest = min(left, key=lambda k: (held[k], k), default=None)
        if smallest is None or held[smallest] >= least or len(left) == 1:
            return _finished(pictures, targets, bucket, fate, own)
        moved = used & (bucket == smallest)
        bucket[moved] = nearest(aspect[moved], targets, left[left != smallest])


def nearest(aspect: np.ndarray, targets: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The bucket, of `among`, whose logarithm of width / height is nearest; the larger of those that are as near."""
    order = among[np.lexsort((-targets[among].prod(1), np.log(targets[among, 1] / targets[among, 0])))]
    levels = np.log(targets[order, 1] / targets[order, 0])
    keep = np.append(True, np.diff(levels) > 1e-12)
    order, levels = order[keep], levels[keep]
    return order[np.searchsorted((levels[1:] + levels[:-1]) / 2, aspect)]


def _finished(pictures, targets, bucket, fate, own) -> Plan:
    """With the buckets that nothing is in left out, and what happens to each picture."""
    used = fate == USED
    kept = np.unique(bucket[used])
    number = np.full(len(targets) + 1, -1)
    number[kept] = np.arange(len(kept))
    scale = np.max(targets[bucket] / pictures, axis=1, initial=0)
    shown = targets[bucket].prod(1) / (pictures.prod(1) * scale**2)
    merged = used & (bucket != own)
    return Plan(targets[kept], np.where(used, number[bucket], -1), fate, scale, 1 - np.minimum(shown, 1), merged)
