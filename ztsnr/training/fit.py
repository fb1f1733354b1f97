"""Training from Python: no command line, no run folder, no record."""

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
    network, objective, data: your own objects instead of those that conf/ describes. `network` is trained in place,
    and called as network(z, t, **cond) with z (B, C, H, W) and t (B,).
    monitor: its methods are called with what happens during training.
    config_dir: a folder with your own options.
    Returns the networks, the score and the samples. Raises ConfigError before the first step, NonFinite, OutOfMemory.
    """
    config = compose(*overrides, config_dir=config_dir)
    parts = build_parts(config, objective, data)
    parts.trainer.try_optimizer(parts.optimizer)
    torch.manual_seed(config.seed)
    model: nn.Module = build(config, "model") if network is None else network
    prepare(parts.data)
    return parts.fit(model, monitor or Monitor())
