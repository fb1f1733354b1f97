"""Optimizers are a library's; here is what a trainer must know of them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim import Optimizer

from ztsnr.errors import ConfigError

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


def make_optimizer(make: MakeOptimizer, parameters: Iterable[nn.Parameter]) -> Optimizer:
    try:
        return make(parameters)
    except (TypeError, ValueError, AssertionError) as error:  # how libraries refuse a learning rate of 'abc' or -1
        name = getattr(getattr(make, "func", make), "__name__", make)
        given = ", ".join(f"optimizer.{key}={value}" for key, value in getattr(make, "keywords", {}).items())
        raise ConfigError(f"{name} refuses its settings, {given}: {error}") from error


def check_optimizer(make: MakeOptimizer) -> None:
    """Refuses impossible settings before there is a model to optimise."""
    make_optimizer(make, [nn.Parameter(torch.zeros(1))])


def set_training(training: bool, optimizer: Optimizer, *networks: nn.Module) -> None:
    """Switches networks, and those optimizers that train on other weights than they evaluate (ScheduleFree)."""
    switch = getattr(optimizer, "train" if training else "eval", None)
    if callable(switch):
        switch()
    for network in networks:
        network.train(training)


@contextmanager
def evaluating(optimizer: Optimizer, *networks: nn.Module) -> Iterator[None]:
    """Inside, the weights are those to validate, sample and save with; afterwards training goes on undisturbed."""
    set_training(False, optimizer, *networks)
    try:
        with torch.no_grad():
            yield
    finally:
        set_training(True, optimizer, *networks)
