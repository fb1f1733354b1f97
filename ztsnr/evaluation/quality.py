"""Sample quality: distance of samples from real images, at several guidance scales, since rankings depend on them."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from ztsnr.core import checks
from ztsnr.core.checks import Count, NonEmpty, NonNegative, NonNegativeInt, Part
from ztsnr.core.objective import Objective
from ztsnr.core.randomness import normal
from ztsnr.core.sampling import Guidance, Sampler, guided_denoise
from ztsnr.data import LabelledImages
from ztsnr.devices.processes import device_of
from ztsnr.evaluation.features import Features, in_batches


class NoQuality:
    """quality=none: measures nothing."""

    def __call__(self, objective: Objective, network: nn.Module, data: LabelledImages) -> dict[str, float]:
        return {}


@dataclass(frozen=True, kw_only=True)
class Quality(Part):
    """Fréchet distance, precision and recall against the training images, and class accuracy.

    Distances are between `features`. Class accuracy needs features of a classifier. Each guidance scale generates
    `samples` images, of each class in turn, with the same noise in every run. Precision and recall use the first
    `neighbourhood` images of each kind and the `neighbours`-th nearest.
    """

    features: Features
    sampler: Sampler
    steps: Count
    guidances: Annotated[list[NonNegative], NonEmpty()]
    samples: int
    batch_size: Count
    neighbours: Count
    neighbourhood: int
    seed: NonNegativeInt
    needs_classes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("samples", "neighbourhood"):
            checks.integer(name, getattr(self, name), at_least=self.neighbours + 1)

    @torch.no_grad()
    def __call__(self, objective: Objective, network: nn.Module, data: LabelledImages) -> dict[str, float]:
        """Metric at a guidance scale -> value. Needs eval mode."""
        extractor = self.features.load(data).to(device_of(network))
        real = torch.cat(list(in_batches(extractor, data.train.x0)))
        metrics = {}
        for scale in self.guidances:
            images, label = self.sample(objective, network, data, scale)
            generated = torch.cat(list(in_batches(extractor, images)))
            values = {"frechet": frechet_distance(real, generated)}
            values |= precision_recall(real[: self.neighbourhood], generated[: self.neighbourhood], self.neighbours)

            # the share of samples that the classifier recognises as the class they were generated for
            classify = extractor.classify
            if classify is not None:
                logits = [classify(part.to(label.device).float()) for part in generated.split(256)]
                predicted = torch.cat(logits).argmax(1)
                values["accuracy"] = (predicted == label).double().mean().item()
            for name, value in values.items():
                metrics[f"quality_{name}/guidance_{scale:05.2f}"] = value
        return metrics

    def sample(
        self, objective: Objective, network: nn.Module, data: LabelledImages, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Images (samples, C, H, W) in [-1, 1] and their classes (samples,)."""
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
    """Between the Gaussians fitted to two sets of features, (N, F) and (M, F) (arXiv 1706.08500)."""
    shift = (real.mean(0) - generated.mean(0)).square().sum()
    real_cov = real.T.cov()
    generated_cov = generated.T.cov()
    # tr sqrt(A B): A B has the eigenvalues of sqrt(A) B sqrt(A), none of which is negative except by rounding.
    shared = torch.linalg.eigvals(real_cov @ generated_cov).real.clamp(min=0).sqrt().sum()
    return (shift + real_cov.trace() + generated_cov.trace() - 2 * shared).item()


def precision_recall(real: Tensor, generated: Tensor, neighbours: int) -> dict[str, float]:
    """Precision: share of generated images inside the real ones' manifold. Recall: the reverse (arXiv 1904.06991).

    The manifold of features (N, F) is a union of balls: each reaches from one point to its `neighbours`-th nearest.
    """

    def share_inside(points: Tensor, reference: Tensor) -> float:
        radius = torch.cdist(reference, reference).kthvalue(neighbours + 1, dim=1).values
        return (torch.cdist(points, reference) <= radius).any(1).double().mean().item()

    return {"precision": share_inside(generated, real), "recall": share_inside(real, generated)}
