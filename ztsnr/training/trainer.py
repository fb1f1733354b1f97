"""The training loop. It knows no noise level: that is the objective's."""

import math
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ztsnr import check
from ztsnr.data import LabelledImages
from ztsnr.errors import ConfigError, NonFinite
from ztsnr.evaluation.samples import SampleGrid
from ztsnr.evaluation.summary import Summary
from ztsnr.evaluation.validation import Validation
from ztsnr.objective import Objective
from ztsnr.randomness import normal, stratified, uniform
from ztsnr.training.ema import make_ema
from ztsnr.training.lr_schedule import LRSchedule
from ztsnr.training.monitor import Monitor
from ztsnr.training.optim import MakeOptimizer, ParamGroups, check_optimizer, evaluating, make_optimizer, set_training


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
    """

    steps: int
    batch_size: int
    accumulate: int
    precision: str
    weights: str
    clip: float | None
    ema: float | None
    compile: bool
    log_every: int
    validate_every: int
    sample_every: int
    noise_seed: int
    stratify: bool
    groups: ParamGroups

    def __post_init__(self):
        for name in ("steps", "batch_size", "accumulate", "log_every", "validate_every", "sample_every"):
            check.integer(f"trainer.{name}", getattr(self, name), at_least=1)
        check.integer("trainer.noise_seed", self.noise_seed, at_least=0)
        check.one_of("trainer.precision", self.precision, ("no", "bf16", "fp16"))
        check.one_of("trainer.weights", self.weights, ("float32", "bfloat16"))
        check.instance("trainer.groups", self.groups, ParamGroups)
        check.flag("trainer.compile", self.compile)
        check.flag("trainer.stratify", self.stratify)
        if self.clip is not None:
            check.finite("trainer.clip", self.clip, above=0)
        if self.ema is not None:
            check.finite("trainer.ema", self.ema, above=0, below=1)
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"trainer.batch_size must be a multiple of trainer.accumulate={self.accumulate}, got {self.batch_size}"
            )
        if self.precision == "fp16" and not torch.cuda.is_available():
            raise ConfigError("trainer.precision=fp16 needs a CUDA device, and there is none. Use bf16 or no.")
        if self.weights == "bfloat16" and self.precision != "bf16":
            raise ConfigError(f"trainer.weights=bfloat16 needs trainer.precision=bf16, got {self.precision}")

    def fit(
        self,
        *,
        objective: Objective,
        network: nn.Module,
        data: LabelledImages,
        optimizer: MakeOptimizer,
        lr_schedule: LRSchedule,
        validation: Validation,
        samples: SampleGrid,
        monitor: Monitor,
    ) -> Trained:
        """Trains `network` in place, on the device that accelerate finds; both networks come back in eval mode."""
        AcceleratorState._reset_state()  # of an earlier run of this process, whose precision may have been another
        accelerator = Accelerator(mixed_precision=self.precision, cpu=join_processes().device.type == "cpu")
        rows, parts = self._share(accelerator.process_index, accelerator.num_processes)
        check_optimizer(optimizer, self.weights, self.groups)
        network.to(accelerator.device).train()
        for p in filter(lambda p: p.requires_grad, network.parameters()):
            p.data = p.data.to(getattr(torch, self.weights))
        ema = make_ema(network, self.ema) if self.ema is not None else None
        adaptive = objective.learned["density"] if "density" in objective.learned else None
        trained = Trained({"raw": network, "ema": ema.module} if ema else {"raw": network}, objective.learned)
        opt = make_optimizer(optimizer, network, self.groups, objective.learned.parameters())
        rates = [group["lr"] for group in opt.param_groups]
        model, stepper = accelerator.prepare(torch.compile(network) if self.compile else network, opt)

        set_training(True, opt, network)
        draw_u = stratified if self.stratify else uniform

        def evaluate(step: int, validate: bool, sample: bool) -> None:
            with evaluating(opt, network), accelerator.autocast():
                if validate:
                    trained.errors = {name: validation(objective, net, data) for name, net in trained.networks.items()}
                    trained.score = validation.score(trained.errors[trained.best])
                    monitor.validated(step, trained.errors, trained.score)
                    if objective.learned:
                        monitor.adapted(step, Summary(objective=objective, steps=samples.steps))
                if sample:
                    trained.pictures = samples(objective, trained.networks[trained.best], data)
                    monitor.sampled(step, trained.pictures)

        for step in range(self.steps + 1):
            trained.step, ended = step, step == self.steps
            validate = ended or step % self.validate_every == 0
            sample = ended or (step > 0 and step % self.sample_every == 0)
            if accelerator.is_main_process and (validate or sample):
                evaluate(step, validate, sample)
            if ended:
                break

            factor = lr_schedule.factor(step, self.steps)
            for group, rate in zip(opt.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            x0, cond = data.batch(step, rows, self.batch_size)
            noise = normal(self.noise_seed, "noise", step, rows, x0.shape[1:])
            u = draw_u(self.noise_seed, "u", step, rows, self.batch_size)
            losses, watched = [], []
            for part in parts:
                with accelerator.no_sync(model) if part is not parts[-1] else nullcontext():
                    arguments = _on(accelerator.device, part, x0, noise, u, cond)
                    loss = objective.loss(model, *arguments, watched.append if adaptive else None)
                    if part is parts[0]:  # here, new gradients take the memory of the old: 6 % of a step on CPUs
                        stepper.zero_grad()
                    accelerator.backward(loss.mean() / len(parts))
                losses.append(loss.detach())
            for p in objective.learned.parameters():  # which accelerate does not wrap
                p.grad = accelerator.reduce(p.grad.to(accelerator.device), "mean").to(p)
            accelerator.unscale_gradients()
            norm = get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
            loss, norm_value = torch.cat(losses).mean().item(), norm.item()
            overflow_is_normal = self.precision == "fp16"  # its gradient scaler skips that step
            if not (math.isfinite(loss) and (math.isfinite(norm_value) or overflow_is_normal)):
                raise NonFinite(what_is_not_finite(step, torch.cat(losses).cpu(), objective, u, network))
            if self.clip is not None:
                clip_grads_with_norm_(network.parameters(), self.clip, norm)
            stepper.step()
            if ema is not None:
                ema.update_parameters(network)
            if adaptive is not None:
                adaptive.observe(*accelerator.gather(torch.cat(watched).to(accelerator.device)).cpu().unbind(1))
            monitor.stepped(step + 1, loss, norm_value, rates[0] * factor)

        set_training(False, opt, network)
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        return trained

    def _share(self, process: int, processes: int) -> tuple[range, list[slice]]:
        """This process's rows of the step's batch, and the parts of them that go through the network one by one."""
        size, rest = divmod(self.batch_size, processes * self.accumulate)
        if rest or not size:
            raise ConfigError(
                f"trainer.batch_size must be a multiple of {processes} process(es) x "
                f"trainer.accumulate={self.accumulate}, got {self.batch_size}"
            )
        share = size * self.accumulate
        parts = [slice(start, start + size) for start in range(0, share, size)]
        return range(process * share, (process + 1) * share), parts


def join_processes() -> PartialState:
    """The state of this process among those that torchrun or accelerate started; it is this one alone without them."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    # Left to itself, accelerate takes several processes on CPUs for so many that know nothing of each other.
    state = PartialState(cpu=True) if started > 1 and not torch.cuda.is_available() else PartialState()
    if state.num_processes != started:
        raise ConfigError(f"{started} processes were started, but accelerate joins {state.num_processes} of them")
    return state


