"""Masks of what is shown, at the resolution of latents."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ztsnr.caching.catalogue import unchanged
from ztsnr.caching.decode import decode_mask
from ztsnr.caching.encode import Shown
from ztsnr.caching.progress import Tell
from ztsnr.core.errors import BadPicture, CacheError


class MaskEncoder:
    """encoder(shown) -> {"mask" (N, 1, h, w) uint8}, of pictures of one bucket; white where a picture has no mask."""

    def __init__(self, masks: str, factor: int, workers: int):
        self.masks, self.factor, self.pool = masks, factor, ThreadPoolExecutor(workers)

    def __call__(self, shown: list[Shown], tell: Tell) -> dict[str, Tensor]:
        cells = []
        for mask in self.pool.map(self._cells, shown):
            cells.append(mask)
            tell(1)
        return {"mask": torch.from_numpy(np.stack(cells))[:, None]}

    def _cells(self, shown: Shown) -> np.ndarray:
        picture = shown.picture
        if not picture.mask:
            return np.full([side // self.factor for side in shown.view.size], 255, dtype=np.uint8)
        try:
            content = unchanged(picture.found.mask_file(self.masks), picture.mask)
            return decode_mask(content, self.masks, shown.view, self.factor)
        except BadPicture as error:
            raise CacheError(f"{picture.found.name}: its mask: {error}") from error
