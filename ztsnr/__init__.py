"""Diffusion training with zero terminal SNR: schedules, targets, weightings and optimizers, and their comparison."""

__version__ = "0.1.0"
