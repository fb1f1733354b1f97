"""The training loop. It knows no noise level: that is the objective's."""

import math
from dataclasses import dataclass, field

import torch
from PIL.Image import Image
from torch import nn

from ztsnr.analysis.summary import Summary
from ztsnr.checkpoints.saver import SavePolicy, Saves
from ztsnr.core import checks
from ztsnr.core.errors import ConfigError
from ztsnr.core.objective import Objective
from ztsnr.core.randomness import normal, stratified, uniform
from ztsnr.data import Data
from ztsnr.devices.memory import telling_what_needs_less
from ztsnr.evaluation.samples import SampleGrid
from ztsnr.evaluation.validation import Validation
from ztsnr.tracking.monitor import Monitor
from ztsnr.training.lr_schedule import LRSchedule
from ztsnr.training.optim import MakeOptimizer, ParamGroups
from ztsnr.training.posthoc import PosthocEMA
from ztsnr.training.step import Loop
from ztsnr.training.trial import try_optimizer


@dataclass
class Trained:
    """What a run leaves: networks by name ("raw", and "ema" where there is one), their last validation and samples."""

    networks: dict[str, nn.Module]
    learned: nn.ModuleDict
    """Parts of the objective that were trained with them; mostly none."""
    step: int = 0
    errors: dict[str, dict[float, float]] = field(default_factory=dict)
    score: float = math.nan
    pictures: dict[float, Image] = field(default_factory=dict)

    @property
    def best(self) -> str:
        return "ema" if "ema" in self.networks else "raw"


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """How long, how precisely and how often: all of training that is neither the objective, the model nor the data.

    batch_size: of one optimizer step, over all processes and gradient_accumulation_steps.
    *_every: in steps; validation and samples also come at the end, and validation at step 0.
    max_grad_norm: gradients of a larger norm are scaled down to it; null: never.
    param_dtype: of the trained parameters and their gradients; averages are always float32.
    rounding: of updated bfloat16 parameters, to the nearest or stochastic.
    optimizer_in_backward: updates each parameter as soon as its gradient is there, and then frees that.
    ema: decay of the averaged weights, or null; ema_every: steps between its updates; ema_on_cpu: in host memory.
    """

    steps: int
    batch_size: int
    gradient_accumulation_steps: int
    mixed_precision: str
    param_dtype: str
    rounding: str
    optimizer_in_backward: bool
    max_grad_norm: float | None
    ema: float | None
    ema_every: int
    ema_on_cpu: bool
    compile: bool
    log_every: int
    validate_every: int
    sample_every: int
    noise_seed: int
    stratify: bool
    groups: ParamGroups
    checkpoint: SavePolicy
    posthoc_ema: PosthocEMA

    def __post_init__(self):
        for name in (
            "steps",
            "batch_size",
            "gradient_accumulation_steps",
            "log_every",
            "validate_every",
            "sample_every",
            "ema_every",
        ):
            checks.integer(f"trainer.{name}", getattr(self, name), at_least=1)
        checks.integer("trainer.noise_seed", self.noise_seed, at_least=0)
        checks.one_of("trainer.mixed_precision", self.mixed_precision, ("no", "bf16", "fp16"))
        checks.one_of("trainer.param_dtype", self.param_dtype, ("float32", "bfloat16"))
        checks.instance("trainer.groups", self.groups, ParamGroups)
        checks.instance("trainer.checkpoint", self.checkpoint, SavePolicy)
        checks.instance("trainer.posthoc_ema", self.posthoc_ema, PosthocEMA)
        checks.one_of("trainer.rounding", self.rounding, ("nearest", "stochastic"))
        for name in ("compile", "stratify", "optimizer_in_backward", "ema_on_cpu"):
            checks.flag(f"trainer.{name}", getattr(self, name))
        if self.max_grad_norm is not None:
            checks.finite("trainer.max_grad_norm", self.max_grad_norm, above=0)
        if self.ema is not None:
            checks.finite("trainer.ema", self.ema, above=0, below=1)
        if self.batch_size % self.gradient_accumulation_steps:
            raise ConfigError(
                f"trainer.batch_size must be a multiple of trainer.gradient_accumulation_steps="
                f"{self.gradient_accumulation_steps}, got {self.batch_size}"
            )
        if self.mixed_precision == "fp16" and not torch.cuda.is_available():
            raise ConfigError("trainer.mixed_precision=fp16 needs a CUDA device, and there is none. Use bf16 or no.")
        if self.param_dtype == "bfloat16" and self.mixed_precision != "bf16":
            raise ConfigError(
                f"trainer.param_dtype=bfloat16 needs trainer.mixed_precision=bf16, got {self.mixed_precision}"
            )
        if self.rounding == "stochastic" and self.param_dtype != "bfloat16":
            raise ConfigError(f"trainer.rounding=stochastic is of trainer.param_dtype=bfloat16, got {self.param_dtype}")
        if self.optimizer_in_backward:
            self._refuse_what_needs_all_gradients()

    def _refuse_what_needs_all_gradients(self) -> None:
        for name, remedy in (("max_grad_norm", None), ("gradient_accumulation_steps", 1), ("mixed_precision", "bf16")):
            if getattr(self, name) not in (remedy, "no"):
                raise ConfigError(
                    f"trainer.optimizer_in_backward=true never has all gradients at once, which trainer.{name}="
                    f"{getattr(self, name)} needs. Use trainer.{name}={'null' if remedy is None else remedy}"
                )

    def try_optimizer(self, make: MakeOptimizer) -> None:
        """Raises ConfigError for one that does not fit these settings."""
        try_optimizer(
            make,
            weights=self.param_dtype,
            rounding=self.rounding,
            in_backward=self.optimizer_in_backward,
            groups=self.groups,
        )

    @telling_what_needs_less()
    def fit(
        self,
        *,
        objective: Objective,
        network: nn.Module,
        data: Data,
        optimizer: MakeOptimizer,
        lr_schedule: LRSchedule,
        validation: Validation,
        samples: SampleGrid,
        monitor: Monitor,
        saves: Saves = Saves(),  # noqa: B008 (it has no state)
    ) -> Trained:
        """Trains `network` in place, on the device that accelerate finds; both networks come back in eval mode.

        `saves` knows where to begin and keeps what there is to go on from. Raises its Interrupted.
        """
        loop = Loop(self, objective, network, optimizer)
        trained = Trained(loop.networks, objective.learned)

        def evaluate(validate: bool, sample: bool) -> None:
            with loop.evaluating():
                if validate:
                    trained.errors = {name: validation(objective, net, data) for name, net in trained.networks.items()}
                    trained.score = validation.score(trained.errors[trained.best])
                    monitor.validated(trained.step, trained.errors, trained.score)
                    if objective.learned:
                        monitor.adapted(trained.step, Summary(objective=objective, steps=samples.steps))
                if sample:
                    trained.pictures = samples(objective, trained.networks[trained.best], data)
                    monitor.sampled(trained.step, trained.pictures)
                    monitor.measured(trained.step, samples.metrics(objective, trained.networks[trained.best], data))

        begin = saves.begin({"loop": loop, "monitor": monitor})
        if begin > self.steps:
            raise ConfigError(
                f"trainer.steps must be at least {begin}, as many as are trained already, got {self.steps}"
            )
        for size in sorted(data.batch_sizes(self.batch_size)):
            loop.take(size)  # refuses what no step could be made of
        for step in range(begin, self.steps + 1):
            saves.at(step)
            trained.step, ended = step, step == self.steps
            validate = ended or step % self.validate_every == 0
            sample = ended or (step > 0 and step % self.sample_every == 0)
            if loop.accelerator.is_main_process and (validate or sample):
                evaluate(validate, sample)
                if validate:
                    saves.validated(step, trained.score)
            if loop.posthoc and step > begin and (ended or step % self.posthoc_ema.every == 0):
                saves.snapshot(step, {name: average.module for name, average in loop.posthoc.items()})
            if ended:
                break
            size = data.size(step, self.batch_size)
            rows = loop.take(size)
            x0, cond = data.batch(step, rows, size)
            noise = normal(self.noise_seed, "noise", step, rows, x0.shape[1:])
            draw = stratified if self.stratify else uniform
            u = draw(self.noise_seed, "u", step, rows, size)
            lr = loop.set_rates(lr_schedule.factor(step, self.steps))
            loss, norm = loop.step(step, x0, noise, u, cond)
            monitor.stepped(step + 1, loss, norm, lr)

        loop.end()
        return trained
