"""The coordinate: sigma = noise / signal in [0, inf], and z = alpha * x0 + sigma_vp * noise, finite at both ends.

Zero terminal SNR is sigma = inf. Functions of sigma take and return (B,) tensors, float64 by choice;
`expand` brings them to the shape, device and dtype of the data.
"""

import torch
from torch import Tensor

from ztsnr.core.shapes import Samples


def alpha(sigma: Tensor) -> Tensor:
    """Share of signal in z: 1 at sigma = 0, 0 at sigma = inf."""
    return torch.rsqrt(1 + sigma.square())


def sigma_vp(sigma: Tensor) -> Tensor:
    """Share of noise in z: 0 at sigma = 0, 1 at sigma = inf."""
    return torch.rsqrt(1 + sigma.pow(-2))


def snr(sigma: Tensor) -> Tensor:
    """Signal-to-noise ratio in power, alpha² / sigma_vp²: inf at sigma = 0, 0 at sigma = inf."""
    return sigma.pow(-2)


def logsnr(sigma: Tensor) -> Tensor:
    return -2 * sigma.log()


def sigma_from_logsnr(logsnr: Tensor) -> Tensor:
    return (-logsnr / 2).exp()


def expand(coefficient: Tensor, like: Samples) -> Tensor:
    """(B,) or () -> (B, 1, ...), on the device and in the dtype of `like` (B, ...)."""
    return coefficient.to(like.device, like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def add_noise(x0: Samples, noise: Samples, sigma: Tensor) -> Samples:
    """z, for sigma (B,) or (). At sigma = inf, z is the noise."""
    return expand(alpha(sigma), x0) * x0 + expand(sigma_vp(sigma), x0) * noise
