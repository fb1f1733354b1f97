"""One training step: forward, backward, clipping, refusal of what is not finite, update."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from ztsnr.checkpoints.state import optimizer_state, restore, restore_optimizer, settings_of, trained_state
from ztsnr.core.errors import ConfigError, NonFinite
from ztsnr.core.objective import Objective
from ztsnr.core.randomness import seed_torch
from ztsnr.devices.processes import join_processes, share
from ztsnr.training.averaging import Average, make_ema
from ztsnr.training.optim import MakeOptimizer, evaluating, make_optimizer, set_training
from ztsnr.training.updates import AfterBackward, InBackward, OneByOne

if TYPE_CHECKING:
    from ztsnr.training.trainer import Trainer


class Loop:
    """A network in training, with all that a step changes. `rows` of each step's whole batch are this process's."""

    def __init__(self, trainer: "Trainer", objective: Objective, network: nn.Module, optimizer: MakeOptimizer):
        AcceleratorState._reset_state()  # of an earlier run of this process, whose precision may have been another
        self.accelerator = Accelerator(
            mixed_precision=trainer.mixed_precision, cpu=join_processes().device.type == "cpu"
        )
        self.trainer, self.objective, self.network = trainer, objective, network
        self.take(trainer.batch_size)
        trainer.try_optimizer(optimizer)
        self.trained = [p for p in network.train().parameters() if p.requires_grad]
        for p in self.trained:
            p.data = p.data.to(getattr(torch, trainer.param_dtype))
        self.ema = make_ema(network, trainer.ema, trainer.ema_every) if trainer.ema is not None else None
        self.posthoc = trainer.posthoc_ema.track(network)
        for moved in [network] + [average.module for average in self.averages.values() if not trainer.ema_on_cpu]:
            moved.to(self.accelerator.device)
        self.networks = {"raw": network} | ({"ema": self.ema.module} if self.ema else {})
        self.adaptive = dict(objective.learned.items()).get("density")
        self.optimizer = make_optimizer(optimizer, network, trainer.groups, objective.learned.parameters())
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.begun = settings_of(self.optimizer)
        compiled = torch.compile(network) if trainer.compile else network
        self.model, self.stepper = self.accelerator.prepare(compiled, self.optimizer)
        self.updates = self._make_updates()
        set_training(True, self.optimizer, network)

    def _make_updates(self) -> AfterBackward | InBackward:
        trainer, stochastic = self.trainer, self.trainer.rounding == "stochastic"
        one_by_one = OneByOne(self.optimizer, stochastic) if stochastic or trainer.optimizer_in_backward else None
        if not trainer.optimizer_in_backward:
            return AfterBackward(one_by_one or self.stepper, self.trained, trainer.max_grad_norm)
        if self.accelerator.num_processes > 1:
            raise ConfigError(
                "trainer.optimizer_in_backward=true is for one process: several must average their gradients."
            )
        return InBackward(one_by_one, self.trained)

    def take(self, size: int) -> range:
        """This process's rows of a batch of this size, which the next step is of. Raises ConfigError."""
        place = self.accelerator.process_index, self.accelerator.num_processes
        self.rows, self.parts = share(*place, size, self.trainer.gradient_accumulation_steps)
        return self.rows

    def set_rates(self, factor: float) -> float:
        """Sets each group's learning rate; returns the first, which is the optimizer's own."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        return self.rates[0] * factor

    def step(self, step: int, x0: Tensor, noise: Tensor, u: Tensor, cond: Mapping[str, Tensor]) -> tuple[float, float]:
        """Updates the network by these rows; mean weighted loss and gradient norm before clipping. Raises NonFinite."""
        seed, process = self.trainer.noise_seed, self.accelerator.process_index
        seed_torch(seed, "network", step, process)
        losses, watched = self._backward(step, x0, noise, u, cond)
        self.accelerator.unscale_gradients()
        norm = self.updates.norm()
        loss, norm_value = losses.mean().item(), norm.item()
        overflow_is_normal = self.trainer.mixed_precision == "fp16"  # its gradient scaler skips that step
        if not (math.isfinite(loss) and (math.isfinite(norm_value) or overflow_is_normal)):
            raise self._non_finite(step, losses, u)
        seed_torch(seed, "optimizer", step)  # the same in every process: they must stay equal
        self.updates.apply(norm)
        if (step + 1) % self.trainer.ema_every == 0:
            for average in self.averages.values():
                average.update_parameters(self.network)
        if self.adaptive is not None:
            seen = self.accelerator.gather(torch.cat(watched).to(self.accelerator.device)).cpu()
            self.adaptive.observe(*seen.unbind(1))
        return loss, norm_value

    def _backward(
        self, step: int, x0: Tensor, noise: Tensor, u: Tensor, cond: Mapping[str, Tensor]
    ) -> tuple[Tensor, list]:
        """Leaves the gradients; returns the rows' losses (B,) and, for an adaptive density, their levels and errors."""
        losses, watched = [], []
        for part in self.parts:
            last = part is self.parts[-1]
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                *arguments, cond_here = _on(self.accelerator.device, part, x0, noise, u, cond)
                weight, mask = cond_here.pop("weight", 1), cond_here.pop("mask", None)
                terms = self.objective.terms(self.model, *arguments, cond_here, mask)
                loss = weight * terms.loss
                if self.adaptive is not None:
                    watched.append(torch.stack([terms.sigma, self.objective.x0_error(terms, mask)], 1))
                if not losses:  # here, new gradients take the memory of the old: 6 % of a step on CPUs
                    self.stepper.zero_grad()
                if self.trainer.optimizer_in_backward and not loss.isfinite().all():
                    raise self._non_finite(step, loss, u)
                self.accelerator.backward(loss.mean() / len(self.parts))
            losses.append(loss.detach())
        for p in [p for p in self.objective.learned.parameters() if p.grad is not None]:  # not wrapped by accelerate
            p.grad = self.accelerator.reduce(p.grad.to(self.accelerator.device), "mean").to(p)
        return torch.cat(losses), watched

    def _non_finite(self, step: int, losses: Tensor, u: Tensor) -> NonFinite:
        spoilt = self.trainer.optimizer_in_backward and losses.isfinite().all()
        when = "in its update, which has changed the weights," if spoilt else "before its update"
        what = what_is_not_finite(losses.detach().cpu(), self.objective, u, self.network)
        return NonFinite(
            f"Training stopped in step {step + 1}, {when}: {what}. "
            f"Lower optimizer.lr or trainer.max_grad_norm, lengthen lr_schedule.warmup, "
            f"or use trainer.mixed_precision=no."
        )

    def evaluating(self) -> AbstractContextManager:
        """Inside, the weights are those to validate, sample and save with."""
        stack = ExitStack()
        stack.enter_context(evaluating(self.optimizer, self.network))
        if self.ema is not None:
            stack.enter_context(self.ema.visiting(self.accelerator.device))
        stack.enter_context(self.accelerator.autocast())
        return stack

    def state(self) -> dict:
        """All that a step changes, of which the tensors are those in use. Between steps, not while evaluating."""
        scaler = self.accelerator.scaler
        return {
            "network": trained_state(self.network),
            "averages": self._averages(),
            "learned": self.objective.learned.state_dict(),
            "optimizer": optimizer_state(self.optimizer, self.begun),
            "scaler": scaler.state_dict() if scaler is not None else None,
        }

    @property
    def averages(self) -> dict[str, Average]:
        return self.posthoc | ({"ema": self.ema} if self.ema is not None else {})

    def _averages(self) -> dict[str, dict[str, Tensor]]:
        return {
            name: trained_state(self.network, average.module) | {"n_averaged": average.n_averaged}
            for name, average in self.averages.items()
        }

    def load(self, state: dict) -> None:
        """Goes on from such a state. Raises CheckpointError where it does not fit."""
        restore(trained_state(self.network), state["network"], "network")
        for name, average in self._averages().items():
            restore(average, state["averages"].get(name, {}), f"average {name}")
        restore(self.objective.learned.state_dict(), state["learned"], "learned part of the objective")
        restore_optimizer(self.optimizer, state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def end(self) -> None:
        """Leaves the network in eval mode and free of what accelerate put around it."""
        set_training(False, self.optimizer, self.network)
        self.updates.end()
        for network in self.networks.values():
            network.to(self.accelerator.device)
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)


def _on(device: torch.device, part: slice, x0: Tensor, noise: Tensor, u: Tensor, cond: Mapping[str, Tensor]):
    """The part's arguments of Objective.loss; u stays where coefficients are cheapest, in host memory."""
    moved = {name: value[part].to(device, non_blocking=True) for name, value in cond.items()}
    return x0[part].to(device, non_blocking=True), noise[part].to(device, non_blocking=True), u[part], moved


def what_is_not_finite(loss: Tensor, objective: Objective, u: Tensor, network: nn.Module) -> str:
    """Of a step whose losses (B,) at u (B,), or whose gradient, left the finite numbers."""
    sigma, bad = objective.schedule.density.sigma(u), ~loss.isfinite()
    if bad.any():
        levels = ", ".join(f"{level:.4g}" for level in sigma[bad][:8].tolist())
        return f"the loss of {int(bad.sum())} of {len(loss)} samples is not finite, at sigma {levels}"
    names = [name for name, p in network.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    where = f"{len(names)} tensors, first {names[0]}" if names else "its norm alone"
    return f"the losses are finite and the gradient is not, in {where}; sigma {sigma.min():.4g} to {sigma.max():.4g}"
