"""Optimizers are a library's; here is what a trainer must know of them."""

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
from ztsnr.core.errors import ConfigError

MakeOptimizer = Callable[[list[dict]], Optimizer]
KINDS = ("vectors", "embeddings", "matrices")


class Settings(NamedTuple):
    factor: float
    decay: bool
    muon: bool


@dataclass(frozen=True, kw_only=True)
class ParamGroups:
    """Which parameters are trained at which rate and decay, by patterns.

    A pattern is a parameter's name as fnmatch has it, or a module's, for all below it, or a kind: `vectors` have fewer
    than two dimensions, as norms and biases do; `embeddings` are nn.Embedding's; `matrices` are the rest.
    `no_decay`: what weight decay spares. Embeddings too, since decay comes in every step and a row's gradient only in
    those where its entry occurs: the rare ones would shrink.
    `adamw`: what Muon leaves to AdamW, namely all but the hidden matrices (kellerjordan.github.io/posts/muon). It lists
    the input and output layers of several networks, so that of these only one must be there.
    `lr`: pairs of a pattern and a factor on the optimizer's rate; the factors of all that match are multiplied.
    """

    no_decay: list[str]
    adamw: list[str]
    lr: list[list]

    def __post_init__(self):
        for field in ("no_decay", "adamw"):
            value = getattr(self, field)
            if not isinstance(value, list) or not all(isinstance(pattern, str) for pattern in value):
                raise ConfigError(f"trainer.groups.{field} must be a list of patterns, got {value!r}")
        for entry in self.lr if isinstance(self.lr, list) else [self.lr]:
            if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
                raise ConfigError(f"trainer.groups.lr must be a list such as [[blocks, 0.1]], got {self.lr!r}")
            checks.finite(f"trainer.groups.lr's factor for {entry[0]}", entry[1], at_least=0)

    def split(self, network: nn.Module, muon: bool) -> dict[Settings, list[nn.Parameter]]:
        """The parameters that require a gradient, in the network's order."""
        kinds = _kinds(network)
        names = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._refuse_idle_patterns(names, muon)
        groups = defaultdict(list)
        for name, p in names.items():
            factor = math.prod(value for pattern, value in self.lr if _matches(name, kinds[p], [pattern]))
            decay = not _matches(name, kinds[p], self.no_decay)
            groups[Settings(factor, decay, muon and not _matches(name, kinds[p], self.adamw))].append(p)
        return groups

    def _refuse_idle_patterns(self, names: Iterable[str], muon: bool) -> None:
        def idle(patterns: Iterable[str]) -> list[str]:
            return [p for p in patterns if p not in KINDS and not any(_matches(name, "", [p]) for name in names)]

        modules = {part for name in names for part in accumulate(name.split("."), "{}.{}".format)}
        for field, patterns in (("no_decay", self.no_decay), ("lr", [pattern for pattern, _ in self.lr])):
            for pattern in idle(patterns):
                near = ", ".join(get_close_matches(pattern.rstrip(".*"), modules, cutoff=0.3)) or ", ".join(names)
                raise ConfigError(
                    f"trainer.groups.{field} has {pattern!r}, which is no parameter's name; near are {near}"
                )
        layers = [pattern for pattern in self.adamw if pattern not in KINDS]
        if muon and layers and len(idle(layers)) == len(layers):
            modules = ", ".join(sorted({name.rpartition(".")[0] for name in names}))
            raise ConfigError(
                f"trainer.groups.adamw={self.adamw} has none of this network's layers. Muon needs its input "
                f"and its output layer there, of {modules}"
            )


def _kinds(network: nn.Module) -> dict[nn.Parameter, str]:
    kinds = {p: "vectors" if p.ndim < 2 else "matrices" for p in network.parameters()}
    embeddings = [module for module in network.modules() if isinstance(module, nn.Embedding)]
    return kinds | {p: "embeddings" for module in embeddings for p in module.parameters()}


def _matches(name: str, kind: str, patterns: Iterable[str]) -> bool:
    return any(kind == p or fnmatchcase(name, p) or fnmatchcase(name, f"{p}.*") for p in patterns)


def make_optimizer(
    make: MakeOptimizer, network: nn.Module, groups: ParamGroups, extra: Iterable[nn.Parameter] = ()
) -> Optimizer:
    """The first group is at optimizer.lr, where any is. `extra` are trained parameters besides the network's, as of a
    learned weighting: the last group, without decay."""
    muon = "adamw_lr" in getattr(make, "keywords", {})  # two optimizers in one, told apart by a group's use_muon
    parts = sorted(groups.split(network, muon).items(), key=lambda part: (part[0].factor != 1, not part[0].muon))
    if extra := list(extra):
        parts.append((Settings(factor=1.0, decay=False, muon=False), extra))
    with refusing(make):
        optimizer = make([{"params": ps} | ({"use_muon": chosen.muon} if muon else {}) for chosen, ps in parts])
        for group, (chosen, _) in zip(optimizer.param_groups, parts, strict=True):
            group["lr"] *= chosen.factor
            if not chosen.decay:
                group["weight_decay"] = 0.0
    return optimizer


def name_of(make: MakeOptimizer) -> str:
    return getattr(getattr(make, "func", make), "__name__", str(make))


def settings_in(make: MakeOptimizer) -> str:
    return f"{name_of(make)} with " + ", ".join(f"optimizer.{k}={v}" for k, v in getattr(make, "keywords", {}).items())


@contextmanager
def refusing(make: MakeOptimizer, hint: str = "") -> Iterator[None]:
    """Each library has exceptions of its own for a learning rate of 'abc' or -1, and some raise them in a step."""
    try:
        yield
    except Exception as error:
        raise ConfigError(f"{settings_in(make)} is refused: {error}{hint}") from error


def set_training(training: bool, optimizer: Optimizer, *networks: nn.Module) -> None:
    """Switches networks, and those optimizers that train on other weights than they evaluate (ScheduleFree)."""
    switch = getattr(optimizer, "train" if training else "eval", None)
    if callable(switch):
        switch()
    for network in networks:
        network.train(training)


@contextmanager
def evaluating(optimizer: Optimizer, *networks: nn.Module) -> Iterator[None]:
    """Inside, the weights are those to validate, sample and save with; afterwards training goes on undisturbed.

    An optimizer that switches weights goes there and back by arithmetic that rounds: they are put back to the bit.
    """
    switched = [p for group in optimizer.param_groups for p in group["params"] if hasattr(optimizer, "eval")]
    training = [p.detach().clone() for p in switched]
    set_training(False, optimizer, *networks)
    try:
        with torch.no_grad():
            yield
    finally:
        set_training(True, optimizer, *networks)
        for p, weights in zip(switched, training, strict=True):
            p.data.copy_(weights)
