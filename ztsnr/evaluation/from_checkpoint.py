"""Samples of a trained checkpoint: of classes from the checkpoint only, of prompts with its pretrained model too."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from PIL.Image import Image

from ztsnr.checkpoints.load import LoadedModel
from ztsnr.checkpoints.weights import read_checkpoint
from ztsnr.config.registry import build, compose
from ztsnr.core.errors import ConfigError
from ztsnr.core.sampling import Sampler
from ztsnr.evaluation.checkpoint_sampling import CheckpointSampling, ClassSampling, PromptSampling
from ztsnr.evaluation.samples import tile_images


def checkpoint_sampling(path: str | Path, sampler: Sampler, options: Mapping[str, Any]) -> CheckpointSampling:
    """How a checkpoint is sampled, by what its network is conditioned on. `options`: those of conf/sample.yaml.

    Raises ConfigError and CheckpointError, before any network is loaded.
    """
    checkpoint = read_checkpoint(path)
    is_text_conditioned = "pretrained" in checkpoint.config.get("model", {})
    kind = PromptSampling if is_text_conditioned else ClassSampling
    kind.reject_foreign_options(options, checkpoint)
    return kind.from_options(options, sampler, checkpoint)


def sample(checkpoint: str | Path | LoadedModel, *, sampler: Sampler | str | None = None, **options: Any) -> Image:
    """One image, a grid with a row for each class or prompt: what `python -m ztsnr.sample` writes.

    checkpoint: final.safetensors of a run, or what ztsnr.load returned for it.
    sampler: one of your own, or an option's name, "heun"; None: that of conf/sample.yaml.
    options: any key of conf/sample.yaml but output, as classes=[3, 1], prompts=["a red house"], steps=30, guidance=3.0.
    Raises ConfigError and CheckpointError.
    """
    loaded = checkpoint if isinstance(checkpoint, LoadedModel) else None
    path = checkpoint.facts.path if isinstance(checkpoint, LoadedModel) else Path(checkpoint)
    choice = [f"sampler={sampler}"] if isinstance(sampler, str) else []
    config = compose(*choice, config="sample")
    values = cast("dict[str, Any]", OmegaConf.to_container(config))
    unknown = sorted(options.keys() - values.keys() | options.keys() & {"checkpoint", "output"})
    if unknown:
        raise ConfigError(f"sample has no {unknown[0]!r}; its options are those of conf/sample.yaml")
    chosen = sampler if isinstance(sampler, Sampler) else build(config, "sampler")
    return sample_grid(path, chosen, values | options, loaded)


def sample_grid(
    path: str | Path, sampler: Sampler, options: Mapping[str, Any], loaded: LoadedModel | None = None
) -> Image:
    """options: all of conf/sample.yaml's."""
    sampling = checkpoint_sampling(path, sampler, options)
    return tile_images(sampling.sample(loaded), sampling.columns)
