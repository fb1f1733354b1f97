"""A validation error that compares runs of different objectives: fixed levels, fixed noise, error of x0."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import nn

from ztsnr.core.checks import Count, NonEmpty, NonNegativeInt, Part, Positive
from ztsnr.core.noise import add_noise, sigma_vp
from ztsnr.core.objective import Objective
from ztsnr.core.randomness import normal
from ztsnr.data import Data
from ztsnr.devices.processes import device_of


@dataclass(frozen=True, kw_only=True)
class Validation(Part):
    """Squared error of v on held-out data: the error of x0 divided by sigma_vp², which makes the levels comparable.

    `sigmas` are finite, so that every target can be evaluated there. The score is the mean of their errors. The error
    at sigma = inf is not part of it, because eps is not defined there. At most `samples` held-out images are used.
    """

    sigmas: Annotated[list[Positive], NonEmpty()]
    samples: Count
    batch_size: Count
    seed: NonNegativeInt

    def __call__(self, objective: Objective, network: nn.Module, data: Data) -> dict[float, float]:
        """sigma -> error; sigma = inf is last, if the objective is finite there. Needs no_grad and eval mode."""
        levels = list(self.sigmas)
        if objective.target.finite_at_inf and objective.schedule.timesteps.finite_at_inf:
            levels.append(math.inf)
        return {sigma: self._error(objective, network, data, sigma) for sigma in levels}

    def score(self, errors: dict[float, float]) -> float:
        return sum(errors[sigma] for sigma in self.sigmas) / len(self.sigmas)

    def _error(self, objective: Objective, network: nn.Module, data: Data, level: float) -> float:
        device = device_of(network)
        sigma = torch.tensor(level, dtype=torch.float64)
        error = 0.0
        count = 0
        for rows, x0, cond in data.held_out_batches(self.samples, self.batch_size):
            x0 = x0.to(device)
            cond = {name: value.to(device) for name, value in cond.items()}
            noise = normal(self.seed, "validation", 0, rows, x0.shape[1:]).to(device)
            denoised = objective.denoise(network, add_noise(x0, noise, sigma), sigma, cond)
            error += (denoised - x0).double().square().flatten(1).mean(1).sum().item()
            count += len(rows)
        return error / count / sigma_vp(sigma).square().item()
