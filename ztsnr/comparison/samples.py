"""The options' sample grids side by side."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ztsnr.comparison.ranking import RankedOption
from ztsnr.tracking.experiment import Experiment

GRID_PREFIX = "samples_guidance_"
IMAGES_PER_ROW = 3
GAP = 16
"""Pixels between grids."""
TITLE_HEIGHT = 30


def read_samples(ranked: Sequence[RankedOption], experiment: Experiment, folder: Path) -> Image.Image | None:
    """Of each option its first run's grid at the highest guidance scale that all have; None where there is none.

    The grids are downloaded into `folder`.
    """
    run_ids = {entry.option.name: entry.option.finished[0].id for entry in ranked}
    grids = []
    for run_id in run_ids.values():
        grids.append({name for name in experiment.files(run_id) if name.startswith(GRID_PREFIX)})
    common = set.intersection(*grids)
    if not common:
        return None

    grid = max(common, key=lambda name: float(Path(name).stem.removeprefix(GRID_PREFIX)))
    paths = {}
    for name, run_id in run_ids.items():
        path = experiment.download(run_id, grid, folder)
        if path is not None:
            paths[name] = path
    return tile(paths)


def tile(paths: Mapping[str, Path]) -> Image.Image:
    """Images side by side under their names."""
    images = {name: Image.open(path).convert("RGB") for name, path in paths.items()}
    width = max(image.width for image in images.values()) + GAP
    height = max(image.height for image in images.values()) + TITLE_HEIGHT + GAP
    columns = min(IMAGES_PER_ROW, len(images))
    rows = math.ceil(len(images) / IMAGES_PER_ROW)

    page = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(18)
    for index, (name, image) in enumerate(images.items()):
        row, column = divmod(index, IMAGES_PER_ROW)
        left, top = GAP + column * width, GAP + row * height
        draw.text((left, top), name, "black", font)
        page.paste(image, (left, top + TITLE_HEIGHT))
    return page
