"""Creates optimizers, which are other libraries', with parameter groups, and switches them for evaluation."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from ztsnr.core import checks
from ztsnr.core.checks import Part, key
from ztsnr.core.errors import ConfigError

MakeOptimizer = Callable[[list[dict]], Optimizer]
PARAMETER_KINDS = ("vectors", "embeddings", "matrices")


class GroupSettings(NamedTuple):
    """Parameters with the same settings form one group of the optimizer."""

    lr_factor: float
    decay: bool
    """Whether weight decay applies."""
    muon: bool
    """Whether Muon updates them; else its AdamW does."""


@dataclass(frozen=True, kw_only=True)
class ParamGroups(Part):
    """Sets learning rates and weight decay of parameters by patterns.

    A pattern is one of three things. It is the name of a parameter, with the wildcards of fnmatch. It is the name of a
    module, for all its parameters. Or it is a kind: `vectors` have fewer than two dimensions, as norms and biases do;
    `embeddings` belong to nn.Embedding; `matrices` are the rest.

    no_decay: parameters without weight decay. Embeddings belong here: decay applies in every step, but a row has a
    gradient only in steps where its token occurs, so the rows of rare tokens would shrink.
    adamw: parameters that Muon leaves to AdamW, all but the hidden matrices (kellerjordan.github.io/posts/muon). The
    list names the input and output layers of several networks; at least one must match.
    lr: pairs of a pattern and a factor on the optimizer's rate. If several match, their factors are multiplied.
    """

    no_decay: list[str]
    adamw: list[str]
    lr: list[list]

    def __post_init__(self) -> None:
        super().__post_init__()
        for entry in self.lr:
            if not (len(entry) == 2 and isinstance(entry[0], str)):
                raise ConfigError(f"{key('lr')} must be a list such as [[blocks, 0.1]], got {self.lr!r}")
            checks.finite(f"lr's factor for {entry[0]}", entry[1], at_least=0)

    def split(self, network: nn.Module, muon: bool) -> dict[GroupSettings, list[nn.Parameter]]:
        """Groups the parameters that require a gradient, in the network's order.

        Raises ConfigError for patterns that match nothing.
        """
        kinds = _kinds(network)
        parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._refuse_idle_patterns(list(parameters), muon)

        groups = defaultdict(list)
        for name, p in parameters.items():
            kind = kinds[p]
            settings = GroupSettings(
                lr_factor=math.prod(factor for pattern, factor in self.lr if _matches(name, kind, [pattern])),
                decay=not _matches(name, kind, self.no_decay),
                muon=muon and not _matches(name, kind, self.adamw),
            )
            groups[settings].append(p)
        return groups

    def _refuse_idle_patterns(self, names: list[str], muon: bool) -> None:
        lr_patterns = [pattern for pattern, _ in self.lr]
        for field, patterns in (("no_decay", self.no_decay), ("lr", lr_patterns)):
            for pattern in _idle(patterns, names):
                near = " or ".join(_similar(pattern, names)) or ", ".join(names)
                raise ConfigError(
                    f"trainer.groups.{field} has {pattern!r}, which matches no parameter. Did you mean {near}?"
                )

        layers = [pattern for pattern in self.adamw if pattern not in PARAMETER_KINDS]
        if muon and layers and len(_idle(layers, names)) == len(layers):
            modules = ", ".join(sorted({name.rpartition(".")[0] for name in names}))
            raise ConfigError(
                f"trainer.groups.adamw={self.adamw} matches none of this network's layers. Muon needs the input and "
                f"the output layer there, of {modules}"
            )


def _idle(patterns: Iterable[str], names: list[str]) -> list[str]:
    """The patterns that match none of the parameters."""
    idle = []
    for pattern in patterns:
        if pattern not in PARAMETER_KINDS and not any(_matches(name, "", [pattern]) for name in names):
            idle.append(pattern)
    return idle


def _similar(pattern: str, names: list[str]) -> list[str]:
    """Names of modules and parameters that are close to the pattern."""
    candidates: set[str] = set()
    for name in names:
        candidates.update(accumulate(name.split("."), "{}.{}".format))  # a, a.b, a.b.c
    return get_close_matches(pattern.rstrip(".*"), candidates, cutoff=0.3)


def _kinds(network: nn.Module) -> dict[nn.Parameter, str]:
    kinds = {p: "vectors" if p.ndim < 2 else "matrices" for p in network.parameters()}
    for module in network.modules():
        if isinstance(module, nn.Embedding):
            kinds |= dict.fromkeys(module.parameters(), "embeddings")
    return kinds


def _matches(name: str, kind: str, patterns: Iterable[str]) -> bool:
    return any(kind == p or fnmatchcase(name, p) or fnmatchcase(name, f"{p}.*") for p in patterns)


def make_optimizer(
    make: MakeOptimizer, network: nn.Module, groups: ParamGroups, extra: Iterable[nn.Parameter] = ()
) -> Optimizer:
    """Creates the optimizer. Its first group has the rate optimizer.lr, if any group has.

    extra: parameters that do not belong to the network, such as those of a learned weighting: the last group, without
    decay. Raises ConfigError.
    """
    muon = "adamw_lr" in getattr(make, "keywords", {})  # two optimizers in one: use_muon chooses for each group
    parts = list(groups.split(network, muon).items())
    parts.sort(key=lambda part: (part[0].lr_factor != 1, not part[0].muon))
    if extra := list(extra):
        parts.append((GroupSettings(lr_factor=1.0, decay=False, muon=False), extra))

    param_groups = []
    for settings, parameters in parts:
        group: dict = {"params": parameters}
        if muon:
            group["use_muon"] = settings.muon
        param_groups.append(group)

    with explain_refusal(make):
        optimizer = make(param_groups)
        for group, (settings, _) in zip(optimizer.param_groups, parts, strict=True):
            group["lr"] *= settings.lr_factor
            if not settings.decay:
                group["weight_decay"] = 0.0
    return optimizer


def optimizer_name(make: MakeOptimizer) -> str:
    return getattr(getattr(make, "func", make), "__name__", str(make))


def describe_optimizer(make: MakeOptimizer) -> str:
    """Its name and its settings with their keys."""
    settings = ", ".join(f"optimizer.{name}={value}" for name, value in getattr(make, "keywords", {}).items())
    return f"{optimizer_name(make)} with {settings}"


@contextmanager
def explain_refusal(make: MakeOptimizer, hint: str = "") -> Iterator[None]:
    """Turns a library's errors, as for a learning rate of 'abc', into ConfigError. Some come only in a step."""
    try:
        yield
    except Exception as error:
        raise ConfigError(f"{describe_optimizer(make)} is refused: {error}{hint}") from error


def set_training(training: bool, optimizer: Optimizer, *networks: nn.Module) -> None:
    """Switches the networks, and optimizers such as ScheduleFree, which evaluate with other weights than they train."""
    switch = getattr(optimizer, "train" if training else "eval", None)
    if callable(switch):
        switch()
    for network in networks:
        network.train(training)


@contextmanager
def evaluating(optimizer: Optimizer, *networks: nn.Module) -> Iterator[None]:
    """A context with the weights to validate, sample and save with. It leaves no trace in the training.

    An optimizer that switches weights switches back with rounding errors, so copies restore them to the bit.
    """
    switched = []
    if hasattr(optimizer, "eval"):
        for group in optimizer.param_groups:
            switched += group["params"]
    training_weights = [p.detach().clone() for p in switched]
    set_training(False, optimizer, *networks)
    try:
        with torch.no_grad():
            yield
    finally:
        set_training(True, optimizer, *networks)
        for p, weights in zip(switched, training_weights, strict=True):
            p.data.copy_(weights)
