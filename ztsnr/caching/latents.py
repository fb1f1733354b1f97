"""Encodes views of images with the VAE."""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ztsnr.caching.buckets import USED, Plan
from ztsnr.caching.catalogue import CatalogueEntry
from ztsnr.caching.decode import Background, View, decode
from ztsnr.caching.settings import CacheSettings, Encoding
from ztsnr.caching.shards import Keys, KeyText, ShardStore, hashed, key_text
from ztsnr.core.errors import BadImage, CacheError
from ztsnr.core.randomness import generator
from ztsnr.devices.processes import local_device
from ztsnr.io.console import Progress
from ztsnr.models.source import Source

SHARD_BYTES = 2**27
"""Approximate size of a shard: a killed process loses at most this much work."""


@dataclass(frozen=True, slots=True)
class EncodeRequest:
    """A view of an image, or of its mask, to encode."""

    image: CatalogueEntry
    view: View
    key: bytes
    group: str
    """The view's size, the same for all rows of a shard."""


@dataclass(frozen=True)
class EncodedViews:
    requests: list[list[EncodeRequest]]
    """The views of each image; none for an excluded image."""
    known: Keys


def encode_latents(
    images: list[CatalogueEntry],
    plan: Plan,
    settings: CacheSettings,
    model: Source,
    weights: str,
    *,
    progress: Progress,
) -> EncodedViews:
    """Fills the cache with the latents of all views of the images that the plan uses. Raises CacheError.

    `weights` is the fingerprint of the model's VAE.
    """
    encoder = LatentEncoder(model, settings.encoding, settings.background, settings.workers)
    requests = [views_of_image(number, image, plan, settings, weights) for number, image in enumerate(images)]
    entries = {request.key: request for views in requests for request in views}

    latent_bytes = 16 * np.prod(plan.sizes, axis=1).max(initial=1) // 64  # of float32, at most
    shard_size = max(1, int(SHARD_BYTES // latent_bytes))
    known = ShardStore(Path(settings.cache), encoder.kind).fill(entries, encoder, shard_size, progress)
    return EncodedViews(requests, known)


def views_of_image(
    number: int, image: CatalogueEntry, plan: Plan, settings: CacheSettings, weights: str
) -> list[EncodeRequest]:
    if plan.fate[number] != USED:
        return []
    requests = []
    for crop in range(settings.crops):
        # The first crop is the centre; the image's digest chooses the others.
        position = (0.5, 0.5)
        if crop > 0:
            down, right = torch.rand(2, generator=generator(0, f"crop {image.digest.hex()}", crop)).tolist()
            position = down, right
        for flip in (False, True) if settings.flip else (False,):
            view = plan.view(number, image.size, position, flip)
            encoding = encoding_key(settings.encoding, view.size)
            key = hashed("latent", image.digest, view_key(view), settings.background, encoding, weights)
            requests.append(EncodeRequest(image, view, key, "{}x{}".format(*view.size)))
    return requests


def encoding_key(encoding: Encoding, size: tuple[int, int]) -> tuple:
    """The settings that a latent of this size depends on."""
    tile = encoding.tile if encoding.tile and max(size) > encoding.tile else None
    return encoding.kind, encoding.precision, encoding.dtype, tile


def view_key(view: View) -> KeyText:
    return key_text("View", resized=view.resized, crop=view.crop, size=view.size, flip=view.flip)


class LatentEncoder:
    """Requests of one bucket -> {"latent" (N, C, h, w), "mean" (N, C), "distance" (N, C)}.

    Mean and distance are the moments of each, of what training will see of it.
    """

    kind = label = "latents"
    unit = "images"

    def __init__(self, model: Source, encoding: Encoding, background: Background, workers: int) -> None:
        self.model = model
        self.encoding = encoding
        self.background = background
        self.batch_size = encoding.batch_size
        self.pool = ThreadPoolExecutor(workers)
        self.pending: dict[bytes, Future[np.ndarray]] = {}
        """Pixels of the next requests, by key."""

    @cached_property
    def vae(self) -> Any:
        """Loads the model only if the cache lacks a latent."""
        vae = cast("Any", self.model.vae())  # of its tiling, diffusers declares no types
        vae.to(local_device())
        if self.encoding.tile:
            vae.enable_tiling()
            vae.tile_sample_min_size = self.encoding.tile
            vae.tile_latent_min_size = self.encoding.tile // 2 ** (len(vae.config.block_out_channels) - 1)
        return vae

    def encode(self, batch: list[EncodeRequest], upcoming: list[EncodeRequest]) -> dict[str, Tensor]:
        for request in (*batch, *upcoming):
            if request.key not in self.pending:
                self.pending[request.key] = self.pool.submit(self.pixels, request)
        pixels = torch.from_numpy(np.stack([self.pending[request.key].result() for request in batch]))
        encoded = self._encode(pixels, batch)
        for request in batch:
            del self.pending[request.key]
        return encoded

    def pixels(self, request: EncodeRequest) -> np.ndarray:
        """(h, w, 3) uint8. Raises CacheError."""
        file = request.image.file
        try:
            return decode(file.read_verified(request.image.digest), request.view, self.background)
        except BadImage as error:
            raise CacheError(f"{file.name}: {error}") from error

    @torch.no_grad()
    def _encode(self, pixels: Tensor, requests: list[EncodeRequest]) -> dict[str, Tensor]:
        """pixels (N, h, w, 3) uint8."""
        x = pixels.to(self.vae.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        posterior = self.posterior(x, self.encoding.precision)
        is_finite = all_finite(posterior)
        if not is_finite.all():
            posterior[~is_finite] = self.posterior(x[~is_finite], "float32")

        # the stored latent
        mean, logvar = posterior.chunk(2, 1)
        variance = logvar.exp()
        if self.encoding.kind == "draw":
            noise = []
            for request in requests:
                source = generator(0, f"latent {request.key.hex()}")
                noise.append(torch.randn(mean.shape[1:], generator=source))
            mean = mean + variance.sqrt() * torch.stack(noise).to(mean)
        latent = posterior if self.encoding.kind == "distribution" else mean
        stored = latent.to(getattr(torch, self.encoding.dtype)).cpu()
        self._require_finite(stored, requests)

        # the moments of the latents in training
        means, distances = moments_of(mean)
        if self.encoding.kind == "distribution":
            distances = distances + variance.double().flatten(2).sum(2)
        return {"latent": stored, "mean": means.cpu(), "distance": distances.cpu()}

    def _require_finite(self, stored: Tensor, requests: list[EncodeRequest]) -> None:
        is_finite = all_finite(stored).tolist()
        names = [request.image.file.name for request, finite in zip(requests, is_finite, strict=True) if not finite]
        if names:
            dtype = self.encoding.dtype
            raise CacheError(
                f"The VAE produced non-finite latents in {dtype} for {', '.join(names)}. "
                f"Remove these files{', or use data.encoding.dtype=float32' if dtype == 'float16' else ''}."
            )

    def posterior(self, x: Tensor, precision: str) -> Tensor:
        """x (N, 3, H, W) in [-1, 1] -> mean and log-variance, (N, 2C, h, w) float32."""
        is_low = precision == "bfloat16"
        with torch.autocast(self.vae.device.type, torch.bfloat16) if is_low else nullcontext():
            distribution = self.vae.encode(x).latent_dist
        return torch.cat([distribution.mean, distribution.logvar], 1).float()


def moments_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (N, C, ...) -> mean and sum of squared distances of each channel, both (N, C) float64."""
    flat = x.double().flatten(2)
    mean = flat.mean(2)
    return mean, (flat - mean[..., None]).square().sum(2)


def all_finite(x: Tensor) -> Tensor:
    """(N,) bool: whether all values of an entry are finite."""
    return torch.isfinite(x).flatten(1).all(1)
