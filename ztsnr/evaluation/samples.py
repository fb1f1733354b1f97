"""Sample grids on the training schedule: a row for each class, a column for each noise."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from ztsnr.core.checks import Count, Fraction, NonEmpty, NonNegative, NonNegativeInt, Part
from ztsnr.core.objective import Objective
from ztsnr.core.randomness import normal
from ztsnr.core.sampling import Guidance, Sampler, guided_denoise
from ztsnr.data import Data, LabelledImages
from ztsnr.devices.processes import device_of

BACKGROUND = -0.6
"""Brightness between the tiles of a grid, in [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class SampleGrid(Part):
    """The images of a column share their noise and differ only in the class."""

    sampler: Sampler
    steps: Count
    guidances: Annotated[list[NonNegative], NonEmpty()]
    rescale: Fraction
    columns: Count
    seed: NonNegativeInt
    needs_classes: ClassVar[bool] = True

    def __call__(self, objective: Objective, network: nn.Module, data: LabelledImages) -> dict[float, Image.Image]:
        """Guidance scale -> grid. Needs no_grad and eval mode."""
        classes = torch.arange(data.classes)
        sheets = {}
        for scale in self.guidances:
            images = self.sample(
                objective, network, data.shape, classes=classes, null_label=data.null_label, scale=scale
            )
            sheets[scale] = tile_images(images, self.columns)
        return sheets

    def metrics(self, objective: Objective, network: nn.Module, data: LabelledImages) -> dict[str, float]:
        """Classes have no metrics of their samples."""
        return {}

    def sample(
        self,
        objective: Objective,
        network: nn.Module,
        shape: tuple[int, ...],
        *,
        classes: Tensor,
        null_label: int,
        scale: float,
    ) -> Tensor:
        """(len(classes) * columns, C, H, W), class by class."""
        device = device_of(network)
        label = classes.repeat_interleave(self.columns).to(device)
        noise = normal(self.seed, "samples", 0, range(self.columns), shape).to(device)
        z = noise.repeat(len(classes), *[1] * len(shape))

        positive = {"label": label}
        negative = {"label": torch.full_like(label, null_label)}
        guidance = Guidance(scale=scale, rescale=self.rescale)
        denoise = guided_denoise(objective, network, positive, negative, guidance)
        return self.sampler(denoise, z, objective.schedule.grid.sigmas(self.steps)).float().cpu()


@dataclass(frozen=True, kw_only=True)
class NoSamples(Part):
    """Samples nothing. The objective's figure shows the levels of a grid of `steps`."""

    steps: Count

    def __call__(self, objective: Objective, network: nn.Module, data: Data) -> dict[float, Image.Image]:
        return {}

    def metrics(self, objective: Objective, network: nn.Module, data: Data) -> dict[str, float]:
        return {}


def tile_images(x0: Tensor, columns: int, tile: int = 48, gap: int = 4) -> Image.Image:
    """Tiles x0 (N, C, H, W) in [-1, 1], `columns` to a row. Enlarges small images to about `tile` pixels."""
    zoom = max(1, tile // max(x0.shape[-2:]))
    tiles = x0.clamp(-1, 1).repeat_interleave(zoom, -2).repeat_interleave(zoom, -1)
    tiles = nn.functional.pad(tiles, (gap, 0, gap, 0), value=BACKGROUND)
    rows = tiles.unflatten(0, (-1, columns))  # (R, columns, C, h, w)
    sheet = rows.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)  # (C, R h, columns w)
    sheet = nn.functional.pad(sheet, (0, gap, 0, gap), value=BACKGROUND)
    pixels = ((sheet + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
