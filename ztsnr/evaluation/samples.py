"""Sample grids: one row a class, one column a seed, drawn on the schedule that is trained."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from ztsnr.core import checks
from ztsnr.core.objective import Objective
from ztsnr.core.randomness import normal
from ztsnr.core.sampling import Guidance, Sampler, guided_denoise
from ztsnr.data import Data, LabelledImages


@dataclass(frozen=True, kw_only=True)
class SampleGrid:
    """A column's classes share their noise, so that what differs down a column is the class alone."""

    sampler: Sampler
    steps: int
    guidances: tuple[float, ...]
    rescale: float
    columns: int
    seed: int
    needs_classes: ClassVar[bool] = True

    def __post_init__(self):
        checks.numbers("samples.guidances", self.guidances, at_least=0)
        checks.instance("samples.sampler", self.sampler, Sampler)
        for scale in self.guidances:
            Guidance(scale=scale, rescale=self.rescale)
        checks.integer("samples.steps", self.steps, at_least=1)
        checks.integer("samples.columns", self.columns, at_least=1)
        checks.integer("samples.seed", self.seed, at_least=0)

    def __call__(self, objective: Objective, network: nn.Module, data: LabelledImages) -> dict[float, Image.Image]:
        """Guidance scale -> picture. Needs no_grad and eval mode."""
        classes = torch.arange(data.classes)
        return {
            scale: to_picture(self.draw(objective, network, data.shape, classes, data.null_label, scale), self.columns)
            for scale in self.guidances
        }

    def metrics(self, objective: Objective, network: nn.Module, data: LabelledImages) -> dict[str, float]:
        """What is measured beside the pictures: nothing."""
        return {}

    def draw(
        self, objective: Objective, network: nn.Module, shape: tuple, classes: Tensor, null_label: int, scale: float
    ) -> Tensor:
        """(len(classes) * columns, C, H, W), class by class."""
        device = next(network.parameters()).device
        label = classes.repeat_interleave(self.columns).to(device)
        noise = normal(self.seed, "samples", 0, range(self.columns), shape).to(device)
        z = noise.repeat(len(classes), *[1] * len(shape))
        cond, negative = {"label": label}, {"label": torch.full_like(label, null_label)}
        guidance = Guidance(scale=scale, rescale=self.rescale)
        denoise = guided_denoise(objective, network, cond, negative, guidance)
        return self.sampler(denoise, z, objective.schedule.grid.sigmas(self.steps)).float().cpu()


@dataclass(frozen=True, kw_only=True)
class NoSamples:
    """Draws nothing. `steps` are those whose levels the objective's figure shows."""

    steps: int

    def __post_init__(self):
        checks.integer("samples.steps", self.steps, at_least=1)

    def __call__(self, objective: Objective, network: nn.Module, data: Data) -> dict[float, Image.Image]:
        return {}

    def metrics(self, objective: Objective, network: nn.Module, data: Data) -> dict[str, float]:
        return {}


def to_picture(x0: Tensor, columns: int, tile: int = 48, gap: int = 4) -> Image.Image:
    """x0 (N, C, H, W) in [-1, 1] as one picture, `columns` to a row; small ones are enlarged to about `tile` pixels."""
    zoom = max(1, tile // max(x0.shape[-2:]))
    tiles = x0.clamp(-1, 1).repeat_interleave(zoom, -2).repeat_interleave(zoom, -1)
    tiles = nn.functional.pad(tiles, (gap, 0, gap, 0), value=-0.6)
    rows = tiles.unflatten(0, (-1, columns))  # (R, columns, C, h, w)
    sheet = rows.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)  # (C, R h, columns w)
    sheet = nn.functional.pad(sheet, (0, gap, 0, gap), value=-0.6)
    pixels = ((sheet + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
