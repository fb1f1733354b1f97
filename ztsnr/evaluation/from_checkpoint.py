"""Samples a trained checkpoint. Prompts also need the pretrained model from which it was trained; classes do not."""

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
    """Chooses how to sample a checkpoint by its network's conditions. `options`: those of conf/sample.yaml.

    Loads no network. Raises ConfigError and CheckpointError.
    """
    checkpoint = read_checkpoint(path)
    is_text_conditioned = "pretrained" in checkpoint.config.get("model", {})
    kind = PromptSampling if is_text_conditioned else ClassSampling
    kind.reject_foreign_options(options, checkpoint)
    return kind.from_options(options, sampler, checkpoint)


def sample(checkpoint: str | Path | LoadedModel, *, sampler: Sampler | str | None = None, **options: Any) -> Image:
    """Returns the image that `python -m ztsnr.sample` writes: a grid with a row for each class or prompt.

    checkpoint: a run's final.safetensors, or the result of ztsnr.load for it.
    sampler: a Sampler, or an option's name such as "heun"; None uses that of conf/sample.yaml.
    options: keys of conf/sample.yaml except checkpoint and output: classes=[3, 1], prompts=["a red house"], steps=30.
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
    """Samples the grid. `options` has every key of conf/sample.yaml."""
    sampling = checkpoint_sampling(path, sampler, options)
    return tile_images(sampling.sample(loaded), sampling.columns)
