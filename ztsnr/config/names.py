"""Names of classes in our files: a table that belongs to the format, so that a class can be renamed or moved.

A config in memory names a class by its import path, under `_target_`. A config in a file (final.safetensors, training
states, config.yaml, exported files) names it by the table below, under `_class_`. Rename a class: change its path
here, never its name. Older files, of 0de1f9a, hold import paths of that commit, which OLD_PATHS knows.

The tables hold no class of a plug-in: files keep its `_target_`, which must stay importable.
"""

from collections.abc import Mapping
from typing import Any

from ztsnr.config.renamed import RENAMED_KEYS, RENAMED_OPTIONS, RENAMED_VALUES, downgrade_keys, upgrade_keys
from ztsnr.core.errors import CheckpointError

TARGET = "_target_"
CLASS = "_class_"

CLASSES: dict[str, str] = {
    "data.captions": "ztsnr.caching.captions.Captions",
    "data.digits": "ztsnr.data.Digits",
    "data.encoding": "ztsnr.caching.settings.Encoding",
    "data.folder": "ztsnr.caching.folder.FolderImages",
    "data.mnist": "ztsnr.data.Mnist",
    "data.rarity": "ztsnr.caching.rarity.Rarity",
    "data.webdataset": "ztsnr.caching.webdataset.WebDataset",
    "density.cauchy": "ztsnr.core.schedule.density.Cauchy",
    "density.cosine": "ztsnr.core.schedule.density.Cosine",
    "density.flow_uniform": "ztsnr.core.schedule.density.FlowUniform",
    "density.infonoise": "ztsnr.core.learned.InfoNoise",
    "density.karras": "ztsnr.core.schedule.density.Karras",
    "density.laplace": "ztsnr.core.schedule.density.Laplace",
    "density.log_normal": "ztsnr.core.schedule.density.LogNormal",
    "density.log_uniform": "ztsnr.core.schedule.density.LogUniform",
    "density.mixture": "ztsnr.core.schedule.combined.Mixture",
    "density.shifted": "ztsnr.core.schedule.combined.Shifted",
    "density.table_interpolated": "ztsnr.core.schedule.density.TableInterpolated",
    "density.table_uniform": "ztsnr.core.schedule.density.TableUniform",
    "density.terminal_mass": "ztsnr.core.schedule.combined.TerminalMass",
    "density.truncated": "ztsnr.core.schedule.combined.Truncated",
    "distance.charbonnier": "ztsnr.core.distance.Charbonnier",
    "distance.huber": "ztsnr.core.distance.Huber",
    "distance.mae": "ztsnr.core.distance.MAE",
    "distance.mse": "ztsnr.core.distance.MSE",
    "distance.pseudo_huber": "ztsnr.core.distance.PseudoHuber",
    "features.classifier": "ztsnr.evaluation.features.ClassifierFeatures",
    "features.torchscript": "ztsnr.evaluation.features.TorchScriptFeatures",
    "features.transformers": "ztsnr.evaluation.features.TransformersFeatures",
    "grid.karras": "ztsnr.core.schedule.grid.KarrasGrid",
    "grid.leading": "ztsnr.core.schedule.grid.Leading",
    "grid.linspace": "ztsnr.core.schedule.grid.Linspace",
    "grid.list": "ztsnr.core.schedule.grid.SigmaList",
    "grid.quantiles": "ztsnr.core.schedule.grid.Quantiles",
    "grid.terminal": "ztsnr.core.schedule.grid.WithTerminalStep",
    "grid.trailing": "ztsnr.core.schedule.grid.Trailing",
    "lr_schedule.constant": "ztsnr.training.lr_schedule.Constant",
    "lr_schedule.cosine": "ztsnr.training.lr_schedule.Cosine",
    "lr_schedule.inverse_sqrt": "ztsnr.training.lr_schedule.InverseSqrt",
    "lr_schedule.polynomial": "ztsnr.training.lr_schedule.Polynomial",
    "lr_schedule.wsd": "ztsnr.training.lr_schedule.WarmupStableDecay",
    "model.mlp": "ztsnr.models.mlp.MLP",
    "model.sd15": "ztsnr.models.sdxl.SD15",
    "model.sdxl": "ztsnr.models.sdxl.SDXL",
    "model.unet": "ztsnr.models.unet.UNet",
    "objective": "ztsnr.core.objective.Objective",
    "optimizer.adafactor": "pytorch_optimizer.AdaFactor",
    "optimizer.adamw": "torch.optim.AdamW",
    "optimizer.adamw8bit": "bitsandbytes.optim.AdamW8bit",
    "optimizer.adan": "pytorch_optimizer.Adan",
    "optimizer.came": "pytorch_optimizer.CAME",
    "optimizer.flash_adamw": "pytorch_optimizer.FlashAdamW",
    "optimizer.lion": "pytorch_optimizer.Lion",
    "optimizer.lion8bit": "bitsandbytes.optim.Lion8bit",
    "optimizer.muon": "pytorch_optimizer.Muon",
    "optimizer.paged_adamw8bit": "bitsandbytes.optim.PagedAdamW8bit",
    "optimizer.paged_lion8bit": "bitsandbytes.optim.PagedLion8bit",
    "optimizer.prodigy": "pytorch_optimizer.Prodigy",
    "optimizer.rose": "pytorch_optimizer.ROSE",
    "optimizer.schedule_free_adamw": "pytorch_optimizer.ScheduleFreeAdamW",
    "optimizer.soap": "pytorch_optimizer.SOAP",
    "optimizer.stable_adamw": "pytorch_optimizer.StableAdamW",
    "quality.frechet": "ztsnr.evaluation.quality.Quality",
    "quality.none": "ztsnr.evaluation.quality.NoQuality",
    "sampler.dpmpp_2m": "ztsnr.core.sampling.DPMpp2M",
    "sampler.euler": "ztsnr.core.sampling.Euler",
    "sampler.heun": "ztsnr.core.sampling.Heun",
    "samples.class_grid": "ztsnr.evaluation.samples.SampleGrid",
    "samples.none": "ztsnr.evaluation.samples.NoSamples",
    "samples.prompts": "ztsnr.evaluation.prompts.Prompts",
    "schedule": "ztsnr.core.schedule.Schedule",
    "sizes.auto": "ztsnr.caching.buckets.AutoSizes",
    "sizes.list": "ztsnr.caching.buckets.Sizes",
    "table.cosine": "ztsnr.core.schedule.table.CosineTable",
    "table.linear": "ztsnr.core.schedule.table.Linear",
    "table.scaled_linear": "ztsnr.core.schedule.table.ScaledLinear",
    "table.zero_terminal": "ztsnr.core.schedule.table.ZeroTerminal",
    "target.edm": "ztsnr.core.target.EDM",
    "target.eps": "ztsnr.core.target.Eps",
    "target.flow": "ztsnr.core.target.Flow",
    "target.v": "ztsnr.core.target.V",
    "target.x0": "ztsnr.core.target.X0",
    "threshold.constant": "ztsnr.core.distance.ConstantThreshold",
    "threshold.exponential": "ztsnr.core.distance.ExponentialThreshold",
    "threshold.snr": "ztsnr.core.distance.SNRThreshold",
    "timesteps.flow_time": "ztsnr.core.schedule.timesteps.FlowTime",
    "timesteps.log_sigma": "ztsnr.core.schedule.timesteps.LogSigma",
    "timesteps.table_index": "ztsnr.core.schedule.timesteps.TableIndex",
    "tracking.mlflow": "ztsnr.tracking.mlflow_tracker.MLflowTracker",
    "tracking.none": "ztsnr.tracking.tracker.NoTracker",
    "train.full": "ztsnr.models.trainable.Weights",
    "train.lora": "ztsnr.models.trainable.LoRA",
    "train_text.full": "ztsnr.models.trainable.TextWeights",
    "train_text.lora": "ztsnr.models.trainable.TextLoRA",
    "trainer": "ztsnr.training.trainer.Trainer",
    "trainer.checkpoint": "ztsnr.checkpoints.policy.SavePolicy",
    "trainer.groups": "ztsnr.training.optim.ParamGroups",
    "trainer.posthoc_ema": "ztsnr.training.posthoc.PosthocEMA",
    "validation.held_out": "ztsnr.evaluation.validation.Validation",
    "weighting.debiased": "ztsnr.core.weighting.Debiased",
    "weighting.importance": "ztsnr.core.weighting.Importance",
    "weighting.min_snr": "ztsnr.core.weighting.MinSNR",
    "weighting.min_snr_by_eps": "ztsnr.core.weighting.MinSNRByEps",
    "weighting.other_table": "ztsnr.core.weighting.RemappedTable",
    "weighting.p2": "ztsnr.core.weighting.P2",
    "weighting.sigmoid": "ztsnr.core.weighting.Sigmoid",
    "weighting.soft_min_snr": "ztsnr.core.weighting.SoftMinSNR",
    "weighting.truncated_snr": "ztsnr.core.weighting.TruncatedSNR",
    "weighting.uncertainty": "ztsnr.core.learned.Uncertainty",
    "weighting.unit": "ztsnr.core.weighting.Unit",
}
"""Name in a file -> import path today, for every `_target_` of conf/."""

