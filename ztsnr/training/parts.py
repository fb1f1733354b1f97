"""The parts of a training, built from a config."""

from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig

from ztsnr.config.registry import build
from ztsnr.core.errors import ConfigError
from ztsnr.core.objective import Objective
from ztsnr.data import Data
from ztsnr.evaluation.samples import SampleGrid
from ztsnr.evaluation.validation import Validation
from ztsnr.training.lr_schedule import LRSchedule
from ztsnr.training.optim import MakeOptimizer
from ztsnr.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class TrainingParts:
    """All but the network, which takes time and draws its weights."""

    objective: Objective
    data: Data
    lr_schedule: LRSchedule
    validation: Validation
    samples: SampleGrid
    quality: Any
    """Called with objective, network and data; returns metrics by name."""
    trainer: Trainer
    optimizer: MakeOptimizer

    def with_data(self, data: Data) -> "TrainingParts":
        return replace(self, data=data)


def build_parts(config: DictConfig, objective: Objective | None = None, data: Data | None = None) -> TrainingParts:
    """Everything that is cheap, so that bad values are refused before there is a model. Raises ConfigError.

    objective, data: take the place of what the config describes.
    """
    parts = TrainingParts(
        objective=build(config, "objective") if objective is None else objective,
        data=build(config, "data") if data is None else data,
        lr_schedule=build(config, "lr_schedule"),
        validation=build(config, "validation"),
        samples=build(config, "samples"),
        quality=build(config, "quality"),
        trainer=build(config, "trainer"),
        optimizer=build(config, "optimizer"),
    )
    for name in ("samples", "quality"):
        if getattr(getattr(parts, name), "needs_classes", False) and not hasattr(parts.data, "classes"):
            raise ConfigError(f"{name} draws images of classes, and data has none. Use {name}=none.")
    return parts
