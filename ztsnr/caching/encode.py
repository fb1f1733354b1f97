"""Pictures through the VAE, in batches as large as memory lets them be."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ztsnr.caching.adaptive import Adaptive
from ztsnr.caching.catalogue import Picture, unchanged
from ztsnr.caching.decode import View, decode
from ztsnr.caching.keys import KeyText, key_text
from ztsnr.caching.progress import Tell
from ztsnr.caching.statistics import all_finite, moments_of
from ztsnr.core import checks
from ztsnr.core.errors import BadPicture, CacheError
from ztsnr.core.randomness import generator

KINDS = ("mean", "draw", "distribution")


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture as it is to be encoded."""

    picture: Picture
    view: View
    key: bytes

    @property
    def group(self) -> str:
        return "{}x{}".format(*self.view.size)


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How pictures become latents. `kind`: the mean of what the VAE says, one draw from it, or mean and log-variance.

    `precision` is that in which the VAE computes; what is not finite in bfloat16 is done again in float32.
    Pictures with a side above `tile` pixels go through it in overlapping tiles. `batch_size` is the largest.
    """

    kind: str
    precision: str
    dtype: str
    tile: int | None
    batch_size: int

    def __post_init__(self):
        checks.one_of("data.encoding.kind", self.kind, KINDS)
        checks.one_of("data.encoding.precision", self.precision, ("float32", "bfloat16"))
        checks.one_of("data.encoding.dtype", self.dtype, ("float32", "float16", "bfloat16"))
        checks.integer("data.encoding.batch_size", self.batch_size, at_least=1)
        if self.tile is not None:
            checks.integer("data.encoding.tile", self.tile, at_least=64)

    @property
    def key_text(self) -> KeyText:
        return key_text(
            "Encoding",
            kind=self.kind,
            precision=self.precision,
            dtype=self.dtype,
            tile=self.tile,
            batch_size=self.batch_size,
        )

    def key(self, size: tuple[int, int]) -> tuple:
        """What a latent of this size depends on here."""
        return self.kind, self.precision, self.dtype, self.tile if self.tile and max(size) > self.tile else None


class LatentEncoder:
    """encoder(shown) -> {"latent" (N, C, h, w), "mean" (N, C), "distance" (N, C)}, of pictures of one bucket.

    Mean and distance are the moments of each, of what training will see of it.
    """

    def __init__(self, vae: torch.nn.Module, encoding: Encoding, background: tuple[int, int, int], workers: int):
        self.vae, self.encoding, self.background = vae.to(device()), encoding, background
        self.pool, self.parts = ThreadPoolExecutor(workers), Adaptive(encoding.batch_size)
        if encoding.tile:
            vae.enable_tiling()
            vae.tile_sample_min_size = encoding.tile
            vae.tile_latent_min_size = encoding.tile // 2 ** (len(vae.config.block_out_channels) - 1)

    def __call__(self, shown: list[Shown], tell: Tell = lambda more: None) -> dict[str, Tensor]:
        ready: dict[int, Future[np.ndarray]] = {}

        def work(items: range) -> dict[str, Tensor]:
            for i in range(items.start, min(items.stop + 2 * len(items), len(shown))):  # the next ones meanwhile
                if i not in ready:
                    ready[i] = self.pool.submit(self._pixels, shown[i])
            pixels = torch.from_numpy(np.stack([ready[i].result() for i in items]))
            encoded = self._encode(pixels, [shown[i] for i in items])
            for i in items:
                del ready[i]
            tell(len(items))
            return encoded

        return self.parts.over(len(shown), work)

    def _pixels(self, shown: Shown) -> np.ndarray:
        found = shown.picture.found
        try:
            return decode(unchanged(found, shown.picture.digest), shown.view, self.background)
        except BadPicture as error:
            raise CacheError(f"{found.name}: {error}") from error

    @torch.no_grad()
    def _encode(self, pixels: Tensor, shown: list[Shown]) -> dict[str, Tensor]:
        x = pixels.to(device()).permute(0, 3, 1, 2).float() / 127.5 - 1
        said = self._said(x, self.encoding.precision)
        if not (finite := all_finite(said)).all():
            said[~finite] = self._said(x[~finite], "float32")
        mean, logvar = said.chunk(2, 1)
        variance = logvar.exp()
        if self.encoding.kind == "draw":
            noise = [
                torch.randn(mean.shape[1:], generator=generator(0, f"latent {entry.key.hex()}")) for entry in shown
            ]
            mean = mean + variance.sqrt() * torch.stack(noise).to(mean)
        latent = said if self.encoding.kind == "distribution" else mean
        stored = latent.to(getattr(torch, self.encoding.dtype)).cpu()
        if not (finite := all_finite(stored)).all():
            names = ", ".join(entry.picture.found.name for entry, fine in zip(shown, finite, strict=True) if not fine)
            raise CacheError(f"The VAE's answer is not finite in {self.encoding.dtype} for {names}. Leave them out.")
        means, distances = moments_of(mean)
        if self.encoding.kind == "distribution":
            distances = distances + variance.double().flatten(2).sum(2)
        return {"latent": stored, "mean": means.cpu(), "distance": distances.cpu()}

    def _said(self, x: Tensor, precision: str) -> Tensor:
        """Mean and log-variance, (N, 2C, h, w) float32."""
        low = precision == "bfloat16"
        with torch.autocast(device().type, torch.bfloat16) if low else nullcontext():
            dist = self.vae.encode(x).latent_dist
        return torch.cat([dist.mean, dist.logvar], 1).float()


def device() -> torch.device:
    """Of several GPUs that torchrun shares out, this process's; without a GPU the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device("cpu")
