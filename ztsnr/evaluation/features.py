"""What pictures are compared by: features of a network, trained once from the data or read from a user's file."""

import hashlib
import os
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ztsnr.core import checks
from ztsnr.core.errors import ConfigError
from ztsnr.core.randomness import order
from ztsnr.data import LabelledImages
from ztsnr.io.tensors import write_tensors

FORMAT = 1
"""Of the classifier's file: raised where the network or its training changes."""


class Features:
    @abstractmethod
    def load(self, data: LabelledImages) -> nn.Module:
        """A frozen network, x0 (B, C, H, W) in [-1, 1] -> features (B, F), whose `classify` makes logits of them or is
        None."""


class Classifier(nn.Module):
    def __init__(self, shape: tuple[int, int, int], classes: int, features: int):
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
    """Those before the last layer of a small classifier of the training pictures.

    It is trained once for each data set and kept in ~/.cache/ztsnr; it depends on nothing of the run that asks for it.
    """

    features: int
    steps: int
    batch_size: int
    lr: float
    seed: int

    def __post_init__(self):
        for name in ("features", "steps", "batch_size"):
            checks.integer(f"quality.features.{name}", getattr(self, name), at_least=1)
        checks.finite("quality.features.lr", self.lr, above=0)
        checks.integer("quality.features.seed", self.seed, at_least=0)

    def load(self, data: LabelledImages) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = Classifier(data.shape, data.classes, self.features)
        file = cache_folder() / f"classifier-{self._key(data)}.safetensors"
        if file.is_file():
            network.load_state_dict(load_file(file))
        else:
            self._train(network, data)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(file, network.state_dict(), {})
        return network.requires_grad_(False).eval()

    @torch.enable_grad()
    def _train(self, network: nn.Module, data: LabelledImages) -> None:
        optimizer = torch.optim.AdamW(network.parameters(), self.lr)
        rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=self.steps)
        for step in range(self.steps):
            place = range(step * self.batch_size, (step + 1) * self.batch_size)
            index = order(self.seed, place, len(data.train))
            logits = network.classify(network(data.train.x0[index]))
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, data.train.label[index], label_smoothing=0.1).backward()
            optimizer.step()
            rates.step()

    def _key(self, data: LabelledImages) -> str:
        content = hashlib.blake2b(repr((FORMAT, asdict(self), data.shape, data.classes)).encode(), digest_size=8)
        content.update(data.train.x0.numpy().tobytes())
        content.update(data.train.label.numpy().tobytes())
        return content.hexdigest()


class Pretrained(nn.Module):
    """Pictures in [-1, 1] as a network for photographs wants them: three channels, its size, its mean and deviation."""

    classify = None

    def __init__(self, network: nn.Module, size: int, mean: list[float], std: list[float]):
        super().__init__()
        self.network, self.size = network, size
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(value)[:, None, None])

    def forward(self, x0: Tensor) -> Tensor:
        pixels = (x0.clamp(-1, 1) + 1) / 2
        pixels = pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels
        pixels = nn.functional.interpolate(pixels, (self.size, self.size), mode="bicubic", antialias=True)
        found = self.network((pixels - self.mean) / self.std)
        found = getattr(found, "pooler_output", found)
        if not isinstance(found, Tensor) or found.shape[0] != len(x0):
            raise ConfigError(f"quality.features must give a tensor of features for each picture, got {type(found)}")
        return found.flatten(1)


@dataclass(frozen=True, kw_only=True)
class _FromFile(Features):
    """size: side in pixels that the network wants; mean, std: of its channels, for pixels in [0, 1]."""

    path: str
    size: int
    mean: list[float]
    std: list[float]

    def __post_init__(self):
        checks.integer("quality.features.size", self.size, at_least=1)
        for name in ("mean", "std"):
            checks.numbers(f"quality.features.{name}", getattr(self, name))
            if len(getattr(self, name)) != 3:
                raise ConfigError(f"quality.features.{name} must be three numbers, got {getattr(self, name)}")
        if not Path(self.path).exists():
            raise ConfigError(f"quality.features.path must be the place of the weights, and {self.path!r} is none")

    def load(self, data: LabelledImages) -> nn.Module:
        try:
            network = self._network()
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(f"quality.features.path={self.path} cannot be loaded: {error}") from error
        return Pretrained(network, self.size, self.mean, self.std).requires_grad_(False).eval()


class TransformersFeatures(_FromFile):
    """A folder of DINOv2 or CLIP as transformers saves them: safetensors and config.json."""

    def _network(self) -> nn.Module:
        from transformers import AutoConfig, AutoModel

        config = AutoConfig.from_pretrained(self.path, local_files_only=True)
        network = AutoModel.from_pretrained(self.path, local_files_only=True, use_safetensors=True, config=config)
        return getattr(network, "vision_model", network)


class TorchScriptFeatures(_FromFile):
    """A TorchScript file, such as Inception is published as. Such a file is a program: use those you trust."""

    def _network(self) -> nn.Module:
        return torch.jit.load(self.path, map_location="cpu")


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ztsnr"


def in_batches(network: nn.Module, pictures: Tensor, size: int = 256) -> Iterator[Tensor]:
    device = next(network.parameters()).device
    for part in pictures.split(size):
        yield network(part.to(device)).double().cpu()
