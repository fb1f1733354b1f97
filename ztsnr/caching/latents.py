"""Images through the VAE, in batches as large as memory lets them be."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ztsnr.caching.buckets import USED, Plan
from ztsnr.caching.catalogue import CatalogueEntry
from ztsnr.caching.decode import Background, View, decode
from ztsnr.caching.settings import CacheSettings, Encoding
from ztsnr.caching.shards import Keys, KeyText, ShardStore, hashed, key_text
from ztsnr.caching.statistics import all_finite, moments_of
from ztsnr.core.errors import BadImage, CacheError
from ztsnr.core.randomness import generator
from ztsnr.devices.processes import local_device
from ztsnr.io.console import Progress, Report
from ztsnr.models.pretrained import find_source, load_vae

SHARD_BYTES = 2**27
"""About the size of a shard, which is what a killed process has to do again."""
GROW_AFTER = 16
"""Batches that fitted into memory after which a size that was halved is doubled again."""


@dataclass(frozen=True, slots=True)
class EncodeRequest:
    """A view of an image, or of its mask, that is to be encoded."""

    image: CatalogueEntry
    view: View
    key: bytes

    @property
    def group(self) -> str:
        return "{}x{}".format(*self.view.size)


@dataclass(frozen=True)
class EncodedViews:
    requests: list[list[EncodeRequest]]
    """Parallel to the images: each one's views; none of an image that is left out."""
    known: Keys

    @property
    def have_masks(self) -> bool:
        return any(request.image.mask_digest for views in self.requests for request in views)


def encode_latents(
    images: list[CatalogueEntry], plan: Plan, settings: CacheSettings, progress: Progress
) -> EncodedViews:
    """Fills the cache with the latents of all views of the images that the plan uses. Raises CacheError."""
    weights = find_source(settings.pretrained).fingerprint("vae")
    requests = [views_of_image(number, image, plan, settings, weights) for number, image in enumerate(images)]
    wanted = {request.key: request for views in requests for request in views}

    encoder: LatentEncoder | None = None

    def encode(requests: list[EncodeRequest]) -> dict[str, Tensor]:
        nonlocal encoder
        if encoder is None:  # where nothing is missing, no VAE is loaded
            vae = load_vae(settings.pretrained)
            encoder = LatentEncoder(vae, settings.encoding, settings.background, settings.worker_count)
        return encoder(requests, report)

    latent_bytes = 16 * np.prod(plan.sizes, axis=1).max(initial=1) // 64  # of float32, at most
    with progress.counting("latents", len(wanted), "images") as report:
        store = ShardStore(Path(settings.cache), "latents")
        known = store.fill(wanted, max(1, int(SHARD_BYTES // latent_bytes)), encode, partial(report, 0))
    return EncodedViews(requests, known)


def views_of_image(
    number: int, image: CatalogueEntry, plan: Plan, settings: CacheSettings, weights: str
) -> list[EncodeRequest]:
    if plan.fate[number] != USED:
        return []
    requests = []
    for crop in range(settings.crops):
        # The first shows the middle, the others are where the content's digest says.
        position = (0.5, 0.5)
        if crop > 0:
            down, right = torch.rand(2, generator=generator(0, f"crop {image.digest.hex()}", crop)).tolist()
            position = down, right
        for flip in (False, True) if settings.flip else (False,):
            view = plan.view(number, image.size, position, flip)
            encoding = settings.encoding.key_parts(view.size)
            key = hashed("latent", image.digest, view_key(view), settings.background, encoding, weights)
            requests.append(EncodeRequest(image, view, key))
    return requests


def view_key(view: View) -> KeyText:
    return key_text("View", resized=view.resized, crop=view.crop, size=view.size, flip=view.flip)


class LatentEncoder:
    """encoder(requests) -> {"latent" (N, C, h, w), "mean" (N, C), "distance" (N, C)}, of views of one bucket.

    Mean and distance are the moments of each, of what training will see of it.
    """

    def __init__(self, vae: torch.nn.Module, encoding: Encoding, background: Background, workers: int) -> None:
        self.vae: Any = vae.to(local_device())
        self.encoding = encoding
        self.background = background
        self.pool = ThreadPoolExecutor(workers)
        self.batches = AdaptiveBatches(encoding.batch_size)
        if encoding.tile:
            self.vae.enable_tiling()
            self.vae.tile_sample_min_size = encoding.tile
            self.vae.tile_latent_min_size = encoding.tile // 2 ** (len(self.vae.config.block_out_channels) - 1)

    def __call__(self, requests: list[EncodeRequest], report: Report = lambda more: None) -> dict[str, Tensor]:
        pending: dict[int, Future[np.ndarray]] = {}

        def encode(items: range) -> dict[str, Tensor]:
            for i in range(items.start, min(items.stop + 2 * len(items), len(requests))):  # and the next two batches
                if i not in pending:
                    pending[i] = self.pool.submit(self.pixels, requests[i])
            pixels = torch.from_numpy(np.stack([pending[i].result() for i in items]))
            encoded = self._encode(pixels, [requests[i] for i in items])
            for i in items:
                del pending[i]
            report(len(items))
            return encoded

        return self.batches.map(len(requests), encode)

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
        x = pixels.to(local_device()).permute(0, 3, 1, 2).float() / 127.5 - 1
        posterior = self.posterior(x, self.encoding.precision)
        is_finite = all_finite(posterior)
        if not is_finite.all():
            posterior[~is_finite] = self.posterior(x[~is_finite], "float32")

        # what is stored of the distribution
        mean, logvar = posterior.chunk(2, 1)
        variance = logvar.exp()
        if self.encoding.kind == "draw":
            noise = [torch.randn(mean.shape[1:], generator=_latent_generator(request)) for request in requests]
            mean = mean + variance.sqrt() * torch.stack(noise).to(mean)
        latent = posterior if self.encoding.kind == "distribution" else mean
        stored = latent.to(getattr(torch, self.encoding.dtype)).cpu()
        self._require_finite(stored, requests)

        # the moments of what training sees
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
        with torch.autocast(local_device().type, torch.bfloat16) if is_low else nullcontext():
            distribution = self.vae.encode(x).latent_dist
        return torch.cat([distribution.mean, distribution.logvar], 1).float()


def _latent_generator(request: EncodeRequest) -> torch.Generator:
    return generator(0, f"latent {request.key.hex()}")


class AdaptiveBatches:
    """Batches of at most `largest` items, halved where memory does not suffice, and grown back."""

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self.size = largest
        self.successes = 0

    def map(self, count: int, work: Callable[[range], dict[str, Tensor]]) -> dict[str, Tensor]:
        """work(range of items) -> tensors with as many rows; all of them together. Raises CacheError."""
        done = 0
        parts = []
        while done < count:
            items = range(done, min(done + self.size, count))
            try:
                parts.append(work(items))
            except (torch.OutOfMemoryError, MemoryError):
                self._shrink(len(items))
            except RuntimeError as error:
                if "can't allocate memory" not in str(error):  # torch has no class of its own for this on CPUs
                    raise
                self._shrink(len(items))
            else:
                done = items.stop
                self._succeeded()
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _shrink(self, tried: int) -> None:
        if tried == 1:
            raise CacheError("Out of memory for a single image. Set data.encoding.tile=512.")
        self.size = tried // 2
        self.successes = 0
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _succeeded(self) -> None:
        self.successes += 1
        if self.successes >= GROW_AFTER and self.size < self.largest:
            self.size = min(2 * self.size, self.largest)
            self.successes = 0