OLD_PATHS: dict[str, str] = {
    "ztsnr.data.Digits": "data.digits",
    "ztsnr.data.Mnist": "data.mnist",
    "ztsnr.data.buckets.AutoSizes": "sizes.auto",
    "ztsnr.data.buckets.Sizes": "sizes.list",
    "ztsnr.data.captions.Captions": "data.captions",
    "ztsnr.data.encode.Encoding": "data.encoding",
    "ztsnr.data.folder.FolderImages": "data.folder",
    "ztsnr.data.rarity.Rarity": "data.rarity",
    "ztsnr.data.webdataset.WebDataset": "data.webdataset",
    "ztsnr.distance.BySNR": "threshold.snr",
    "ztsnr.distance.Charbonnier": "distance.charbonnier",
    "ztsnr.distance.Constant": "threshold.constant",
    "ztsnr.distance.Exponential": "threshold.exponential",
    "ztsnr.distance.Huber": "distance.huber",
    "ztsnr.distance.MAE": "distance.mae",
    "ztsnr.distance.MSE": "distance.mse",
    "ztsnr.distance.PseudoHuber": "distance.pseudo_huber",
    "ztsnr.evaluation.features.ClassifierFeatures": "features.classifier",
    "ztsnr.evaluation.features.TorchScriptFeatures": "features.torchscript",
    "ztsnr.evaluation.features.TransformersFeatures": "features.transformers",
    "ztsnr.evaluation.prompts.Prompts": "samples.prompts",
    "ztsnr.evaluation.quality.NoQuality": "quality.none",
    "ztsnr.evaluation.quality.Quality": "quality.frechet",
    "ztsnr.evaluation.samples.NoSamples": "samples.none",
    "ztsnr.evaluation.samples.SampleGrid": "samples.class_grid",
    "ztsnr.evaluation.validation.Validation": "validation.held_out",
    "ztsnr.learned.InfoNoise": "density.infonoise",
    "ztsnr.learned.Uncertainty": "weighting.uncertainty",
    "ztsnr.models.mlp.MLP": "model.mlp",
    "ztsnr.models.sdxl.SD15": "model.sd15",
    "ztsnr.models.sdxl.SDXL": "model.sdxl",
    "ztsnr.models.trained.LoRA": "train.lora",
    "ztsnr.models.trained.TextLoRA": "train_text.lora",
    "ztsnr.models.trained.TextWeights": "train_text.full",
    "ztsnr.models.trained.Weights": "train.full",
    "ztsnr.models.unet.UNet": "model.unet",
    "ztsnr.objective.Objective": "objective",
    "ztsnr.sampling.DPMpp2M": "sampler.dpmpp_2m",
    "ztsnr.sampling.Euler": "sampler.euler",
    "ztsnr.sampling.Heun": "sampler.heun",
    "ztsnr.schedule.Schedule": "schedule",
    "ztsnr.schedule.combined.Mixture": "density.mixture",
    "ztsnr.schedule.combined.Shifted": "density.shifted",
    "ztsnr.schedule.combined.TerminalMass": "density.terminal_mass",
    "ztsnr.schedule.combined.Truncated": "density.truncated",
    "ztsnr.schedule.density.Cauchy": "density.cauchy",
    "ztsnr.schedule.density.Cosine": "density.cosine",
    "ztsnr.schedule.density.FlowUniform": "density.flow_uniform",
    "ztsnr.schedule.density.Karras": "density.karras",
    "ztsnr.schedule.density.Laplace": "density.laplace",
    "ztsnr.schedule.density.LogNormal": "density.log_normal",
    "ztsnr.schedule.density.LogUniform": "density.log_uniform",
    "ztsnr.schedule.density.TableInterpolated": "density.table_interpolated",
    "ztsnr.schedule.density.TableUniform": "density.table_uniform",
    "ztsnr.schedule.grid.Explicit": "grid.list",
    "ztsnr.schedule.grid.FromTerminal": "grid.terminal",
    "ztsnr.schedule.grid.Karras": "grid.karras",
    "ztsnr.schedule.grid.Leading": "grid.leading",
    "ztsnr.schedule.grid.Linspace": "grid.linspace",
    "ztsnr.schedule.grid.Quantiles": "grid.quantiles",
    "ztsnr.schedule.grid.Trailing": "grid.trailing",
    "ztsnr.schedule.table.Cosine": "table.cosine",
    "ztsnr.schedule.table.Linear": "table.linear",
    "ztsnr.schedule.table.ScaledLinear": "table.scaled_linear",
    "ztsnr.schedule.table.ZeroTerminal": "table.zero_terminal",
    "ztsnr.schedule.timesteps.FlowTime": "timesteps.flow_time",
    "ztsnr.schedule.timesteps.LogSigma": "timesteps.log_sigma",
    "ztsnr.schedule.timesteps.TableIndex": "timesteps.table_index",
    "ztsnr.target.EDM": "target.edm",
    "ztsnr.target.Eps": "target.eps",
    "ztsnr.target.Flow": "target.flow",
    "ztsnr.target.V": "target.v",
    "ztsnr.target.X0": "target.x0",
    "ztsnr.training.lr_schedule.Constant": "lr_schedule.constant",
    "ztsnr.training.lr_schedule.Cosine": "lr_schedule.cosine",
    "ztsnr.training.lr_schedule.InverseSqrt": "lr_schedule.inverse_sqrt",
    "ztsnr.training.lr_schedule.Polynomial": "lr_schedule.polynomial",
    "ztsnr.training.lr_schedule.WarmupStableDecay": "lr_schedule.wsd",
    "ztsnr.training.optim.ParamGroups": "trainer.groups",
    "ztsnr.training.posthoc.PosthocEMA": "trainer.posthoc_ema",
    "ztsnr.training.saves.SavePolicy": "trainer.checkpoint",
    "ztsnr.training.tracking.MLflow": "tracking.mlflow",
    "ztsnr.training.tracking.NoTracker": "tracking.none",
    "ztsnr.training.trainer.Trainer": "trainer",
    "ztsnr.weighting.Debiased": "weighting.debiased",
    "ztsnr.weighting.Importance": "weighting.importance",
    "ztsnr.weighting.MinSNR": "weighting.min_snr",
    "ztsnr.weighting.MinSNRByEps": "weighting.min_snr_by_eps",
    "ztsnr.weighting.OtherTable": "weighting.other_table",
    "ztsnr.weighting.P2": "weighting.p2",
    "ztsnr.weighting.Sigmoid": "weighting.sigmoid",
    "ztsnr.weighting.SoftMinSNR": "weighting.soft_min_snr",
    "ztsnr.weighting.TruncatedSNR": "weighting.truncated_snr",
    "ztsnr.weighting.Unit": "weighting.unit",
}
"""Import path of 0de1f9a -> name in a file."""

