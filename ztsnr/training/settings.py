"""The settings of a training step."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from ztsnr.core.checks import Bounds, Count, NonNegativeInt, Part, Positive, key
from ztsnr.core.errors import ConfigError
from ztsnr.training.optim import MakeOptimizer, ParamGroups
from ztsnr.training.posthoc import PosthocEMA
from ztsnr.training.trial import try_optimizer


@dataclass(frozen=True, kw_only=True)
class StepSettings(Part):
    """Those that one step reads.

    batch_size: of one optimizer step, over all processes and gradient_accumulation_steps.
    max_grad_norm: gradients with a larger norm are scaled down to it; null: never.
    param_dtype: of the trained parameters and their gradients; averages are always float32.
    rounding: how updated bfloat16 parameters are rounded.
    optimizer_in_backward: updates each parameter as soon as its gradient is computed, then frees the gradient.
    ema: decay of the averaged weights, or null; ema_every: steps between updates; ema_on_cpu: keeps it in host memory.
    """

    batch_size: Count
    gradient_accumulation_steps: Count
    mixed_precision: Literal["no", "bf16", "fp16"]
    param_dtype: Literal["float32", "bfloat16"]
    rounding: Literal["nearest", "stochastic"]
    optimizer_in_backward: bool
    max_grad_norm: Positive | None
    ema: Annotated[float, Bounds(above=0, below=1)] | None
    ema_every: Count
    ema_on_cpu: bool
    compile: bool
    noise_seed: NonNegativeInt
    groups: ParamGroups
    posthoc_ema: PosthocEMA

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % self.gradient_accumulation_steps:
            raise ConfigError(
                f"{key('batch_size')} must be a multiple of {key('gradient_accumulation_steps')}="
                f"{self.gradient_accumulation_steps}, got {self.batch_size}"
            )
        if self.mixed_precision == "fp16" and not torch.cuda.is_available():
            raise ConfigError(f"{key('mixed_precision')}=fp16 needs a CUDA device, and there is none. Use bf16 or no.")
        if self.param_dtype == "bfloat16" and self.mixed_precision != "bf16":
            raise ConfigError(
                f"{key('param_dtype')}=bfloat16 requires {key('mixed_precision')}=bf16, got {self.mixed_precision}"
            )
        if self.rounding == "stochastic" and self.param_dtype != "bfloat16":
            raise ConfigError(
                f"{key('rounding')}=stochastic requires {key('param_dtype')}=bfloat16, got {self.param_dtype}"
            )
        if self.optimizer_in_backward:
            self._refuse_what_needs_all_gradients()

    def _refuse_what_needs_all_gradients(self) -> None:
        conflicts = []
        if self.max_grad_norm is not None:
            conflicts.append(("max_grad_norm", self.max_grad_norm, "null"))
        if self.gradient_accumulation_steps != 1:
            conflicts.append(("gradient_accumulation_steps", self.gradient_accumulation_steps, "1"))
        if self.mixed_precision == "fp16":
            conflicts.append(("mixed_precision", "fp16", "bf16"))
        for name, value, remedy in conflicts:
            raise ConfigError(
                f"{key('optimizer_in_backward')}=true never has all gradients at once, which {key(name)}={value} "
                f"needs. Use {key(name)}={remedy}"
            )

    def try_optimizer(self, make: MakeOptimizer) -> None:
        """Raises ConfigError for an optimizer that does not fit these settings."""
        try_optimizer(
            make,
            param_dtype=self.param_dtype,
            rounding=self.rounding,
            in_backward=self.optimizer_in_backward,
            groups=self.groups,
        )
