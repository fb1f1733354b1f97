"""Small folders of captioned images, and the data set of conf/data/folder.yaml over them with the tiny SDXL."""

import sys
from functools import cache as once

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from tests.tiny import tiny_sdxl
from ztsnr.config.registry import build, compose
from ztsnr.io.console import Progress, make_console

SHAPES = [(64, 64), (80, 60), (64, 128), (100, 100), (60, 90), (128, 70)]
"""Height and width."""
QUIET = Progress(make_console(sys.stderr, quiet=True))
SMALL = ("data.sizes.resolution=64", "data.sizes.step=16", "trainer.batch_size=2", "data.held_out=0.25")


def image(number: int, shape: tuple[int, int]) -> Image.Image:
    """Smooth, and different for each number."""
    draw = np.random.default_rng(number)
    coarse = Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return coarse.resize(shape[::-1], Image.Resampling.BICUBIC)


def make_photos(folder, count: int = 16, start: int = 0):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        image(number, SHAPES[number % len(SHAPES)]).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(f"image, number {number}, small", encoding="utf-8")
    return folder


@once
def composed():
    """Composed once: that takes longer than most tests do with it."""
    return compose("data=folder", "data.root=later", "model=sdxl", "model.pretrained=later", *SMALL)


def make_data(root, cache, *overrides):
    paths = f"data.root={root}", f"data.cache={cache}", f"model.pretrained={tiny_sdxl()}"
    return build(OmegaConf.merge(composed(), OmegaConf.from_dotlist([*paths, *overrides])), "data")


def prepare_data(root, cache, *overrides):
    data = make_data(root, cache, *overrides)
    data.prepare()
    return data
