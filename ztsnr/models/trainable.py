"""Selects the trained parameters of a pretrained network: all or some of its own weights, or a LoRA."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from torch import nn

from ztsnr.core.checks import Bounds, Count, NonEmpty, Part, Positive
from ztsnr.core.errors import CheckpointError, ConfigError
from ztsnr.formats.lora import Update
from ztsnr.models.parts import to_dtype
from ztsnr.models.quantised import BITS, quantise

Patterns = Annotated[list[str], NonEmpty()]
"""Patterns for fnmatch."""


class TrainableSelection(Part):
    config_key: ClassVar[str] = "model.train"
    """Key in a config, for messages."""
    start: str | None
    """LoRA file to continue from."""

    def prepare(self, network: nn.Module) -> None:
        """Sets requires_grad for exactly the trained parameters. Raises ConfigError."""
        raise NotImplementedError

    def load_start(self, updates: Mapping[str, Update], network: nn.Module) -> None:
        """Copies the updates from `start` into a prepared network. Raises CheckpointError if they do not fit."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Weights(TrainableSelection):
    """Trains the network's own weights, in the modules or parameters whose names match a pattern."""

    patterns: Patterns
    start = None

    def prepare(self, network: nn.Module) -> None:
        names = [name for name, _ in network.named_parameters()]
        chosen = set(match_names(f"{self.config_key}.patterns", self.patterns, names, ("{}", "{}.*")))
        for name, p in network.named_parameters():
            p.requires_grad_(name in chosen)


@dataclass(frozen=True, kw_only=True)
class LoRA(TrainableSelection):
    """Trains low-rank updates of linear and convolutional layers (arXiv 2106.09685), by peft.

    modules: patterns for the layers' names or their last parts, such as to_q or resnets.*.conv1. The update's scale is
    alpha / rank. dora: DoRA (arXiv 2402.09353). base: type of the frozen weights; 8bit and 4bit apply to the linear
    layers of transformer blocks, the rest is bfloat16. start: a LoRA file to continue from, of any trainer that
    formats.lora supports; null starts from zero.
    """

    rank: Count
    alpha: Positive
    dropout: Annotated[float, Bounds(at_least=0, below=1)]
    dora: bool
    modules: Patterns
    base: Literal["float32", "bfloat16", "8bit", "4bit"]
    start: str | None

    def prepare(self, network: nn.Module) -> None:
        from peft import LoraConfig

        modules = match_names(f"{self.config_key}.modules", self.modules, layers_of(network), ("{}", "*.{}"))
        to_dtype(network.requires_grad_(False), torch.float32 if self.base == "float32" else torch.bfloat16)
        if self.base in BITS:
            quantise(network, self.base)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=cast("int", self.alpha),  # peft scales by floats too
            lora_dropout=self.dropout,
            use_dora=self.dora,
            target_modules=modules,
        )
        cast("Any", network).add_adapter(config)
        for p in network.parameters():
            if p.requires_grad:
                p.data = p.data.float()

    @torch.no_grad()
    def load_start(self, updates: Mapping[str, Update], network: nn.Module) -> None:
        parameters = dict(network.named_parameters())
        for module, update in updates.items():
            scale = (update.alpha / update.rank) / (self.alpha / self.rank)
            values = {"lora_A.default.weight": update.down, "lora_B.default.weight": update.up * scale}
            if update.magnitude is not None:
                values["lora_magnitude_vector.default.weight"] = update.magnitude
            for name, value in values.items():
                p = parameters.get(f"{module}.{name}")
                if p is None or p.shape != value.shape:
                    raise CheckpointError(
                        f"{self.config_key}.start={self.start} has {name} {tuple(value.shape)} for {module}, which "
                        f"does not fit {self.config_key}: set its rank, dora and modules as they are in the file"
                    )
                p.copy_(value)


class TextWeights(Weights):
    """Trains the text encoders' own weights."""

    config_key = "model.train_text"


class TextLoRA(LoRA):
    """Trains low-rank updates of the text encoders' layers."""

    config_key = "model.train_text"


def merge(network: nn.Module) -> nn.Module:
    """Merges a LoRA's updates into the network's weights and removes the LoRA's layers. Changes the network."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(network.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            network.set_submodule(name, layer.get_base_layer())
    if getattr(network, "_hf_peft_config_loaded", False):
        adapted = cast("Any", network)
        adapted._hf_peft_config_loaded = False  # otherwise diffusers would save a LoRA
        del adapted.peft_config
    return network


def layers_of(network: nn.Module) -> list[str]:
    """Names of the layers that a LoRA can update."""
    return [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def match_names(key: str, patterns: list[str], names: Iterable[str], forms: tuple[str, ...]) -> list[str]:
    """The names that match a pattern in one of its forms. Raises ConfigError for a pattern without a match."""
    names = list(names)
    chosen = set()
    for pattern in patterns:
        matched = {name for name in names if any(fnmatchcase(name, form.format(pattern)) for form in forms)}
        if not matched:
            examples = names[:: max(1, len(names) // 6)]
            raise ConfigError(f"{key} has {pattern!r}, which matches nothing; there are {', '.join(examples)}")
        chosen |= matched
    return [name for name in names if name in chosen]
