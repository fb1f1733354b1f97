"""Training from Python, without a command line, a folder or a record."""

from pathlib import Path

import torch
from torch import nn

from ztsnr.config.registry import build, compose
from ztsnr.core.objective import Objective
from ztsnr.data import Data, prepare
from ztsnr.tracking.monitor import Monitor
from ztsnr.training.parts import build_parts
from ztsnr.training.trainer import TrainingResult


def fit(
    *overrides: str,
    network: nn.Module | None = None,
    objective: Objective | None = None,
    data: Data | None = None,
    monitor: Monitor | None = None,
    config_dir: str | Path | None = None,
) -> TrainingResult:
    """Trains as `python -m ztsnr.train` does with these overrides, and writes nothing.

    overrides: as on the command line, "schedule=ztsnr", "trainer.steps=300".
    network, objective, data: objects of your own in place of what conf/ describes; `network` is trained in place, and
    called as network(z, t, **cond) with z (B, C, H, W) and t (B,).
    monitor: is called with what happens while it trains.
    config_dir: a folder with options of your own.
    Returns networks, score and samples. Raises ConfigError before the first step, NonFinite, OutOfMemory.
    """
    config = compose(*overrides, config_dir=config_dir)
    parts = build_parts(config, objective, data)
    parts.trainer.try_optimizer(parts.optimizer)
    torch.manual_seed(config.seed)
    if network is None:
        network = build(config, "model")
    assert network is not None
    prepare(parts.data)
    return parts.trainer.fit(
        objective=parts.objective,
        network=network,
        data=parts.data,
        optimizer=parts.optimizer,
        lr_schedule=parts.lr_schedule,
        validation=parts.validation,
        samples=parts.samples,
        monitor=monitor or Monitor(),
    )
