"""Data sets: images as x0, and the conditions of each: its class, or its caption and size."""

from collections.abc import Iterator, Mapping, Sized
from inspect import getattr_static
from pathlib import Path
from typing import Any, Protocol, Self

from ztsnr.core.errors import ConfigError
from ztsnr.data.batches import Batch, HeldOutBatch
from ztsnr.data.labelled import Digits, LabelledImages, Mnist, Split

__all__ = ["Batch", "Data", "Digits", "HeldOutBatch", "LabelledImages", "Mnist", "Split", "prepare"]


class Data(Protocol):
    """The interface of a data set for training and validation. `cond` are the network's conditions, each (B, ...)."""

    def prepare(self) -> None:
        """Does the slow work: reads, downloads, encodes. Call it before anything below.

        Raises ConfigError if there is nothing to train on.
        """
        ...

    @property
    def train(self) -> Sized:
        """The samples of an epoch."""
        ...

    @property
    def facts(self) -> dict:
        """Values that a checkpoint stores for decoding x0, such as the latents' scale."""
        ...

    def with_statistics_from(self, state_facts: Mapping[str, Any]) -> Self:
        """Returns the data of a run that resumes from a state with these facts: x0 keeps its scale.

        Call it before `prepare`.
        """
        ...

    def batch_sizes(self, batch_size: int) -> set[int]:
        """All values that `size` may return."""
        ...

    def size(self, step: int, batch_size: int) -> int:
        """Samples in this step's full batch: `batch_size`, unless the step's bucket has its own."""
        ...

    def batch(self, step: int, rows: range, batch_size: int) -> Batch:
        """Some rows of the step's full batch of `batch_size`: x0 (len(rows), C, H, W) and cond.

        All rows of a step have the same shape. A `weight` (len(rows),) in cond multiplies the losses, and a `mask`
        (len(rows), 1, H, W) in [0, 1] the distances, element by element.
        """
        ...

    def held_out_batches(self, samples: int, batch_size: int) -> Iterator[HeldOutBatch]:
        """Yields about `samples` held-out samples at most, the same in every call."""
        ...

    def write_report(self, folder: Path) -> list[Path]:
        """Writes files for the run's record and returns their paths."""
        ...


def prepare(data: Data) -> None:
    """Calls data.prepare(), after checking that `data` implements all of `Data`. Raises ConfigError."""
    names = [name for name in vars(Data) if not name.startswith("_")]
    missing = [name for name in names if getattr_static(data, name, None) is None]
    if missing:
        raise ConfigError(f"data: {type(data).__name__} has no {', '.join(missing)}. See ztsnr.data.Data")
    data.prepare()
