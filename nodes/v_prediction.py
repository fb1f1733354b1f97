"""The node that tells ComfyUI a model's noise schedule and target."""

import os

import folder_paths

from ztsnr import check

from .api import io, number
from .checkpoint import Facts, read_facts
from .guidance import DynamicSNR, put_post_cfg
from .model_sampling import CEILING, NormalisedLatents, check_model, made_table, model_sampling, resolution_factor

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
                    options=[BELOW, *folder_paths.get_filename_list("checkpoints")],
                    default=BELOW,
                    tooltip=(
                        "The file that the model was loaded from, where ztsnr.export wrote it: table, target, sampling "
                        "grid and latent statistics are read from its metadata, and the four settings below that "
                        "describe the schedule are not used."
                    ),
                ),
                io.Boolean.Input(
                    "zero_terminal",
                    default=True,
                    tooltip=(
                        "On: the model's table is rescaled to zero terminal SNR (arXiv 2305.08891, Algorithm 1), and "
                        "sigma_max stands for infinity. Off: it ends at sigma_max."
                    ),
                ),
                number(
                    "sigma_min",
                    0.0,
                    0.0,
                    100.0,
                    0.0001,
                    "The lowest level. 0 is the model's own, 0.0291672 for SD and SDXL.",
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
                        "Standard deviation d of the data. 1 is v-prediction; another value has x0 = d² x / (sigma² + "
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
                        "guided estimate of x0 is moved to the conditional one by the rest. 0 leaves guidance as it "
                        "is; 5 weakens it where sigma is above 0.45, and takes it away at the terminal level."
                    ),
                ),
                io.Int.Input(
                    "native_resolution",
                    default=1024,
                    min=64,
                    max=16384,
                    step=8,
                    tooltip="Side of the pictures that the model was trained on. Used where a latent is connected.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip=(
                        "Connected: the levels that schedulers visit are multiplied by sqrt(width height) / "
                        "native_resolution of this latent (arXiv 2301.11093); the terminal level stays."
                    ),
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint=BELOW, **_):
        """A file that was written anew is read anew."""
        if checkpoint == BELOW:
            return BELOW
        found = os.stat(folder_paths.get_full_path_or_raise("checkpoints", checkpoint))
        return f"{checkpoint} {found.st_mtime_ns} {found.st_size}"

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
        check.finite("snr_gamma", snr_gamma, at_least=0)
        if checkpoint == BELOW:
            check.finite("sigma_data", sigma_data, above=0)
            sigmas = made_table(model, zero_terminal, sigma_min, sigma_max).sigmas
            facts = Facts(target="v", sigmas=tuple(sigmas.tolist()), sigma_data=sigma_data)
        else:
            facts = read_facts(folder_paths.get_full_path_or_raise("checkpoints", checkpoint))
        factor = 1.0 if latent is None else resolution_factor(latent["samples"], native_resolution)
        patched = model.clone()
        patched.add_object_patch("model_sampling", model_sampling(facts, factor))
        if facts.latents is not None:
            patched.add_object_patch("latent_format", NormalisedLatents(**facts.latents))
        put_post_cfg(patched, DynamicSNR(gamma=snr_gamma))
        return io.NodeOutput(patched)
