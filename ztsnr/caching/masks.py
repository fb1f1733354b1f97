"""Masks of the images' views, at the resolution of latents."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ztsnr.caching.decode import MaskSource, decode_mask
from ztsnr.caching.latents import EncodedViews, EncodeRequest, view_key
from ztsnr.caching.settings import CacheSettings
from ztsnr.caching.shards import ShardStore, hashed
from ztsnr.core.errors import BadImage, CacheError
from ztsnr.io.console import Progress, Report
from ztsnr.models.pretrained import find_source

SHARD_MASKS = 4096


def encode_masks(latents: EncodedViews, settings: CacheSettings, progress: Progress) -> EncodedViews:
    """Fills the cache with a mask of each view. Raises CacheError."""
    config = find_source(settings.pretrained).config("vae")
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    requests = [[_mask_of(request, settings.masks, factor) for request in views] for views in latents.requests]
    wanted = {request.key: request for views in requests for request in views}

    encoder = MaskEncoder(settings.masks, factor, settings.worker_count)
    with progress.counting("masks", len(wanted), "images") as report:
        store = ShardStore(Path(settings.cache), "masks")
        known = store.fill(wanted, SHARD_MASKS, partial(encoder, report=report), partial(report, 0))
    return EncodedViews(requests, known)


def _mask_of(request: EncodeRequest, masks: MaskSource, factor: int) -> EncodeRequest:
    image, view = request.image, request.view
    if image.mask_digest:
        key = hashed("mask", factor, image.mask_digest, masks, view_key(view))
    else:
        key = hashed("mask", factor, view.size)
    return EncodeRequest(image, view, key)


class MaskEncoder:
    """encoder(requests) -> {"mask" (N, 1, h, w) uint8}, of views of one bucket; white where an image has no mask."""

    def __init__(self, masks: MaskSource, factor: int, workers: int) -> None:
        self.masks: MaskSource = masks
        self.factor = factor
        self.pool = ThreadPoolExecutor(workers)

    def __call__(self, requests: list[EncodeRequest], report: Report) -> dict[str, Tensor]:
        masks = []
        for mask in self.pool.map(self.encode, requests):
            masks.append(mask)
            report(1)
        return {"mask": torch.from_numpy(np.stack(masks))[:, None]}

    def encode(self, request: EncodeRequest) -> np.ndarray:
        """(h, w) uint8. Raises CacheError."""
        image = request.image
        file = image.file.mask_file(self.masks)
        if file is None or not image.mask_digest:
            return np.full([side // self.factor for side in request.view.size], 255, dtype=np.uint8)
        try:
            return decode_mask(file.read_verified(image.mask_digest), self.masks, request.view, self.factor)
        except BadImage as error:
            raise CacheError(f"{image.file.name}: its mask: {error}") from error
