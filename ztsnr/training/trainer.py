"""The training loop. Noise levels are the objective's business: none appears here."""

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL.Image import Image
from torch import nn

from ztsnr.analysis.summary import Summary
from ztsnr.checkpoints.policy import SavePolicy
from ztsnr.checkpoints.saver import Checkpointer
from ztsnr.core.checks import Count
from ztsnr.core.errors import ConfigError, Interrupted
from ztsnr.core.objective import Objective
from ztsnr.core.randomness import normal, stratified, uniform
from ztsnr.data import Data
from ztsnr.devices.memory import explain_oom
from ztsnr.evaluation.validation import Validation
from ztsnr.tracking.monitor import Monitor
from ztsnr.training.batch import TrainingBatch
from ztsnr.training.lr_schedule import LRSchedule
from ztsnr.training.optim import MakeOptimizer
from ztsnr.training.settings import StepSettings
from ztsnr.training.signals import StopSignals
from ztsnr.training.step import TrainStep


@dataclass
class TrainingResult:
    """The trained networks with their last validation and samples."""

    networks: dict[str, nn.Module]
    """By name: raw, and ema if the trainer averages."""
    learned: nn.ModuleDict
    """The parts of the objective that were trained too; usually empty."""
    step: int = 0
    errors: dict[str, dict[float, float]] = field(default_factory=dict)
    """Network name -> sigma -> squared error of v."""
    score: float = math.nan
    """Of the best network; lower is better."""
    images: dict[float, Image] = field(default_factory=dict)
    """Guidance scale -> a grid of samples."""

    @property
    def best(self) -> str:
        """The name of the network to use."""
        return "ema" if "ema" in self.networks else "raw"

    @property
    def best_network(self) -> nn.Module:
        return self.networks[self.best]


class TrainingSamples(Protocol):
    """Draws images during training. `data` must be of the kind that it needs: see training.parts.build_parts."""

    @property
    def steps(self) -> int:
        """The number of steps of the sampling grid."""
        ...

    def __call__(self, objective: Objective, network: nn.Module, data: Any) -> dict[float, Image]:
        """Guidance scale -> image."""
        ...

    def metrics(self, objective: Objective, network: nn.Module, data: Any) -> dict[str, float]:
        """Metrics of the samples by name, besides the images."""
        ...


@dataclass(frozen=True)
class Evaluator:
    """Validates and samples a run's networks, inside `TrainStep.evaluating`, and reports to the monitor."""

    objective: Objective
    data: Data
    validation: Validation
    samples: TrainingSamples
    monitor: Monitor

    def validate(self, result: TrainingResult) -> None:
        result.errors = {}
        for name, network in result.networks.items():
            result.errors[name] = self.validation(self.objective, network, self.data)
        result.score = self.validation.score(result.errors[result.best])
        self.monitor.validated(result.step, result.errors, result.score)
        if self.objective.learned:
            self.monitor.adapted(result.step, Summary(objective=self.objective, steps=self.samples.steps))

    def sample(self, result: TrainingResult) -> None:
        result.images = self.samples(self.objective, result.best_network, self.data)
        self.monitor.sampled(result.step, result.images)
        metrics = self.samples.metrics(self.objective, result.best_network, self.data)
        self.monitor.measured(result.step, metrics)


@dataclass(frozen=True, kw_only=True)
class Trainer(StepSettings):
    """The settings of training that do not belong to the objective, the model or the data, and the loop itself.

    *_every: in steps. The last step is always validated and sampled, and step 0 is validated.
    stratify: true draws one noise level from each of batch_size equal parts of the density, false independent ones.
    """

    steps: Count
    log_every: Count
    validate_every: Count
    sample_every: Count
    stratify: bool
    checkpoint: SavePolicy

    @explain_oom()
    def fit(
        self,
        *,
        objective: Objective,
        network: nn.Module,
        data: Data,
        optimizer: MakeOptimizer,
        lr_schedule: LRSchedule,
        validation: Validation,
        samples: TrainingSamples,
        monitor: Monitor,
        checkpointer: Checkpointer | None = None,
        stop: StopSignals | None = None,
    ) -> TrainingResult:
        """Trains `network` in place, on the device that accelerate chooses. All networks are in eval mode afterwards.

        checkpointer: restores the state to resume from, and saves new ones; None does neither.
        stop: a request ends the current step, saves the state and raises Interrupted; None: there are no requests.
        Raises ConfigError before the first step, NonFinite, OutOfMemory, CheckpointError.
        """
        checkpointer = checkpointer or Checkpointer()
        train_step = TrainStep(self, objective, network, optimizer)
        result = TrainingResult(train_step.networks, objective.learned)
        evaluator = Evaluator(objective, data, validation, samples, monitor)
        is_main = train_step.accelerator.is_main_process
        train_step.check_batch_sizes(data.batch_sizes(self.batch_size))

        start = checkpointer.resume({"loop": train_step, "monitor": monitor})  # these names are in the file
        if start > self.steps:
            raise ConfigError(
                f"trainer.steps must be at least {start}, the steps that are already trained, got {self.steps}"
            )

        # After `step` steps: stop, save, evaluate; then train one more. The last pass only saves and evaluates.
        for step in range(start, self.steps + 1):
            is_last = step == self.steps

            # stop: a signal to any process stops all of them after the same step
            if stop is not None and stop.requested():
                checkpointer.save_now(step)
                raise Interrupted(f"{stop.name or 'A signal'} stopped the run after step {step}; its state is saved")

            # save: before the evaluation, so that a run that is killed while it evaluates resumes here
            checkpointer.after_step(step)
            snapshot = is_last or step % self.posthoc_ema.every == 0
            if snapshot and train_step.posthoc and step > start:
                checkpointer.snapshot(step, {name: average.module for name, average in train_step.posthoc.items()})

            # evaluate: with the weights that the run would leave if it ended now
            result.step = step
            validate = is_last or step % self.validate_every == 0
            sample = is_last or (step > 0 and step % self.sample_every == 0)
            if is_main and (validate or sample):
                with train_step.evaluating():
                    if validate:
                        evaluator.validate(result)
                    if sample:
                        evaluator.sample(result)
                if validate:
                    checkpointer.validated(step, result.score)
            if is_last:
                break

            # train
            batch = self._batch(step, data, train_step)
            lr = train_step.set_rates(lr_schedule.factor(step, self.steps))
            loss, grad_norm = train_step(step, batch)

            # record
            monitor.stepped(step + 1, loss, grad_norm, lr)

        train_step.end()
        return result

    def _batch(self, step: int, data: Data, train_step: TrainStep) -> TrainingBatch:
        """This process's rows. Noise and levels depend on seed, step and row, not on the process that draws them."""
        size = data.size(step, self.batch_size)
        rows = train_step.rows_of(size)
        x0, cond = data.batch(step, rows, size)
        noise = normal(self.noise_seed, "noise", step, rows, x0.shape[1:])
        draw = stratified if self.stratify else uniform
        u = draw(self.noise_seed, "u", step, rows, size)
        return TrainingBatch(x0, cond, noise, u)