NAMES = OLD_PATHS | {path: name for name, path in CLASSES.items()}
"""Import path of today or of 0de1f9a -> name in a file."""

PATHS_OF_0DE1F9A = CLASSES | {name: path for path, name in OLD_PATHS.items()}
"""Name in a file -> import path of 0de1f9a."""

OLD_CLASSES = {path.rpartition(".")[2]: name.rpartition(".")[2] for path, name in NAMES.items()}
"""Name of a class in parameters that 0de1f9a recorded -> in those of today, as "MinSNR": "min_snr"."""


def encode(node: Any) -> Any:
    """A resolved config as files hold it: classes by name. Import paths of 0de1f9a are understood too."""
    if isinstance(node, list):
        return [encode(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    encoded = {}
    for key, value in node.items():
        if key == TARGET and value in NAMES:
            encoded[CLASS] = NAMES[value]
        else:
            encoded[key] = encode(value)
    return encoded


def decode(node: Any) -> Any:
    """A config from a file as `build` takes it: classes by import path. Raises CheckpointError for an unknown name."""
    return _decode(node, CLASSES)


def _decode(node: Any, paths: Mapping[str, str]) -> Any:
    if isinstance(node, list):
        return [_decode(entry, paths) for entry in node]
    if not isinstance(node, dict):
        return node
    decoded = {}
    for key, value in node.items():
        if key == CLASS:
            decoded[TARGET] = _path(value, paths)
        elif key == TARGET and value in NAMES:
            decoded[TARGET] = paths[NAMES[value]]
        else:
            decoded[key] = _decode(value, paths)
    return decoded


def upgrade(config: Any) -> Any:
    """A run's config from a file of this version or of 0de1f9a, as this version writes it."""
    return encode(upgrade_keys(config)) if isinstance(config, dict) else config


def downgrade(config: dict) -> dict:
    """The inverse of `upgrade`: a config of this version as 0de1f9a wrote it."""
    return _decode(downgrade_keys(config), PATHS_OF_0DE1F9A)


def upgrade_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """A recorded run's parameters or axes, of this version or of 0de1f9a, with today's keys, options and classes."""
    upgraded = {}
    for key, value in settings.items():
        key = RENAMED_KEYS.get(key, key)
        value = RENAMED_OPTIONS.get((key, value)) or str(RENAMED_VALUES.get((key, value), value))
        upgraded[key] = OLD_CLASSES.get(value, value)
    return upgraded


def _path(name: Any, paths: Mapping[str, str]) -> str:
    if not isinstance(name, str) or name not in paths:
        raise CheckpointError(f"a config in a file names the class {name!r}, which this version does not know")
    return paths[name]
