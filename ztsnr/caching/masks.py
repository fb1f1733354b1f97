"""Encodes the masks of the images' views, at the resolution of latents."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ztsnr.caching.decode import MaskSource, decode_mask
from ztsnr.caching.latents import EncodedViews, EncodeRequest, view_key
from ztsnr.caching.settings import CacheSettings
from ztsnr.caching.shards import ShardStore, hashed
from ztsnr.core.errors import BadImage, CacheError
from ztsnr.io.console import Progress

SHARD_MASKS = 4096


def encode_masks(
    latents: EncodedViews, settings: CacheSettings, vae_config: Mapping[str, Any], progress: Progress
) -> EncodedViews:
    """Fills the cache with a mask of each view. Raises CacheError."""
    factor = 2 ** (len(vae_config["block_out_channels"]) - 1)
    requests = [[_mask_of(request, settings.masks, factor) for request in views] for views in latents.requests]
    entries = {request.key: request for views in requests for request in views}

    encoder = MaskEncoder(settings.masks, factor, settings.workers)
    known = ShardStore(Path(settings.cache), encoder.kind).fill(entries, encoder, SHARD_MASKS, progress)
    return EncodedViews(requests, known)


def _mask_of(request: EncodeRequest, masks: MaskSource, factor: int) -> EncodeRequest:
    mask_digest = request.image.mask_digest
    if mask_digest:
        key = hashed("mask", factor, mask_digest, masks, view_key(request.view))
    else:
        key = hashed("mask", factor, request.view.size)
    return replace(request, key=key)


class MaskEncoder:
    """Requests of one bucket -> {"mask" (N, 1, h, w) uint8}; white where an image has no mask."""

    kind = label = "masks"
    unit = "images"
    batch_size = 64

    def __init__(self, masks: MaskSource, factor: int, workers: int) -> None:
        self.masks: MaskSource = masks
        self.factor = factor
        self.pool = ThreadPoolExecutor(workers)

    def encode(self, batch: list[EncodeRequest], upcoming: list[EncodeRequest]) -> dict[str, Tensor]:
        masks = list(self.pool.map(self.mask, batch))
        return {"mask": torch.from_numpy(np.stack(masks))[:, None]}

    def mask(self, request: EncodeRequest) -> np.ndarray:
        """(h, w) uint8. Raises CacheError."""
        image = request.image
        file = image.file.mask_file(self.masks)
        if file is None or not image.mask_digest:
            return np.full([side // self.factor for side in request.view.size], 255, dtype=np.uint8)
        try:
            return decode_mask(file.read_verified(image.mask_digest), self.masks, request.view, self.factor)
        except BadImage as error:
            raise CacheError(f"{image.file.name}: its mask: {error}") from error
