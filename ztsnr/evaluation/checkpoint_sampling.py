"""How to sample a checkpoint whose network is conditioned on classes, and one conditioned on prompts."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ztsnr.checkpoints.load import LoadedModel, load_model
from ztsnr.checkpoints.weights import Checkpoint
from ztsnr.core import checks
from ztsnr.core.errors import CheckpointError, ConfigError
from ztsnr.core.sampling import Sampler
from ztsnr.devices.memory import explain_oom
from ztsnr.evaluation.prompts import Prompts
from ztsnr.evaluation.samples import SampleGrid
from ztsnr.models.sdxl import PretrainedUNet


class CheckpointSampling:
    """Samples one kind of checkpoint, with the options of conf/sample.yaml."""

    own_options: ClassVar[tuple[str, ...]]
    """Options that the other kind does not have."""
    defaults_key: ClassVar[str]
    """Key in conf/sample.yaml with the values that replace options that are null."""
    conditions: ClassVar[str]
    """Noun for what the network is conditioned on, for messages."""
    remedy: ClassVar[str]
    """What to write instead of an option of the other kind."""

    @classmethod
    @abstractmethod
    def from_options(cls, options: Mapping[str, Any], sampler: Sampler, checkpoint: Checkpoint) -> "CheckpointSampling":
        """Checks the options without loading a model. Raises ConfigError."""
        raise NotImplementedError

    @property
    @abstractmethod
    def columns(self) -> int:
        """Images of each class or prompt."""
        raise NotImplementedError

    @abstractmethod
    def sample(self, loaded: LoadedModel | None = None) -> Tensor:
        """(classes or prompts * columns, C, H, W) in [-1, 1], in host memory. Raises CheckpointError.

        loaded: the checkpoint's model if it is in memory already.
        """
        raise NotImplementedError

    @classmethod
    def reject_foreign_options(cls, options: Mapping[str, Any], checkpoint: Checkpoint) -> None:
        """Raises ConfigError if an option of the other kind is set."""
        foreign = {name for kind in SAMPLING_KINDS for name in kind.own_options} - set(cls.own_options)
        for name in options:
            if name in foreign and options[name] is not None:
                raise ConfigError(
                    f"{name} is not for {checkpoint.path}, which takes {cls.conditions}. Use {cls.remedy}"
                )

    @classmethod
    def grid_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options that both kinds share, as arguments of a grid. Raises ConfigError."""
        chosen = dict(options[cls.defaults_key])
        for name in chosen:
            if options[name] is not None:
                chosen[name] = options[name]
        guidance = chosen.pop("guidance")
        checks.finite("guidance", guidance, at_least=0)
        return {**chosen, "guidances": [guidance], "seed": options["seed"]}


@dataclass(frozen=True, kw_only=True)
class ClassSampling(CheckpointSampling):
    own_options = ("classes",)
    defaults_key = "of_classes"
    conditions = "classes"
    remedy = "classes=[...]"

    path: Path
    weights: str
    grid: SampleGrid
    classes: list[int] | None

    @classmethod
    def from_options(cls, options: Mapping[str, Any], sampler: Sampler, checkpoint: Checkpoint) -> "ClassSampling":
        checks.of_type("classes", options["classes"], list[int] | None)
        grid = SampleGrid(sampler=sampler, **cls.grid_options(options))
        return cls(path=checkpoint.path, weights=options["weights"], grid=grid, classes=options["classes"])

    @property
    def columns(self) -> int:
        return self.grid.columns

    def sample(self, loaded: LoadedModel | None = None) -> Tensor:
        objective, network, checkpoint = loaded or load_model(self.path, self.weights)
        try:
            shape = tuple(checkpoint.config["data"]["shape"])
            class_count = int(checkpoint.config["data"]["classes"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.path} was not trained on labelled images: no {error!r}") from error
        classes = self.classes or list(range(class_count))
        for number in classes:
            checks.one_of("classes", number, range(class_count))
        with explain_oom("fewer classes or columns"), torch.inference_mode():
            label = torch.tensor(classes)
            scale = self.grid.guidances[0]
            return self.grid.sample(objective, network, shape, classes=label, null_label=class_count, scale=scale)


@dataclass(frozen=True, kw_only=True)
class PromptSampling(CheckpointSampling):
    own_options = ("prompts", "file", "negative", "size", "pretrained")
    defaults_key = "of_prompts"
    conditions = "prompts"
    remedy = "prompts=[...] or file=FILE"

    path: Path
    weights: str
    pretrained: str | None
    """Location of the weights that were not trained; None uses the location from training."""
    latents: Mapping[str, Any]
    prompts: Prompts
    has_size: bool
    """False uses the network's own size, which is unknown until it is loaded."""

    @classmethod
    def from_options(cls, options: Mapping[str, Any], sampler: Sampler, checkpoint: Checkpoint) -> "PromptSampling":
        if (options["prompts"] is None) == (options["file"] is None):
            raise ConfigError("set either prompts=[...] or file=FILE")
        if "latents" not in checkpoint.facts:
            raise CheckpointError(f"{checkpoint.path} has no latent statistics in its metadata (ztsnr.facts)")
        prompts = Prompts(
            sampler=sampler,
            prompts=options["prompts"],
            file=options["file"],
            negative=options["negative"] or "",
            pretrained=options["pretrained"] or checkpoint.config["model"]["pretrained"],
            size=options["size"] or [8, 8],
            **cls.grid_options(options),
        )
        return cls(
            path=checkpoint.path,
            weights=options["weights"],
            pretrained=options["pretrained"],
            latents=checkpoint.facts["latents"],
            prompts=prompts,
            has_size=options["size"] is not None,
        )

    @property
    def columns(self) -> int:
        return self.prompts.columns

    def sample(self, loaded: LoadedModel | None = None) -> Tensor:
        objective, network, _ = loaded or load_model(self.path, self.weights, self.pretrained)
        prompts = self.prompts
        if not self.has_size:
            side = cast("PretrainedUNet", network).image_size
            prompts = replace(prompts, size=[side, side])
        with explain_oom("fewer columns or a smaller size"), torch.inference_mode():
            return prompts.sample(objective, network, self.latents, prompts.guidances[0])


SAMPLING_KINDS: tuple[type[CheckpointSampling], ...] = (ClassSampling, PromptSampling)