def _on(device: torch.device, part: slice, x0: Tensor, noise: Tensor, u: Tensor, cond: Mapping[str, Tensor]):
    """The part's arguments of Objective.loss; u stays where coefficients are cheapest, in host memory."""
    moved = {name: value[part].to(device, non_blocking=True) for name, value in cond.items()}
    return x0[part].to(device, non_blocking=True), noise[part].to(device, non_blocking=True), u[part], moved


def what_is_not_finite(step: int, loss: Tensor, objective: Objective, u: Tensor, network: nn.Module) -> str:
    """What to tell of a step whose losses (B,) at u (B,), or whose gradient, left the finite numbers."""
    sigma, bad = objective.schedule.density.sigma(u), ~loss.isfinite()
    if bad.any():
        levels = ", ".join(f"{level:.4g}" for level in sigma[bad][:8].tolist())
        what = f"the loss of {int(bad.sum())} of {len(loss)} samples is not finite, at sigma {levels}"
    else:
        names = [name for name, p in network.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        where = f"{len(names)} tensors, first {names[0]}" if names else "its norm alone"
        what = (
            f"the losses are finite and the gradient is not, in {where}; sigma {sigma.min():.4g} to {sigma.max():.4g}"
        )
    return (
        f"Training stopped in step {step + 1}, before its update: {what}. "
        f"Lower optimizer.lr or trainer.clip, lengthen lr_schedule.warmup, or use trainer.precision=no."
    )
