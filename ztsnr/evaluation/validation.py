"""The error that compares runs: of the denoised estimate, at fixed levels with fixed noise, whatever was trained."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from ztsnr.core import checks
from ztsnr.core.noise import add_noise, sigma_vp
from ztsnr.core.objective import Objective
from ztsnr.core.randomness import normal
from ztsnr.data import Data


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Squared error of v on held-out data: of x0, divided by sigma_vp², which keeps the levels comparable.

    `sigmas` are finite, so that every target can be asked at them; their mean is the score. The error at sigma = inf,
    which eps has not, is measured beside them. `samples` bounds how many held-out pictures are used.
    """

    sigmas: tuple[float, ...]
    samples: int
    batch_size: int
    seed: int

    def __post_init__(self):
        checks.numbers("validation.sigmas", self.sigmas, above=0)
        checks.integer("validation.samples", self.samples, at_least=1)
        checks.integer("validation.batch_size", self.batch_size, at_least=1)
        checks.integer("validation.seed", self.seed, at_least=0)

    def __call__(self, objective: Objective, network: nn.Module, data: Data) -> dict[float, float]:
        """sigma -> error, with sigma = inf last where the objective is finite there. Needs no_grad and eval mode."""
        terminal = objective.target.finite_at_inf and objective.schedule.timesteps.finite_at_inf
        levels = (*self.sigmas, math.inf) if terminal else self.sigmas
        return {sigma: self._error(objective, network, data, sigma) for sigma in levels}

    def score(self, errors: dict[float, float]) -> float:
        return sum(errors[sigma] for sigma in self.sigmas) / len(self.sigmas)

    def _error(self, objective: Objective, network: nn.Module, data: Data, level: float) -> float:
        device = next(network.parameters()).device
        sigma, error, total = torch.tensor(level, dtype=torch.float64), 0.0, 0
        for rows, x0, cond in data.held_out_batches(self.samples, self.batch_size):
            x0, cond = x0.to(device), {name: value.to(device) for name, value in cond.items()}
            noise = normal(self.seed, "validation", 0, rows, x0.shape[1:]).to(device)
            denoised = objective.denoise(network, add_noise(x0, noise, sigma), sigma, cond)
            error += (denoised - x0).double().square().flatten(1).mean(1).sum().item()
            total += len(rows)
        return error / total / sigma_vp(sigma).square().item()
