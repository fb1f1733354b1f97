"""One training step: forward, backward, clipping, a check for non-finite values, update, averages."""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import NamedTuple, Protocol, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from ztsnr.checkpoints.state import optimizer_state, restore, restore_optimizer, settings_of, trained_state
from ztsnr.core.errors import ConfigError, NonFinite
from ztsnr.core.objective import Objective
from ztsnr.core.randomness import seed_torch
from ztsnr.devices.processes import compute_device, rows_of
from ztsnr.training.averaging import Average, make_ema
from ztsnr.training.batch import TrainingBatch, parts_of
from ztsnr.training.non_finite import describe_non_finite, non_finite_error
from ztsnr.training.optim import MakeOptimizer, evaluating, make_optimizer, set_training
from ztsnr.training.settings import StepSettings
from ztsnr.training.updates import PerParameterOptimizer, StepAfterBackward, StepInBackward


class AdaptiveDensity(Protocol):
    """A density that learns during training at which levels the network's error falls."""

    def observe(self, sigma: Tensor, error: Tensor) -> None:
        """Levels (B,), and the squared errors of x0 at them (B,), both float64."""
        ...


class StepResult(NamedTuple):
    """The loss is of this process's rows."""

    loss: float
    """The weighted mean."""
    grad_norm: float
    """Before clipping."""


