"""The node whose first step leaves the terminal level without loss, for any sampler after it."""

from collections.abc import Callable

import comfy.samplers  # pyright: ignore[reportMissingImports]

from ztsnr.core.errors import ConfigError
from ztsnr.core.noise import alpha
from ztsnr.core.sampling import step_to

from .api import io

ROUNDING = 1e-5
"""Relative rounding error of a float32 scheduler at the model's highest level."""


class TerminalStepThenSampler:
    """A sampler function of ComfyUI: one step on z from the model's highest level, then `inner`."""

    def __init__(self, inner: comfy.samplers.KSAMPLER):
        self.inner = inner

    def __call__(self, model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        """x (B, ...) at sigmas[0] -> x at sigmas[-1]. From any lower start, `inner` takes all steps."""
        highest = float(model.inner_model.inner_model.model_sampling.sigma_max)
        skipped = 0
        if len(sigmas) > 1 and sigmas[0] >= highest * (1 - ROUNDING):
            x = self._leave(model, x, sigmas, extra_args or {}, callback)
            skipped = 1
        if len(sigmas) - skipped < 2:
            return x
        options |= {"extra_args": extra_args, "callback": _counting_from(skipped, callback), "disable": disable}
        return self.inner.sampler_function(model, x, sigmas[skipped:], **options)

    def _leave(self, model, x, sigmas, extra_args, callback):
        sigma = sigmas[0].double()
        below = sigmas[1].double()
        denoised = model(x, sigmas[0] * x.new_ones([len(x)]), **extra_args)
        if callback is not None:
            callback({"x": x, "i": 0, "sigma": sigmas[0], "sigma_hat": sigmas[0], "denoised": denoised})
        return step_to(denoised, x * alpha(sigma).to(x), sigma, below) / alpha(below).to(x)


def _counting_from(skipped: int, callback: Callable[[dict], None] | None) -> Callable[[dict], None] | None:
    """The callback, with each step's index raised by the number of skipped steps."""
    if callback is None:
        return None
    return lambda step: callback({**step, "i": step["i"] + skipped})


class Sampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ZTSNRSampler",
            display_name="ZTSNR Sampler",
            category="sampling",
            description=(
                "Any sampler, but for its first step where that leaves from the model's highest level: Euler's step, "
                "written so that float32 loses nothing at sigma 20000. There stock Euler loses 1e-4 of x0, and 3e-2 "
                "with a bfloat16 network; Heun, whose correction grows with sigma, gives noise."
            ),
            inputs=[io.Sampler.Input("sampler", tooltip="What samples from the second level on.")],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, sampler):
        if not isinstance(sampler, comfy.samplers.KSAMPLER):
            raise ConfigError(f"sampler must be one of ComfyUI's KSAMPLER kind, got {type(sampler).__name__}")
        inpaint = sampler.inpaint_options
        return io.NodeOutput(comfy.samplers.KSAMPLER(TerminalStepThenSampler(sampler), sampler.extra_options, inpaint))
