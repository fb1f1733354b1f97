"""Data sets: pictures as x0 in [-1, 1], and what is known of them as conditions."""

from collections.abc import Iterator, Mapping, Sized
from pathlib import Path
from typing import Protocol

from torch import Tensor

from ztsnr.data.labelled import Digits, LabelledImages, Mnist, Split

__all__ = ["Data", "Digits", "LabelledImages", "Mnist", "Split"]


class Data(Protocol):
    """What a trainer and a validation ask of a data set. `cond` are the network's conditions, each (B, ...)."""

    def prepare(self) -> None:
        """Does, before anything else is asked for, the work that takes time: reading, downloading, encoding.

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

    def with_statistics_from(self, state_facts: Mapping) -> "Data":
        """The data of a run that resumes from a state with these facts: x0 keeps its scale."""
        ...

    def batch_sizes(self, batch_size: int) -> set[int]:
        """All that `size` may return."""
        ...

    def size(self, step: int, batch_size: int) -> int:
        """Samples in this step's whole batch: `batch_size`, unless this bucket has a size of its own."""
        ...

    def batch(self, step: int, rows: range, batch_size: int) -> tuple[Tensor, dict[str, Tensor]]:
        """These rows of the step's batch, whose size `batch_size` is: x0 (len(rows), C, H, W) and cond.

        All rows of a step have one shape. Among the conditions, a `weight` (len(rows),) multiplies their losses, and a
        `mask` (len(rows), 1, H, W) in [0, 1] their distances, element by element.
        """
        ...

    def held_out_batches(self, samples: int, batch_size: int) -> Iterator[tuple[range, Tensor, dict[str, Tensor]]]:
        """At most about `samples` held-out samples, always the same: their numbers, x0 and cond."""
        ...

    def write_report(self, folder: Path) -> list[Path]:
        """Files for the run's record."""
        ...