class TrainStep:
    """A network in training, with everything that a step changes."""

    def __init__(
        self, settings: StepSettings, objective: Objective, network: nn.Module, optimizer: MakeOptimizer
    ) -> None:
        """Trains `network` in place. Raises ConfigError for an optimizer that does not fit."""
        self.settings = settings
        self.objective = objective
        self.network = network
        self.adaptive_density = _adaptive_density(objective)
        self.accelerator = _make_accelerator(settings.mixed_precision)
        self.check_batch_sizes([settings.batch_size])
        settings.try_optimizer(optimizer)

        # parameters: in the type that they are trained in
        self.trainable = [p for p in network.train().parameters() if p.requires_grad]
        for p in self.trainable:
            p.data = p.data.to(getattr(torch, settings.param_dtype))

        # averages: copied before the network moves to its device, so that ema_on_cpu leaves them in host memory
        self.ema = make_ema(network, settings.ema, settings.ema_every) if settings.ema is not None else None
        self.posthoc = settings.posthoc_ema.track(network)
        network.to(self.accelerator.device)
        if not settings.ema_on_cpu:
            for average in self.averages.values():
                average.module.to(self.accelerator.device)
        self.networks = {"raw": network}
        if self.ema is not None:
            self.networks["ema"] = self.ema.module

        # optimizer: created for parameters that are already on their device
        self.optimizer = make_optimizer(optimizer, network, settings.groups, objective.learned.parameters())
        self.initial_group_settings = settings_of(self.optimizer)
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]
        compiled = torch.compile(network) if settings.compile else network
        self.model, self.prepared_optimizer = self.accelerator.prepare(compiled, self.optimizer)
        self.updates = self._make_updates()
        set_training(True, self.optimizer, network)

    def _make_updates(self) -> StepAfterBackward | StepInBackward:
        stochastic = self.settings.rounding == "stochastic"
        if self.settings.optimizer_in_backward:
            if self.accelerator.num_processes > 1:
                raise ConfigError(
                    "trainer.optimizer_in_backward=true is for one process: several must average their gradients."
                )
            return StepInBackward(PerParameterOptimizer(self.optimizer, stochastic), self.trainable)
        stepper = PerParameterOptimizer(self.optimizer, stochastic) if stochastic else self.prepared_optimizer
        return StepAfterBackward(stepper, self.trainable, self.settings.max_grad_norm)

    @property
    def averages(self) -> dict[str, Average]:
        averages = dict(self.posthoc)
        if self.ema is not None:
            averages["ema"] = self.ema
        return averages

    def rows_of(self, batch_size: int) -> range:
        """This process's rows of a batch. Raises ConfigError for a size that the processes cannot share equally."""
        return rows_of(
            self.accelerator.process_index,
            self.accelerator.num_processes,
            batch_size,
            self.settings.gradient_accumulation_steps,
        )

    def check_batch_sizes(self, sizes: Iterable[int]) -> None:
        """Raises ConfigError before training for a size that no step could have."""
        for size in sorted(sizes):
            self.rows_of(size)

    def set_rates(self, factor: float) -> float:
        """Multiplies each group's learning rate; returns that of the first, which is the optimizer's own."""
        for group, rate in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * factor
        return self._base_rates[0] * factor

    def __call__(self, step: int, batch: TrainingBatch) -> StepResult:
        """Updates the network. Raises NonFinite."""
        # gradients: dropout and the like draw differently in each process
        seed = self.settings.noise_seed
        seed_torch(seed, "network", step, self.accelerator.process_index)
        losses, observed = self._backward(step, batch)
        self.accelerator.unscale_gradients()
        norm = self.updates.norm()

        # refuse: non-finite values must not reach the weights; with fp16 the gradient scaler skips such a step
        result = StepResult(losses.mean().item(), norm.item())
        norm_is_usable = math.isfinite(result.grad_norm) or self.settings.mixed_precision == "fp16"
        if not (math.isfinite(result.loss) and norm_is_usable):
            raise self._non_finite(step, losses, batch.u)

        # update: with the same seed in every process, since their weights must stay equal
        seed_torch(seed, "optimizer", step)
        self.updates.apply(norm)
        if (step + 1) % self.settings.ema_every == 0:
            for average in self.averages.values():
                average.update_parameters(self.network)

        # an adaptive density learns from the rows of all processes
        if self.adaptive_density is not None:
            own = torch.cat(observed).to(self.accelerator.device)
            everywhere = cast(Tensor, self.accelerator.gather(own)).cpu()
            self.adaptive_density.observe(*everywhere.unbind(1))
        return result

    def _backward(self, step: int, batch: TrainingBatch) -> tuple[Tensor, list[Tensor]]:
        """Computes the gradients.

        Returns the losses (B,), and for an adaptive density a tensor (b, 2) float64 for each part: levels, and errors
        of x0 at them.
        """
        losses = []
        observed = []
        parts = parts_of(len(batch.u), self.settings.gradient_accumulation_steps)
        for rows in parts:
            is_last = rows is parts[-1]
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                # forward: a data set's weights multiply the losses, its masks the distances
                x0, cond, noise, u = batch.part(rows, self.accelerator.device)
                weight = cond.pop("weight", 1)
                mask = cond.pop("mask", None)
                terms = self.objective.terms(self.model, x0, noise, u, cond, mask=mask)
                loss = weight * terms.loss
                if self.adaptive_density is not None:
                    observed.append(torch.stack([terms.sigma, self.objective.x0_error(terms, mask)], 1))

                # backward: each part with its share of the mean
                if not losses:  # freed only now, the old gradients' memory serves the new ones: 6 % of a CPU's step
                    self.prepared_optimizer.zero_grad()
                if self.settings.optimizer_in_backward and not loss.isfinite().all():
                    raise self._non_finite(step, loss, u)
                self.accelerator.backward(loss.mean() / len(parts))
            losses.append(loss.detach())

        # accelerate averages only the network's gradients over the processes
        for p in self.objective.learned.parameters():
            if p.grad is not None:
                gradient = self.accelerator.reduce(p.grad.to(self.accelerator.device), "mean")
                p.grad = cast(Tensor, gradient).to(p)
        return torch.cat(losses), observed

    def _non_finite(self, step: int, losses: Tensor, u: Tensor) -> NonFinite:
        description = describe_non_finite(losses.detach().cpu(), self.objective, u, self.network)
        was_updated = self.settings.optimizer_in_backward and bool(losses.isfinite().all())
        return non_finite_error(step, was_updated, description)

    def evaluating(self) -> AbstractContextManager:
        """A context with the weights to validate, sample and save with, and with mixed precision."""
        stack = ExitStack()
        stack.enter_context(evaluating(self.optimizer, self.network))
        if self.ema is not None:
            stack.enter_context(self.ema.on_device(self.accelerator.device))
        stack.enter_context(self.accelerator.autocast())
        return stack

    def state(self) -> dict:
        """Everything that a step changes; its tensors are the live ones. Not to be called while evaluating."""
        scaler = self.accelerator.scaler
        return {
            "network": trained_state(self.network),
            "averages": self._averages_state(),
            "learned": self.objective.learned.state_dict(),
            "optimizer": optimizer_state(self.optimizer, self.initial_group_settings),
            "scaler": scaler.state_dict() if scaler is not None else None,
        }

    def _averages_state(self) -> dict[str, dict[str, Tensor]]:
        states = {}
        for name, average in self.averages.items():
            states[name] = trained_state(self.network, average.module) | {"n_averaged": average.n_averaged}
        return states

    def load(self, state: dict) -> None:
        """Continues from what `state` returned. Raises CheckpointError where it does not fit."""
        restore(trained_state(self.network), state["network"], "network")
        for name, average in self._averages_state().items():
            restore(average, state["averages"].get(name, {}), f"average {name}")
        restore(self.objective.learned.state_dict(), state["learned"], "learned part of the objective")
        restore_optimizer(self.optimizer, state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def end(self) -> None:
        """Switches to eval mode and removes accelerate's wrappers from the network."""
        set_training(False, self.optimizer, self.network)
        self.updates.end()
        for network in self.networks.values():
            network.to(self.accelerator.device)
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)


def _make_accelerator(mixed_precision: str) -> Accelerator:
    AcceleratorState._reset_state()  # an earlier run in this process may have had a different precision
    on_cpu = compute_device().type == "cpu"
    return Accelerator(mixed_precision=mixed_precision, cpu=on_cpu)


def _adaptive_density(objective: Objective) -> AdaptiveDensity | None:
    density = dict(objective.learned.items()).get("density")
    return cast(AdaptiveDensity | None, density)
