"""Work in parts as large as the memory lets them be."""

from collections.abc import Callable

import torch
from torch import Tensor

from ztsnr.core.errors import CacheError

GROW_AFTER = 16
"""Parts that went well after which a size that was halved is doubled again."""


class Adaptive:
    """Parts of `largest` items, halved where the memory does not suffice, and grown back."""

    def __init__(self, largest: int):
        self.largest = self.size = largest
        self.well = 0

    def over(self, count: int, work: Callable[[range], dict[str, Tensor]]) -> dict[str, Tensor]:
        """work(range of items) -> tensors with as many rows; all of them together. Raises CacheError."""
        done, parts = 0, []
        while done < count:
            items = range(done, min(done + self.size, count))
            try:
                parts.append(work(items))
            except (torch.OutOfMemoryError, MemoryError):
                self._shrink(len(items))
            except RuntimeError as error:  # as torch has it on CPUs
                if "can't allocate memory" not in str(error):
                    raise
                self._shrink(len(items))
            else:
                done = items.stop
                self._went_well()
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _shrink(self, tried: int) -> None:
        if tried == 1:
            raise CacheError("The memory does not suffice for one picture. Set data.encoding.tile, such as 512.")
        self.size, self.well = tried // 2, 0
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _went_well(self) -> None:
        self.well += 1
        if self.well >= GROW_AFTER and self.size < self.largest:
            self.size, self.well = min(2 * self.size, self.largest), 0
