"""Places the options' sample grids side by side."""

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
    """The sample grid of each option's first run, at the highest guidance scale that all have; None if there is none.

    folder: where the grids are downloaded to.
    """
    run_ids = {entry.option.name: entry.option.finished[0].id for entry in ranked}
    files = [experiment.files(run_id) for run_id in run_ids.values()]
    common = [name for name in set.intersection(*files) if name.startswith(GRID_PREFIX)]
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
    """Images side by side, each below its name."""
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
        left = GAP + column * width
        top = GAP + row * height
        draw.text((left, top), name, "black", font)
        page.paste(image, (left, top + TITLE_HEIGHT))
    return page
