"""Sample quality: how far drawn pictures are from real ones, over guidance scales, since the ranking depends on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ztsnr.core import checks
from ztsnr.core.objective import Objective
from ztsnr.core.randomness import normal
from ztsnr.core.sampling import Guidance, Sampler, guided_denoise
from ztsnr.data import LabelledImages
from ztsnr.evaluation.features import Features, in_batches


class NoQuality:
    """Measures nothing: quality=none."""

    def __call__(self, objective: Objective, network: nn.Module, data: LabelledImages) -> dict[str, float]:
        return {}


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Fréchet distance, precision and recall to the training pictures, and the share of the class that was asked for.

    The distances are on `features`; the class is what their network says, where it says one. `samples` pictures are
    drawn at each guidance scale, classes in turn, with noise that is the same for every run. Precision and recall use
    at most `neighbourhood` of the real ones and the `neighbours`-th nearest.
    """

    features: Features
    sampler: Sampler
    steps: int
    guidances: tuple[float, ...]
    samples: int
    batch_size: int
    neighbours: int
    neighbourhood: int
    seed: int
    needs_classes: ClassVar[bool] = True

    def __post_init__(self):
        checks.instance("quality.features", self.features, Features)
        checks.instance("quality.sampler", self.sampler, Sampler)
        checks.numbers("quality.guidances", self.guidances, at_least=0)
        for name in ("steps", "batch_size", "neighbours"):
            checks.integer(f"quality.{name}", getattr(self, name), at_least=1)
        for name in ("samples", "neighbourhood"):
            checks.integer(f"quality.{name}", getattr(self, name), at_least=self.neighbours + 1)
        checks.integer("quality.seed", self.seed, at_least=0)

    @torch.no_grad()
    def __call__(self, objective: Objective, network: nn.Module, data: LabelledImages) -> dict[str, float]:
        """Metric -> value, each at each guidance scale. The network is in eval mode."""
        extractor = self.features.load(data).to(next(network.parameters()).device)
        real = torch.cat(list(in_batches(extractor, data.train.x0)))
        measured = {}
        for scale in self.guidances:
            pictures, label = self.draw(objective, network, data, scale)
            found = torch.cat(list(in_batches(extractor, pictures)))
            values = {"frechet": frechet_distance(real, found)}
            values |= precision_recall(real[: self.neighbourhood], found[: self.neighbourhood], self.neighbours)
            if extractor.classify is not None:
                told = torch.cat([extractor.classify(part.to(label.device).float()) for part in found.split(256)])
                values["accuracy"] = (told.argmax(1) == label).double().mean().item()
            measured |= {f"quality_{name}/guidance_{scale:05.2f}": value for name, value in values.items()}
        return measured

    def draw(
        self, objective: Objective, network: nn.Module, data: LabelledImages, scale: float
    ) -> tuple[Tensor, Tensor]:
        """(samples, C, H, W) in [-1, 1] and the classes asked for (samples,)."""
        device = next(network.parameters()).device
        label = torch.arange(self.samples, device=device) % data.classes
        sigmas, guidance, drawn = objective.schedule.grid.sigmas(self.steps), Guidance(scale=scale, rescale=0.0), []
        for start in range(0, self.samples, self.batch_size):
            rows = range(start, min(start + self.batch_size, self.samples))
            asked = label[rows.start : rows.stop]
            conditions: tuple[Mapping[str, Tensor], ...] = (
                {"label": asked},
                {"label": torch.full_like(asked, data.null_label)},
            )
            z = normal(self.seed, "quality", 0, rows, data.shape).to(device)
            drawn.append(self.sampler(guided_denoise(objective, network, *conditions, guidance), z, sigmas))
        return torch.cat(drawn).float().clamp(-1, 1), label


def frechet_distance(real: Tensor, drawn: Tensor) -> float:
    """Between Gaussians of the means and covariances of two sets of features, (N, F) and (M, F) (arXiv 1706.08500)."""
    shift = (real.mean(0) - drawn.mean(0)).square().sum()
    of_real, of_drawn = real.T.cov(), drawn.T.cov()
    # tr sqrt(A B): A B has the eigenvalues of the positive sqrt(A) B sqrt(A), so none is below 0 but by rounding.
    shared = torch.linalg.eigvals(of_real @ of_drawn).real.clamp(min=0).sqrt().sum()
    return (shift + of_real.trace() + of_drawn.trace() - 2 * shared).item()


def precision_recall(real: Tensor, drawn: Tensor, neighbours: int) -> dict[str, float]:
    """Shares of drawn pictures among the real ones, and of real among the drawn (arXiv 1904.06991).

    Among a set, (N, F): no farther from some member than that is from its `neighbours`-th nearest other one.
    """

    def share_among(some: Tensor, all_: Tensor) -> float:
        radius = torch.cdist(all_, all_).kthvalue(neighbours + 1, dim=1).values
        return (torch.cdist(some, all_) <= radius).any(1).double().mean().item()

    return {"precision": share_among(drawn, real), "recall": share_among(real, drawn)}
