"""The node that tells ComfyUI a model's noise schedule and target."""

import os

from ztsnr.core import checks
from ztsnr.core.schedule.timesteps import TableIndex

from .api import io, number
from .checkpoint import Facts, file_names, path_of, read_facts
from .guidance import DynamicSNR, put_post_cfg
from .model_sampling import NormalisedLatents, check_model, model_sampling, resolution_factor
from .tables import CEILING, table_between

BELOW = "set below"


class VPrediction(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ZTSNRVPrediction",
            display_name="ZTSNR V-Prediction",
            category="conditioning",
            description=(
                "Tells ComfyUI the noise schedule and target of an SD or SDXL model with zero terminal SNR: an "
                "explicit table of sigmas in place of the stock one. LoRAs and guidance set by other nodes stay; of "
                "two nodes that set the model's sampling the later wins."
            ),
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input(
                    "checkpoint",
                    options=[BELOW, *file_names()],
                    default=BELOW,
                    tooltip=(
                        "The checkpoint, U-Net or LoRA of ztsnr.export that the model was loaded from: table, target, "
                        "timesteps, sampling grid and latent statistics are read from its metadata, and the four "
                        "settings below that describe the schedule are not used."
                    ),
                ),
                io.Boolean.Input(
                    "zero_terminal",
                    default=True,
                    tooltip=(
                        "On: the model's table of a = 1 / sqrt(1 + sigma²) becomes (a - a_T) a_1 / (a_1 - a_T), which "
                        "has zero terminal SNR (arXiv 2305.08891, Algorithm 1), and sigma_max stands for its infinity. "
                        "Off: it ends at sigma_max."
                    ),
                ),
                number(
                    "sigma_min",
                    0.0,
                    0.0,
                    100.0,
                    0.0001,
                    "The lowest level, to which the table is shifted and scaled in a. 0 is the model's own, 0.0291672 "
                    "for SD and SDXL.",
                ),
                number(
                    "sigma_max",
                    CEILING,
                    0.01,
                    CEILING,
                    0.01,
                    (
                        f"The highest level, where sampling starts. SD's and SDXL's own is 14.6146, ComfyUI's for "
                        f"zero terminal SNR 4518.76. {CEILING:g} is the ceiling and stands for infinity: it misses the "
                        f"limit by 1e-4, and above it float32 loses more than that."
                    ),
                ),
                number(
                    "sigma_data",
                    1.0,
                    0.01,
                    100.0,
                    0.01,
                    (
                        "Standard deviation d of the data. 1 is v-prediction; other values have x0 = d² x / (sigma² + "
                        "d²) - sigma d output / sqrt(sigma² + d²), as in EDM with the output's sign turned."
                    ),
                ),
                number(
                    "snr_gamma",
                    0.0,
                    0.0,
                    1000.0,
                    0.01,
                    (
                        "Dynamic SNR gamma: guidance is weighted by min(SNR, gamma) / gamma, SNR = 1 / sigma²: the "
                        "guided estimate of x0 is moved to the conditional one by the rest. 0 does not change "
                        "guidance; 5 weakens it where sigma is above 0.45, and removes it at the terminal level."
                    ),
                ),
                io.Int.Input(
                    "native_resolution",
                    default=1024,
                    min=64,
                    max=16384,
                    step=8,
                    tooltip="Side of the images that the model was trained on. Used where a latent is connected.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip=(
                        "Connected: the levels that ZTSNR Sigmas and stock schedulers visit are multiplied by "
                        "sqrt(width height) / native_resolution of this latent (arXiv 2301.11093); the terminal level "
                        "stays."
                    ),
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint=BELOW, **_):
        """A value that changes when the file does, so that ComfyUI runs the node again."""
        if checkpoint == BELOW:
            return BELOW
        stat = os.stat(path_of(checkpoint))
        return f"{checkpoint} {stat.st_mtime_ns} {stat.st_size}"

    @classmethod
    def execute(
        cls,
        model,
        checkpoint,
        zero_terminal,
        sigma_min,
        sigma_max,
        sigma_data,
        snr_gamma,
        native_resolution,
        latent=None,
    ):
        check_model(model)
        checks.finite("snr_gamma", snr_gamma, at_least=0)

        if checkpoint == BELOW:
            checks.finite("sigma_data", sigma_data, above=0)
            table = table_between(model, zero_terminal, sigma_min, sigma_max)
            timesteps = TableIndex(table=table, quantize=False)
            facts = Facts(target="v", table=table, timesteps=timesteps, sigma_data=sigma_data)
        else:
            facts = read_facts(path_of(checkpoint))

        factor = 1.0 if latent is None else resolution_factor(latent["samples"], native_resolution)
        patched = model.clone()
        patched.add_object_patch("model_sampling", model_sampling(facts, factor))
        if facts.latents is not None:
            plain = model.model.model_config.latent_format
            patched.add_object_patch("latent_format", NormalisedLatents(plain, **facts.latents))
        put_post_cfg(patched, DynamicSNR(gamma=snr_gamma))
        return io.NodeOutput(patched)
