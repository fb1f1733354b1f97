"""Data sets: images as x0 in [-1, 1], and what is known of them as conditions."""

from collections.abc import Iterator, Mapping, Sized
from inspect import getattr_static
from pathlib import Path
from typing import Any, Protocol, Self

from ztsnr.core.errors import ConfigError
from ztsnr.data.batches import Batch, HeldOutBatch
from ztsnr.data.labelled import Digits, LabelledImages, Mnist, Split

__all__ = ["Batch", "Data", "Digits", "HeldOutBatch", "LabelledImages", "Mnist", "Split", "prepare"]


class Data(Protocol):
    """What a trainer and a validation ask of a data set. `cond` are the network's conditions, each (B, ...)."""

    def prepare(self) -> None:
        """Does the work that takes time, before anything below is asked for: reads, downloads, encodes.

        Raises ConfigError where there is nothing to train on.
        """
        ...

    @property
    def train(self) -> Sized:
        """The samples of an epoch."""
        ...

    @property
    def facts(self) -> dict:
        """What decoding x0 needs to know."""
        ...

    def with_statistics_from(self, state_facts: Mapping[str, Any]) -> Self:
        """The data of a run that resumes from a state with these facts: x0 keeps its scale. Asked before `prepare`."""
        ...

    def batch_sizes(self, batch_size: int) -> set[int]:
        """All that `size` may return."""
        ...

    def size(self, step: int, batch_size: int) -> int:
        """Samples in this step's whole batch: `batch_size`, unless the step's bucket has a size of its own."""
        ...

    def batch(self, step: int, rows: range, batch_size: int) -> Batch:
        """These rows of the step's batch, whose size `batch_size` is: x0 (len(rows), C, H, W) and cond.

        All rows of a step have one shape. Among the conditions, a `weight` (len(rows),) multiplies their losses, and a
        `mask` (len(rows), 1, H, W) in [0, 1] their distances, element by element.
        """
        ...

    def held_out_batches(self, samples: int, batch_size: int) -> Iterator[HeldOutBatch]:
        """At most about `samples` held-out samples, always the same."""
        ...

    def write_report(self, folder: Path) -> list[Path]:
        """Files for the run's record."""
        ...


def prepare(data: Data) -> None:
    """data.prepare(), once it is known that `data` has all that a training asks of it. Raises ConfigError."""
    names = [name for name in vars(Data) if not name.startswith("_")]
    missing = [name for name in names if getattr_static(data, name, None) is None]
    if missing:
        raise ConfigError(f"data: {type(data).__name__} has no {', '.join(missing)}. See ztsnr.data.Data")
    data.prepare()
