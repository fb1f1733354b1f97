"""From pictures on the disk to an index: what is missing in the cache is encoded, nothing else."""

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ztsnr.caching.buckets import USED, Plan, plan
from ztsnr.caching.catalogue import Catalogue, Picture, catalogue, threads
from ztsnr.caching.contents import Contents
from ztsnr.caching.encode import LatentEncoder, Shown
from ztsnr.caching.keys import hashed
from ztsnr.caching.masks import MaskEncoder
from ztsnr.caching.plan_report import left_out, plan_report, reasons, some, tell_moments
from ztsnr.caching.progress import Progress
from ztsnr.caching.shards import Keys, Shelf
from ztsnr.caching.texts import Text, TextEncoder, Tokenized
from ztsnr.core.errors import ConfigError
from ztsnr.core.randomness import generator
from ztsnr.data.index import save_index
from ztsnr.models.pretrained import fingerprint, load_vae
from ztsnr.models.source import find_source
from ztsnr.models.text import TextEncoders, Tokenizers, encoders_of

if TYPE_CHECKING:
    from ztsnr.data.cached import CachedImages

SHARD_BYTES = 2**27
"""About the size of a shard, which is what a killed process has to do again."""


@dataclass(frozen=True)
class Preparation:
    data: "CachedImages"
    progress: Progress

    def run(self, path: Path) -> None:
        """Writes the index there. Raises BadPicture, CacheError, ConfigError."""
        data, found = self.data, self.examine()
        fractions = np.array([picture.fraction for picture in found.pictures])
        held_out = fractions < data.held_out
        if not found.pictures:
            raise ConfigError(f"data.root={data.root} holds no picture that can be used.\n{some(found.skipped)}")
        made = self.plan(found.pictures, held_out)
        used = made.fate == USED
        if data.held_out * used.sum() >= 0.5 and not (used & held_out).any():  # of few, chance may spare all
            held_out[np.where(used, fractions, np.inf).argmin()] = True
            made = self.plan(found.pictures, held_out)
            used = made.fate == USED
        if not (used & ~held_out).any():
            left = some(reasons(found, made))
            raise ConfigError(f"data.root={data.root} holds no picture to train on: all are left out.\n{left}")
        if not (used & held_out).any():
            raise ConfigError(f"data.held_out={data.held_out} holds out none of {used.sum()} pictures. Raise it.")
        views, latents = self.encode_latents(found.pictures, made)
        masks, cells = self.encode_masks(views)
        texts, said = self.encode_texts(found.pictures, made)
        known = latents | cells | said
        contents = Contents(found.pictures, made, held_out, views, masks, texts, self.text_key(""), known)
        weights, told = self.weights(contents)
        arrays, moments = contents.arrays(weights), contents.moments(data.cache_folder)
        order = data.order(arrays["sizes"].numpy(), arrays["counts"].numpy()[:, 0])
        facts = {
            "latents": contents.view_places.paths,
            "masks": contents.mask_places.paths,
            "texts": contents.text_places.paths,
            "kind": data.encoding.kind,
            "scaling_factor": float(find_source(data.pretrained).config("vae")["scaling_factor"]),
            "mean": moments.mean.tolist(),
            "std": moments.std.tolist(),
            "std_of_all": moments.pooled.std.item(),
            "report": plan_report(found, made, arrays["counts"].numpy(), order) + tell_moments(moments) + told,
        }
        shelf = Shelf(data.cache_folder, path.parent.name)
        shelf.sweep()
        with shelf.lock(path.stem):
            save_index(path, arrays, facts)
            path.with_suffix(".left_out.tsv").write_text(left_out(found, made), encoding="utf-8")

    def examine(self) -> Catalogue:
        data = self.data
        with self.progress.counting("files examined", unit="files") as tell:
            memory, stop = data.cache_folder / "pictures.db", data.on_bad == "stop"
            return catalogue(data.listing(), data.masks, memory, threads(data.workers), stop, tell)

    def plan(self, pictures: list[Picture], held_out: np.ndarray) -> Plan:
        data = self.data
        counts = np.array([picture.found.folder.repeats for picture in pictures]) * ~held_out
        return plan(
            np.array([picture.size for picture in pictures], dtype=np.int64),
            counts,
            data.sizes.all(),
            max_aspect=data.max_aspect,
            max_upscale=data.max_upscale,
            least=data.batch_size if data.leftovers == "merge" else 1,
        )

    def encode_latents(self, pictures: list[Picture], made: Plan) -> tuple[list[list[Shown]], Keys]:
        """Each picture's views, none of one that is left out, and where their latents are."""
        views = [self._views(i, picture, made) for i, picture in enumerate(pictures)]
        wanted = {shown.key: shown for several in views for shown in several}
        cells = 16 * np.prod(made.sizes, axis=1).max(initial=1) // 64  # of float32, at most
        with self.progress.counting("latents", len(wanted), "pictures") as tell:
            shelf, unit = Shelf(self.data.cache_folder, "latents"), max(1, int(SHARD_BYTES // cells))
            return views, shelf.fill(wanted, unit, lambda s: self.latent_encoder(s, tell), partial(tell, 0))

    def encode_masks(self, views: list[list[Shown]]) -> tuple[list[list[Shown]], Keys]:
        """Each view's mask, none of any if no picture has one, and where they are."""
        if not any(shown.picture.mask for several in views for shown in several):
            return [[] for _ in views], {}
        data, config = self.data, find_source(self.data.pretrained).config("vae")
        factor = 2 ** (len(config["block_out_channels"]) - 1)
        masks = [[self._mask(shown, factor) for shown in several] for several in views]
        wanted = {shown.key: shown for several in masks for shown in several}
        encoder = MaskEncoder(data.masks, factor, threads(data.workers))
        with self.progress.counting("masks", len(wanted), "pictures") as tell:
            shelf = Shelf(data.cache_folder, "masks")
            return masks, shelf.fill(wanted, 4096, lambda s: encoder(s, tell), partial(tell, 0))

    def encode_texts(self, pictures: list[Picture], made: Plan) -> tuple[list[list[bytes]], Keys]:
        """Keys of each picture's texts, and where what the encoders say of them is; the empty text is there too."""
        captions, parts = self.data.captions, zip(pictures, made.fate, strict=True)
        texts = [
            captions.texts(picture.found.captions, picture.found.folder.trigger, picture.digest) if fate == USED else []
            for picture, fate in parts
        ]
        wanted = {self.text_key(text): Text(text) for text in ["", *(text for several in texts for text in several)]}
        with self.progress.counting("texts", len(wanted), "texts") as tell:
            shelf = Shelf(self.data.cache_folder, "tokens" if self.data.trains_text else "texts")
            known = shelf.fill(wanted, 256, lambda t: self.text_encoder(t, tell), partial(tell, 0))
        return [[self.text_key(text) for text in several] for several in texts], known

    def weights(self, contents: Contents) -> tuple[np.ndarray, str]:
        """Each picture's, of its folder and its tags' rarity (N,), and what to tell of them."""
        found = [picture.found for picture in contents.pictures]
        own = np.array([entry.folder.weight for entry in found])
        rarity = self.data.rarity
        if not rarity.strength:
            return own, ""
        tags = [frozenset(tag for c in entry.captions for tag in self.data.captions.split(c)) for entry in found]
        rare, commonest = rarity.weights(tags, contents.times)
        return own * rare, rarity.tell(commonest, rare[contents.times > 0])

    def text_key(self, text: str) -> bytes:
        if self.data.trains_text:
            return hashed("tokens", text, self.data.text_windows, self._vocabulary)
        return hashed("text", text, self.data.text_windows, self.data.encoding.dtype, self._text_weights)

    def _views(self, number: int, picture: Picture, made: Plan) -> list[Shown]:
        if made.fate[number] != USED:
            return []
        data, shown = self.data, []
        for crop in range(data.crops):
            # The first shows the middle, the others are where the content's digest says.
            place = torch.rand(2, generator=generator(0, f"crop {picture.digest.hex()}", crop)).tolist()
            for flip in (False, True) if data.flip else (False,):
                view = made.view(number, picture.size, (0.5, 0.5) if crop == 0 else place, flip)
                depends = (
                    picture.digest,
                    view.key_text,
                    data.background,
                    data.encoding.key(view.size),
                    self._vae_weights,
                )
                shown.append(Shown(picture, view, hashed("latent", *depends)))
        return shown

    def _mask(self, shown: Shown, factor: int) -> Shown:
        picture, view = shown.picture, shown.view
        depends = (picture.mask, self.data.masks, view.key_text) if picture.mask else (view.size,)
        return Shown(picture, view, hashed("mask", factor, *depends))

    @cached_property
    def latent_encoder(self) -> LatentEncoder:
        data = self.data
        return LatentEncoder(load_vae(data.pretrained), data.encoding, data.background, threads(data.workers))

    @cached_property
    def text_encoder(self) -> TextEncoder | Tokenized:
        data = self.data
        if data.trains_text:
            return Tokenized(self._tokenizers, data.text_windows)
        return TextEncoder(TextEncoders(data.pretrained), data.text_windows, data.encoding.dtype, 64)

    @cached_property
    def _vae_weights(self) -> str:
        return fingerprint(self.data.pretrained, "vae")

    @cached_property
    def _text_weights(self) -> tuple[str, ...]:
        return tuple(fingerprint(self.data.pretrained, part) for part in encoders_of(find_source(self.data.pretrained)))

    @cached_property
    def _tokenizers(self) -> Tokenizers:
        return Tokenizers(find_source(self.data.pretrained))

    @cached_property
    def _vocabulary(self) -> str:
        return hashed(self._tokenizers.identity).hex()
