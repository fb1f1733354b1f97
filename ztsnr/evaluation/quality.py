"""Sample quality: how far samples are from real images, over guidance scales, since the ranking depends on them."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from ztsnr.core import checks
from ztsnr.core.checks import Count, Index, NonEmpty, NonNegative, Part
from ztsnr.core.objective import Objective
from ztsnr.core.randomness import normal
from ztsnr.core.sampling import Guidance, Sampler, guided_denoise
from ztsnr.data import LabelledImages
from ztsnr.devices.placement import device_of
from ztsnr.evaluation.features import Features, in_batches


class NoQuality:
    """Measures nothing: quality=none."""

    def __call__(self, objective: Objective, network: nn.Module, data: LabelledImages) -> dict[str, float]:
        return {}


@dataclass(frozen=True, kw_only=True)
class Quality(Part):
    """Fréchet distance, precision and recall to the training images, and the share of the class that was asked for.

    The distances are between `features`; the class is what their network classifies as, where it can. `samples`
    images are generated at each guidance scale, of each class in turn, with noise that is the same for every run.
    Precision and recall use at most `neighbourhood` of the real images and the `neighbours`-th nearest.
    """

    features: Features
    sampler: Sampler
    steps: Count
    guidances: Annotated[list[NonNegative], NonEmpty()]
    samples: int
    batch_size: Count
    neighbours: Count
    neighbourhood: int
    seed: Index
    needs_classes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("samples", "neighbourhood"):
            checks.integer(name, getattr(self, name), at_least=self.neighbours + 1)

    @torch.no_grad()
    def __call__(self, objective: Objective, network: nn.Module, data: LabelledImages) -> dict[str, float]:
        """Metric -> value, each at each guidance scale. The network is in eval mode."""
        extractor = self.features.load(data).to(device_of(network))
        real = torch.cat(list(in_batches(extractor, data.train.x0)))
        measured = {}
        for scale in self.guidances:
            images, label = self.sample(objective, network, data, scale)
            generated = torch.cat(list(in_batches(extractor, images)))
            values = {"frechet": frechet_distance(real, generated)}
            values |= precision_recall(real[: self.neighbourhood], generated[: self.neighbourhood], self.neighbours)
            classify = extractor.classify
            if classify is not None:
                logits = [classify(part.to(label.device).float()) for part in generated.split(256)]
                predicted = torch.cat(logits).argmax(1)
                values["accuracy"] = (predicted == label).double().mean().item()
            for name, value in values.items():
                measured[f"quality_{name}/guidance_{scale:05.2f}"] = value
        return measured

    def sample(
        self, objective: Objective, network: nn.Module, data: LabelledImages, scale: float
    ) -> tuple[Tensor, Tensor]:
        """(samples, C, H, W) in [-1, 1] and the classes asked for (samples,)."""
        device = device_of(network)
        label = torch.arange(self.samples, device=device) % data.classes
        sigmas = objective.schedule.grid.sigmas(self.steps)
        guidance = Guidance(scale=scale, rescale=0.0)
        batches = []
        for start in range(0, self.samples, self.batch_size):
            rows = range(start, min(start + self.batch_size, self.samples))
            positive = {"label": label[rows.start : rows.stop]}
            negative = {"label": torch.full_like(positive["label"], data.null_label)}
            z = normal(self.seed, "quality", 0, rows, data.shape).to(device)
            denoise = guided_denoise(objective, network, positive, negative, guidance)
            batches.append(self.sampler(denoise, z, sigmas))
        return torch.cat(batches).float().clamp(-1, 1), label


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Between Gaussians of the means and covariances of two sets of features, (N, F) and (M, F) (arXiv 1706.08500)."""
    shift = (real.mean(0) - generated.mean(0)).square().sum()
    real_cov, generated_cov = real.T.cov(), generated.T.cov()
    # tr sqrt(A B): A B has the eigenvalues of the positive sqrt(A) B sqrt(A), so only rounding makes one negative.
    shared = torch.linalg.eigvals(real_cov @ generated_cov).real.clamp(min=0).sqrt().sum()
    return (shift + real_cov.trace() + generated_cov.trace() - 2 * shared).item()


def precision_recall(real: Tensor, generated: Tensor, neighbours: int) -> dict[str, float]:
    """Share of generated images among the real ones, and of real among the generated (arXiv 1904.06991).

    An image is among a set of features, (N, F), if it is no farther from some member than that member is from its own
    `neighbours`-th nearest.
    """

    def share_among(points: Tensor, reference: Tensor) -> float:
        radius = torch.cdist(reference, reference).kthvalue(neighbours + 1, dim=1).values
        return (torch.cdist(points, reference) <= radius).any(1).double().mean().item()

    return {"precision": share_among(generated, real), "recall": share_among(real, generated)}
