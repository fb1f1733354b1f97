"""The parts of a training run, built from a config."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

from omegaconf import DictConfig
from torch import nn

from ztsnr.checkpoints.saver import Checkpointer
from ztsnr.config.registry import build
from ztsnr.core.errors import ConfigError
from ztsnr.core.objective import Objective
from ztsnr.data import Data
from ztsnr.evaluation.validation import Validation
from ztsnr.tracking.monitor import Monitor
from ztsnr.training.lr_schedule import LRSchedule
from ztsnr.training.optim import MakeOptimizer
from ztsnr.training.signals import StopSignals
from ztsnr.training.trainer import Trainer, TrainingResult, TrainingSamples


class QualityMetrics(Protocol):
    """Measures the quality of a network's samples. `data` is of the kind that it needs, as in TrainingSamples."""

    def __call__(self, objective: Objective, network: nn.Module, data: Any) -> dict[str, float]:
        """Metrics by name."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainingParts:
    """Everything that a run needs except its network, which takes time to build and draws its weights at random."""

    objective: Objective
    data: Data
    lr_schedule: LRSchedule
    validation: Validation
    samples: TrainingSamples
    quality: QualityMetrics
    trainer: Trainer
    optimizer: MakeOptimizer

    def with_data(self, data: Data) -> "TrainingParts":
        return replace(self, data=data)

    def fit(
        self,
        network: nn.Module,
        monitor: Monitor,
        checkpointer: Checkpointer | None = None,
        stop: StopSignals | None = None,
    ) -> TrainingResult:
        """Trains `network` with these parts: see Trainer.fit."""
        return self.trainer.fit(
            objective=self.objective,
            network=network,
            data=self.data,
            optimizer=self.optimizer,
            lr_schedule=self.lr_schedule,
            validation=self.validation,
            samples=self.samples,
            monitor=monitor,
            checkpointer=checkpointer,
            stop=stop,
        )


def build_parts(config: DictConfig, objective: Objective | None = None, data: Data | None = None) -> TrainingParts:
    """Builds all that is cheap, so that bad values are refused before there is a model. Raises ConfigError.

    objective, data: used instead of those that the config describes.
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
