"""What of a pretrained network is trained: its weights, all or some, or a LoRA beside them."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from ztsnr.core import checks
from ztsnr.core.errors import CheckpointError, ConfigError
from ztsnr.formats.lora import Update
from ztsnr.models.quantised import BITS, quantise, shared_whole
from ztsnr.models.source import cast

BASES = ("float32", "bfloat16", *BITS)


class Trained:
    key = "model.train"
    """Of this in a config."""
    start: str | None
    """The file of a LoRA to go on from."""

    def prepare(self, network: nn.Module) -> None:
        """Leaves those parameters that are trained, and no others, in need of a gradient. Raises ConfigError."""
        raise NotImplementedError

    def begin_with(self, updates: Mapping[str, Update], network: nn.Module) -> None:
        """Puts what `start` holds into a network that was prepared. Raises CheckpointError where it does not fit."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Weights(Trained):
    """The network's own weights, of the modules or parameters whose names match a pattern (fnmatch)."""

    patterns: list[str]
    start = None

    def __post_init__(self):
        _check_patterns(f"{self.key}.patterns", self.patterns)

    def prepare(self, network):
        names = [name for name, _ in network.named_parameters()]
        chosen = set(matching(f"{self.key}.patterns", self.patterns, names, ("{}", "{}.*")))
        for name, p in network.named_parameters():
            p.requires_grad_(name in chosen)


@dataclass(frozen=True, kw_only=True)
class LoRA(Trained):
    """Low-rank updates of linear and convolutional layers (arXiv 2106.09685), by peft; `dora` as arXiv 2402.09353.

    `modules`: patterns (fnmatch) of the layers' names or of their last parts, such as to_q or resnets.*.conv1.
    The update's scale is alpha / rank. `base` is the type of the frozen weights, 8bit and 4bit that of the linear
    layers of transformer blocks, with bfloat16 for the rest. `start` is the file of a LoRA to go on from, of any
    trainer whose names formats.lora reads; null starts at no change.
    """

    rank: int
    alpha: float
    dropout: float
    dora: bool
    modules: list[str]
    base: str
    start: str | None

    def __post_init__(self):
        checks.integer(f"{self.key}.rank", self.rank, at_least=1)
        checks.finite(f"{self.key}.alpha", self.alpha, above=0)
        checks.finite(f"{self.key}.dropout", self.dropout, at_least=0, below=1)
        checks.flag(f"{self.key}.dora", self.dora)
        checks.one_of(f"{self.key}.base", self.base, BASES)
        _check_patterns(f"{self.key}.modules", self.modules)

    def prepare(self, network):
        from peft import LoraConfig

        chosen = matching(f"{self.key}.modules", self.modules, layers_of(network), ("{}", "*.{}"))
        cast(network.requires_grad_(False), torch.float32 if self.base == "float32" else torch.bfloat16)
        if self.base in BITS:
            quantise(network, self.base)
        network.add_adapter(
            LoraConfig(
                r=self.rank,
                lora_alpha=self.alpha,
                lora_dropout=self.dropout,
                use_dora=self.dora,
                target_modules=chosen,
            )
        )
        for p in filter(lambda p: p.requires_grad, network.parameters()):
            p.data = p.data.float()

    @torch.no_grad()
    def begin_with(self, updates, network):
        trained = dict(network.named_parameters())
        for module, update in updates.items():
            scale = (update.alpha / update.rank) / (self.alpha / self.rank)
            given = {"lora_A.default.weight": update.down, "lora_B.default.weight": update.up * scale}
            if update.magnitude is not None:
                given["lora_magnitude_vector.default.weight"] = update.magnitude
            for name, value in given.items():
                p = trained.get(f"{module}.{name}")
                if p is None or p.shape != value.shape:
                    raise CheckpointError(
                        f"{self.key}.start={self.start} has {name} {tuple(value.shape)} for {module}, which does not "
                        f"fit {self.key}: set its rank, dora and modules as they are in the file"
                    )
                p.copy_(value)


class TextWeights(Weights):
    """The text encoders' own weights."""

    key = "model.train_text"


class TextLoRA(LoRA):
    """Low-rank updates of the text encoders' layers."""

    key = "model.train_text"


def merge(network: nn.Module) -> nn.Module:
    """The network, a LoRA's updates put into its weights and its own layers gone."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(network.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            network.set_submodule(name, layer.get_base_layer())
    if getattr(network, "_hf_peft_config_loaded", False):
        network._hf_peft_config_loaded = False  # else it would be saved as the LoRA that it no longer has
        del network.peft_config
    return network


def layers_of(network: nn.Module) -> list[str]:
    """Names of what a LoRA can be beside."""
    return [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def matching(key: str, patterns: list[str], names: Iterable[str], forms: tuple[str, ...]) -> list[str]:
    """Those of `names` that match a pattern in one of its forms. Raises ConfigError for a pattern that none does."""
    names = list(names)
    found = {
        pattern: [name for name in names if any(fnmatchcase(name, form.format(pattern)) for form in forms)]
        for pattern in patterns
    }
    for pattern, matched in found.items():
        if not matched:
            raise ConfigError(
                f"{key} has {pattern!r}, which matches nothing; there are {', '.join(names[:: len(names) // 6])}"
            )
    chosen = {name for matched in found.values() for name in matched}
    return [name for name in names if name in chosen]


def _check_patterns(key: str, patterns) -> None:
    if not isinstance(patterns, list) or not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise ConfigError(f"{key} must be a list of patterns, got {patterns!r}")


class Adapted(nn.Module):
    """Base of networks that are not trained whole. Their state is what is trained; the rest is had from its source.

    A copy, as of an average of the weights, shares what is not trained.
    """

    def keep_trained(self) -> None:
        """To be called once the parameters to be trained are those that require a gradient."""
        self.trained = frozenset(name for name, p in self.named_parameters() if p.requires_grad)
        self.register_state_dict_post_hook(_drop_untrained)
        self.register_load_state_dict_post_hook(_miss_no_untrained)

    def __deepcopy__(self, memo: dict):
        memo |= {id(p): p for name, p in self.named_parameters() if name not in self.trained}
        memo |= {id(layer): layer for layer in shared_whole(self)}
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__ = deepcopy(self.__dict__, memo)
        return copied


def _drop_untrained(network: Adapted, state: dict, prefix: str, _) -> None:
    for key in [key for key in state if key.startswith(prefix) and key.removeprefix(prefix) not in network.trained]:
        del state[key]


def _miss_no_untrained(network: Adapted, keys) -> None:
    keys.missing_keys[:] = [key for key in keys.missing_keys if key in network.trained]
