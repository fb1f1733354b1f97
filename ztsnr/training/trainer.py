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
    """`batch_size` is the whole batch of one optimizer step: over all processes and `accumulate` parts of it.

    `*_every` count steps; validation and samples also come at the end, and validation at step 0.
    `clip` is the largest norm of the gradient, `ema` the decay of the averaged weights; null turns either off.
    `weights` is the type of the trained parameters and of their gradients; the averaged ones are always float32.
    `rounding` of what a step makes of bfloat16 weights: to the nearest, or stochastic. `step_in_backward` updates each
    parameter as soon as its gradient is there, and holds no other. `ema_every` steps the average takes up the weights;
    `ema_on_cpu` keeps it in host memory.
    """

    steps: int
    batch_size: int
    accumulate: int
    precision: str
    weights: str
    rounding: str
    step_in_backward: bool
    clip: float | None
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
        for name in ("steps", "batch_size", "accumulate", "log_every", "validate_every", "sample_every", "ema_every"):
            checks.integer(f"trainer.{name}", getattr(self, name), at_least=1)
        checks.integer("trainer.noise_seed", self.noise_seed, at_least=0)
        checks.one_of("trainer.precision", self.precision, ("no", "bf16", "fp16"))
        checks.one_of("trainer.weights", self.weights, ("float32", "bfloat16"))
        checks.instance("trainer.groups", self.groups, ParamGroups)
        checks.instance("trainer.checkpoint", self.checkpoint, SavePolicy)
        checks.instance("trainer.posthoc_ema", self.posthoc_ema, PosthocEMA)
        checks.one_of("trainer.rounding", self.rounding, ("nearest", "stochastic"))
        for name in ("compile", "stratify", "step_in_backward", "ema_on_cpu"):
            checks.flag(f"trainer.{name}", getattr(self, name))
        if self.clip is not None:
            checks.finite("trainer.clip", self.clip, above=0)
        if self.ema is not None:
            checks.finite("trainer.ema", self.ema, above=0, below=1)
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"trainer.batch_size must be a multiple of trainer.accumulate={self.accumulate}, got {self.batch_size}"
            )
        if self.precision == "fp16" and not torch.cuda.is_available():
            raise ConfigError("trainer.precision=fp16 needs a CUDA device, and there is none. Use bf16 or no.")
        if self.weights == "bfloat16" and self.precision != "bf16":
            raise ConfigError(f"trainer.weights=bfloat16 needs trainer.precision=bf16, got {self.precision}")
        if self.rounding == "stochastic" and self.weights != "bfloat16":
            raise ConfigError(f"trainer.rounding=stochastic is of trainer.weights=bfloat16, got {self.weights}")
        if self.step_in_backward:
            self._refuse_what_needs_all_gradients()

    def _refuse_what_needs_all_gradients(self) -> None:
        for name, remedy in (("clip", None), ("accumulate", 1), ("precision", "bf16")):
            if getattr(self, name) not in (remedy, "no"):
                raise ConfigError(
                    f"trainer.step_in_backward=true never has all gradients at once, which trainer.{name}="
                    f"{getattr(self, name)} needs. Use trainer.{name}={'null' if remedy is None else remedy}"
                )

    def try_optimizer(self, make: MakeOptimizer) -> None:
        """Raises ConfigError for one that does not fit these settings."""
        try_optimizer(
            make,
            weights=self.weights,
            rounding=self.rounding,
            in_backward=self.step_in_backward,
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
