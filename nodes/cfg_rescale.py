"""The node that gives the guided estimate the spread of the conditional one."""

from ztsnr.core import checks

from .api import io, number
from .guidance import METHODS, Rescale, put_post_cfg


class CFGRescale(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ZTSNRCFGRescale",
            display_name="CFG Rescale (ZTSNR)",
            category="sampling",
            description=(
                "The rescale of Lin et al. (arXiv 2305.08891, Algorithm 2), against the overexposure of strong "
                "guidance. It acts on the guided estimate, after guidance and other nodes, and replaces none of them; "
                "a second one of this node replaces the first."
            ),
            inputs=[
                io.Model.Input("model"),
                number(
                    "multiplier",
                    0.7,
                    0.0,
                    1.0,
                    0.01,
                    "0 changes nothing, 1 gives the guided estimate the deviation of the conditional one.",
                ),
                io.Combo.Input(
                    "method",
                    options=[*METHODS],
                    default="constant",
                    tooltip=(
                        "What multiplies it at sigma, s0 to s1 being the lowest and highest level that is sampled: "
                        "constant: 1. "
                        "linear: m = 1 at the first step, falling by equal parts to 0 at the last. "
                        "cosine: sin²(m pi / 2). "
                        "karras: (sigma^(1/7) - s0^(1/7)) / (s1^(1/7) - s0^(1/7)). "
                        "exponential: ln(sigma / s0) / ln(s1 / s0). "
                        "noise share: sigma² / (1 + sigma²)."
                    ),
                ),
                io.Combo.Input(
                    "space",
                    options=["v", "x0"],
                    default="v",
                    tooltip="Where the standard deviations are taken: on v, as published, or on the estimate of x0.",
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, multiplier, method, space):
        checks.finite("multiplier", multiplier, at_least=0, at_most=1)
        checks.one_of("method", method, METHODS)
        checks.one_of("space", space, ("v", "x0"))
        patched = model.clone()
        put_post_cfg(patched, Rescale(multiplier=multiplier, method=method, space=space))
        return io.NodeOutput(patched)
