"""Fills a cache from images on the disk: encodes only missing entries, then writes the index."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ztsnr.caching.buckets import USED, Plan, make_plan
from ztsnr.caching.catalogue import Catalogue, CatalogueEntry, ImageFile, build_catalogue
from ztsnr.caching.contents import IndexContents
from ztsnr.caching.latents import encode_latents
from ztsnr.caching.masks import encode_masks
from ztsnr.caching.report import first_lines, left_out_table, moments_report, plan_report, reasons
from ztsnr.caching.settings import CacheSettings
from ztsnr.caching.shards import ShardStore, write_shard
from ztsnr.caching.texts import encode_texts
from ztsnr.core.errors import ConfigError
from ztsnr.data.order import order_of
from ztsnr.devices.processes import is_main
from ztsnr.io.console import Progress, make_console
from ztsnr.models.pretrained import find_source


@dataclass(frozen=True, kw_only=True)
class ImageSource(CacheSettings):
    """A data set of captioned images; `prepare` fills its cache."""

    def listing(self) -> Iterator[ImageFile]:
        """Yields the images."""
        raise NotImplementedError

    def prepare(self) -> None:
        """With `refresh`, encodes what is missing and writes the index. Raises BadImage, CacheError, ConfigError."""
        if self.refresh:
            console = make_console(sys.stderr, quiet=not is_main())  # one process reports
            write_cache(self, Progress(console))
        object.__setattr__(self, "_is_prepared", True)
        if not self.refresh:
            _ = self.train  # raises CacheError where there is no index


def write_cache(source: ImageSource, progress: Progress) -> None:
    """Encodes all missing entries and writes the index. Raises BadImage, CacheError, ConfigError."""
    catalogue = inspect_images(source, progress)
    plan, held_out = plan_with_validation(catalogue, source)

    # the settings that the cache's entries depend on
    model = find_source(source.pretrained)
    vae_config = model.config("vae")
    text_encoders = model.text_encoders if source.train_text is None else ()
    vae_weights, *text_weights = [model.fingerprint(part) for part in ("vae", *text_encoders)]

    images = catalogue.images
    has_masks = any(image.mask_digest for image, fate in zip(images, plan.fate, strict=True) if fate == USED)
    latents = encode_latents(images, plan, source, model, vae_weights, progress=progress)
    masks = encode_masks(latents, source, vae_config, progress) if has_masks else None
    texts = encode_texts(images, plan, source, model, tuple(text_weights), progress=progress)

    contents = IndexContents(images, plan, held_out, latents, masks, texts)
    write_index(catalogue, contents, source, scaling_factor=float(vae_config["scaling_factor"]))


def inspect_images(source: ImageSource, progress: Progress) -> Catalogue:
    with progress.counting("files examined", unit="files") as report:
        return build_catalogue(
            source.listing(),
            masks=source.masks,
            database=Path(source.cache) / "pictures.db",
            workers=source.workers,
            stop_at_bad=source.on_bad == "stop",
            report=report,
        )


def plan_with_validation(catalogue: Catalogue, settings: CacheSettings) -> tuple[Plan, np.ndarray]:
    """The plan, and the held-out images, (N,) bool. Raises ConfigError if none is left to train on or to hold out."""
    if not catalogue.images:
        skipped = first_lines(catalogue.skipped)
        raise ConfigError(f"data.root={settings.root} contains no image that can be used.\n{skipped}")

    # numbers in [0, 1) that depend only on the contents
    fractions = np.array([int.from_bytes(image.digest[:8], "big") / 2**64 for image in catalogue.images])
    held_out = fractions < settings.held_out
    plan = plan_images(catalogue.images, held_out, settings)
    is_used = plan.fate == USED

    # with few images, none may fall below the share
    if settings.held_out * is_used.sum() >= 0.5 and not (is_used & held_out).any():
        held_out[np.where(is_used, fractions, np.inf).argmin()] = True
        plan = plan_images(catalogue.images, held_out, settings)
        is_used = plan.fate == USED

    if not (is_used & ~held_out).any():
        left = first_lines(reasons(catalogue, plan))
        raise ConfigError(f"data.root={settings.root} contains no image to train on: all are left out.\n{left}")
    if not (is_used & held_out).any():
        share = f"data.held_out={settings.held_out}"
        raise ConfigError(f"{share} leaves no validation image out of {is_used.sum()}. Increase it.")
    return plan, held_out


def plan_images(images: list[CatalogueEntry], held_out: np.ndarray, settings: CacheSettings) -> Plan:
    repeats = np.array([image.file.folder.repeats for image in images])
    return make_plan(
        np.array([image.size for image in images], dtype=np.int64),
        repeats * ~held_out,
        settings.sizes.all(),
        max_aspect=settings.max_aspect,
        max_upscale=settings.max_upscale,
        min_samples=settings.batch_size if settings.leftovers == "merge" else 1,
    )


def write_index(
    catalogue: Catalogue, contents: IndexContents, settings: CacheSettings, *, scaling_factor: float
) -> None:
    """Writes the index, and the list of excluded images beside it."""
    weights, rarity_report = sample_weights(contents, settings)
    facts = index_facts(catalogue, contents, settings, scaling_factor)
    facts["report"] += rarity_report
    left_out = left_out_table(catalogue, contents.plan)
    arrays = contents.arrays(weights)

    path = settings.index_path
    store = ShardStore(Path(settings.cache), path.parent.name)
    store.delete_unfinished()
    with store.lock(path.stem):
        write_shard(path, arrays, {"ztsnr.index": json.dumps(facts)})
        path.with_suffix(".left_out.tsv").write_text(left_out, encoding="utf-8")


def index_facts(
    catalogue: Catalogue, contents: IndexContents, settings: CacheSettings, scaling_factor: float
) -> dict[str, Any]:
    moments = contents.moments(Path(settings.cache))
    mean, std = moments.mean.tolist(), moments.std.tolist()
    pooled_mean, pooled_std = moments.pooled.mean.item(), moments.pooled.std.item()
    order = order_of(
        contents.plan.sizes,
        contents.counts[:, 0],
        batch_size=settings.batch_size,
        batch_size_step=settings.batch_size_step,
        leftovers=settings.leftovers,
        seed=settings.seed,
    )
    report = plan_report(catalogue, contents.plan, contents.counts, order)
    report += moments_report(mean, std, pooled_mean, pooled_std)
    return {
        "latents": contents.view_locations.paths,
        "masks": contents.mask_locations.paths,
        "texts": contents.text_locations.paths,
        "kind": settings.encoding.kind,
        "scaling_factor": scaling_factor,
        "mean": mean,
        "std": std,
        "std_of_all": pooled_std,
        "report": report,
    }


def sample_weights(contents: IndexContents, settings: CacheSettings) -> tuple[np.ndarray, str]:
    """The images' weights (N,) by folder and rarity of tags, and a report of them."""
    files = [image.file for image in contents.images]
    weights = np.array([file.folder.weight for file in files])
    if not settings.rarity.strength:
        return weights, ""

    tags = []
    for file in files:
        tags.append(frozenset(tag for caption in file.captions for tag in settings.captions.split(caption)))
    by_rarity, commonest = settings.rarity.weights(tags, contents.times)
    return weights * by_rarity, settings.rarity.report(commonest, by_rarity[contents.times > 0])
