"""Networks whose features compare images: a classifier of the data, or a user's own file."""

import os
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ztsnr.core.checks import Count, NonNegativeInt, Part, Positive, key
from ztsnr.core.errors import ConfigError
from ztsnr.core.randomness import order
from ztsnr.data import LabelledImages
from ztsnr.devices.processes import device_of
from ztsnr.io.tensors import write_tensors

CLASSIFIER_VERSION = 1
"""Part of the cached file's name. Increase it when the network or its training changes."""


class Extractor(nn.Module):
    """x0 (B, C, H, W) in [-1, 1] -> features (B, F)."""

    classify: nn.Module | None
    """features (B, F) -> logits (B, classes); None if the network is no classifier of the data."""


class Features(Part):
    @abstractmethod
    def load(self, data: LabelledImages) -> Extractor:
        """A frozen network in eval mode."""
        raise NotImplementedError


class Classifier(Extractor):
    classify: nn.Linear

    def __init__(self, shape: tuple[int, int, int], classes: int, features: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(64 * -(-height // 2) * -(-width // 2), features),
            nn.GELU(),
        )
        self.classify = nn.Linear(features, classes)

    def forward(self, x0: Tensor) -> Tensor:
        return self.body(x0)


@dataclass(frozen=True, kw_only=True)
class ClassifierFeatures(Features):
    """The penultimate layer of a small classifier of the training images.

    The classifier is trained for each data set and cached in ~/.cache/ztsnr. It does not depend on the run.
    """

    features: Count
    steps: Count
    batch_size: Count
    lr: Positive
    seed: NonNegativeInt

    def load(self, data: LabelledImages) -> Classifier:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = Classifier(data.shape, data.classes, self.features)
        file = cache_folder() / f"classifier-{self._hash(data)}.safetensors"
        if file.is_file():
            network.load_state_dict(load_file(file))
        else:
            self._train(network, data)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(file, network.state_dict(), {})
        return network.requires_grad_(False).eval()

    @torch.enable_grad()
    def _train(self, network: Classifier, data: LabelledImages) -> None:
        optimizer = torch.optim.AdamW(network.parameters(), self.lr)
        lr_schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=self.steps)
        for step in range(self.steps):
            positions = range(step * self.batch_size, (step + 1) * self.batch_size)
            index = order(self.seed, positions, len(data.train))
            logits = network.classify(network(data.train.x0[index]))
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, data.train.label[index], label_smoothing=0.1).backward()
            optimizer.step()
            lr_schedule.step()

    def _hash(self, data: LabelledImages) -> str:
        """Covers everything that the trained classifier depends on."""
        settings = repr((CLASSIFIER_VERSION, asdict(self), data.shape, data.classes))
        x0 = data.train.x0.numpy().tobytes()
        label = data.train.label.numpy().tobytes()
        return blake2b(settings.encode() + x0 + label, digest_size=8).hexdigest()


class Pretrained(Extractor):
    """Converts images in [-1, 1] to the three channels, size, mean and standard deviation that the network expects."""

    classify = None
    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, size: int, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network
        self.size = size
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, x0: Tensor) -> Tensor:
        pixels = (x0.clamp(-1, 1) + 1) / 2
        if pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, -1, -1)
        pixels = nn.functional.interpolate(pixels, (self.size, self.size), mode="bicubic", antialias=True)
        output = self.network((pixels - self.mean) / self.std)
        features = getattr(output, "pooler_output", output)
        if not isinstance(features, Tensor) or features.shape[0] != len(x0):
            raise ConfigError(f"quality.features must give a tensor of features for each image, got {type(features)}")
        return features.flatten(1)


@dataclass(frozen=True, kw_only=True)
class _FromFile(Features):
    """size: side of the network's input in pixels; mean, std: of its channels, for pixels in [0, 1]."""

    path: str
    size: Count
    mean: list[float]
    std: list[float]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != 3:
                raise ConfigError(f"{key(name)} must be three numbers, got {values}")
        if not Path(self.path).exists():
            raise ConfigError(f"{key('path')} must be the path of the weights, but {self.path!r} does not exist")

    def load(self, data: LabelledImages) -> Pretrained:
        try:
            network = self._network()
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(f"quality.features.path={self.path} cannot be loaded: {error}") from error
        return Pretrained(network, self.size, self.mean, self.std).requires_grad_(False).eval()

    @abstractmethod
    def _network(self) -> nn.Module:
        raise NotImplementedError


class TransformersFeatures(_FromFile):
    """A DINOv2 or CLIP folder in transformers' format: safetensors and config.json."""

    def _network(self) -> nn.Module:
        from transformers import AutoConfig, AutoModel

        config = AutoConfig.from_pretrained(self.path, local_files_only=True)
        network = AutoModel.from_pretrained(self.path, local_files_only=True, use_safetensors=True, config=config)
        return getattr(network, "vision_model", network)


class TorchScriptFeatures(_FromFile):
    """A TorchScript file, the format in which Inception is published. It can run any code: use only files you trust."""

    def _network(self) -> nn.Module:
        return torch.jit.load(self.path, map_location="cpu")


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ztsnr"


def in_batches(extractor: nn.Module, images: Tensor, size: int = 256) -> Iterator[Tensor]:
    """Yields the features of `size` images at a time, in float64, in host memory."""
    device = device_of(extractor)
    for batch in images.split(size):
        yield extractor(batch.to(device)).double().cpu()
