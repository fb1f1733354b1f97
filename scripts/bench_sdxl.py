"""Our training step on SDXL against diffusers' own: the same U-Net, precision, checkpointing, optimizer and batches.

    .venv/bin/python scripts/bench_sdxl.py              # the tiny SDXL, on this machine
    .venv/bin/python scripts/bench_sdxl.py --presets    # and what memory each preset takes, one image a step
    .venv/bin/python scripts/bench_sdxl.py --full       # all of it with the whole U-Net at random weights, 1024 x 1024;
                                                        # needs CUDA

The other step is that of diffusers' train_text_to_image_sdxl.py with its latents and text at hand: DDPMScheduler's
add_noise and get_velocity, U-Net, mean squared error, accelerate's backward and clipping, AdamW. The two alternate step
by step in one process, each with a network of its own; what counts is the median of the paired ratios, theirs / ours.
With --full they run one after the other, since two networks with their states fit no card, and the share of the card's
rate is printed: floating-point operations of forward and backward, without those that checkpointing repeats, over the
seconds of a step, against those of a large bfloat16 matrix product.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DConditionModel
from make_tiny_sdxl import make_pipeline
from torch.utils.flop_counter import FlopCounterMode

from ztsnr.config.registry import build, compose
from ztsnr.core.randomness import normal, stratified
from ztsnr.devices.memory import peak_gib, reset_peak
from ztsnr.models.architectures import ARCHITECTURES
from ztsnr.training.batch import TrainingBatch
from ztsnr.training.step import TrainStep

SDXL = ("model=sdxl", "schedule=sdxl_ztsnr", "loss=vpred", "optimizer.lr=1e-5")
CHOSEN = (*SDXL, "trainer.ema=null")
ONE_IMAGE = ("trainer.batch_size=1", "trainer.gradient_accumulation_steps=1")
LORA = ("model/train=lora", "trainer.mixed_precision=bf16", "optimizer=adamw8bit", "trainer.ema=null")
PRESETS = {f"trainer={size}gb": (f"trainer={size}gb",) for size in (16, 24, 48, 80)}
PRESETS |= {f"LoRA on {base}": (*LORA, f"model.train.base={base}") for base in ("bfloat16", "8bit", "4bit")}
LATENTS, TEXT, POOLED, IDS = "latents", "text", "pooled", "time_ids"


def make_batch(size: int, side: int, widths: tuple[int, int]) -> dict[str, torch.Tensor]:
    rows = range(size)
    ids = torch.tensor([[float(8 * side)] * 2 + [0.0, 0.0] + [float(8 * side)] * 2]).repeat(size, 1)
    batch = {LATENTS: normal(0, "latents", 0, rows, (4, side, side)), IDS: ids}
    return batch | {TEXT: normal(0, "text", 0, rows, (77, widths[0])), POOLED: normal(0, "pooled", 0, rows, widths[1:])}


def our_step(composed, batch: dict) -> Callable[[], None]:
    torch.manual_seed(0)
    objective, trainer = build(composed.objective), build(composed.trainer)
    train_step = TrainStep(trainer, objective, build(composed.model), build(composed.optimizer))
    cond, rows, count = {name: batch[name] for name in (TEXT, POOLED, IDS)}, range(trainer.batch_size), [0]

    def step() -> None:
        noise = normal(0, "noise", count[0], rows, batch[LATENTS].shape[1:])
        u = stratified(0, "u", count[0], rows, len(rows))
        train_step(count[0], TrainingBatch(batch[LATENTS], cond, noise, u))
        count[0] += 1

    return step


def their_step(composed, batch: dict) -> Callable[[], None]:
    accelerator = Accelerator(mixed_precision=composed.trainer.mixed_precision, cpu=not torch.cuda.is_available())
    unet = UNet2DConditionModel.from_pretrained(composed.model.pretrained, subfolder="unet").train()
    if composed.model.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
    )
    unet, optimizer = accelerator.prepare(unet, build(composed.optimizer)(unet.parameters()))
    here = {name: value.to(accelerator.device) for name, value in batch.items()}

    def step() -> None:
        latents = here[LATENTS]
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (len(latents),), device=latents.device)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        added = {"text_embeds": here[POOLED], "time_ids": here[IDS]}
        output = unet(noisy, timesteps, here[TEXT], added_cond_kwargs=added, return_dict=False)[0]
        ideal = scheduler.get_velocity(latents, noise, timesteps)
        loss = torch.nn.functional.mse_loss(output.float(), ideal.float(), reduction="mean")
        accelerator.gather(loss.repeat(len(latents))).mean().item()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def tiny(steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_pipeline().save_pretrained(folder)
        for name, size, overrides in (
            ("float32, batch 4", 4, ("model.gradient_checkpointing=false",)),
            ("float32, batch 4, checkpointing", 4, ()),
            ("bf16, batch 4", 4, ("trainer.mixed_precision=bf16", "model.gradient_checkpointing=false")),
        ):
            composed = compose(*CHOSEN, f"model.pretrained={folder}", f"trainer.batch_size={size}", *overrides)
            batch = make_batch(size, 16, (96, 64))
            trainer_step, diffusers_step = our_step(composed, batch), their_step(composed, batch)
            pairs = [(seconds(trainer_step), seconds(diffusers_step)) for _ in range(steps)][steps // 10 :]
            low, middle, high = statistics.quantiles((b / a for a, b in pairs), n=4)
            rate = size / statistics.median(a for a, _ in pairs)
            print(f"{name}: {middle:.3f} (quartiles {low:.3f} to {high:.3f}), ours {rate:.1f} images/s", flush=True)


def presets(folder: str, batch: dict) -> None:
    for name, words in PRESETS.items():
        composed = compose(*SDXL, *words, f"model.pretrained={folder}", *ONE_IMAGE)
        reset_peak()
        step = our_step(composed, batch)
        durations = [seconds(step) for _ in range(3)]
        print(f"{name}: peak {peak_gib():.2f} GiB, {1 / durations[-1]:.2f} images/s", flush=True)
        del step
        torch.cuda.empty_cache()


def operations(composed, batch: dict) -> float:
    """Of forward and backward, in floating point."""
    network = build(composed.model).cuda().bfloat16()
    network.unet.disable_gradient_checkpointing()
    here = {name: value[:1].cuda() for name, value in batch.items()}
    cond = {name: here[name] for name in (TEXT, POOLED, IDS)}
    with FlopCounterMode(display=False) as counter:
        network(here[LATENTS], torch.zeros(1, device="cuda"), **cond).square().mean().backward()
    return counter.get_total_flops() * len(batch[LATENTS])


def matmul_rate() -> float:
    """Operations a second of a bfloat16 matrix product of side 8192."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    duration = statistics.median([seconds(lambda: [a @ a for _ in range(20)]) for _ in range(10)][2:])
    return 20 * 2 * 8192**3 / duration


def full(steps: int) -> None:
    if not torch.cuda.is_available():
        raise SystemExit("error: --full needs CUDA, and there is none here.")
    with tempfile.TemporaryDirectory() as folder:
        unet = UNet2DConditionModel.from_config(ARCHITECTURES["sdxl"]["unet"])
        unet.save_pretrained(Path(folder) / "unet")
        del unet
        presets(folder, make_batch(1, 128, (2048, 1280)))
        peak_rate = matmul_rate()
        print(f"matrix products: {peak_rate / 1e12:.0f} TFLOP/s")
        for size in (1, 4, 8):
            settings = ("optimizer=adamw8bit", "trainer.mixed_precision=bf16", f"trainer.batch_size={size}")
            composed = compose(*CHOSEN, f"model.pretrained={folder}", *settings)
            batch = make_batch(size, 128, (2048, 1280))
            rates = {}
            for name, make in (("ours", our_step), ("theirs", their_step)):
                torch.cuda.reset_peak_memory_stats()
                step = make(composed, batch)
                rate = size / statistics.median([seconds(step) for _ in range(steps)][2:])
                rates[name] = rate
                peak = torch.cuda.max_memory_allocated() / 2**30
                print(f"batch {size}, {name}: {rate:.3f} images/s, peak {peak:.1f} GiB", flush=True)
                del step
                torch.cuda.empty_cache()
            share = operations(composed, batch) / size * rates["ours"] / peak_rate
            ratio = rates["ours"] / rates["theirs"]
            print(f"batch {size}: {ratio:.3f} x diffusers' step, {share:.0%} of the rate of matrix products")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, default=60)
    arguments.add_argument("--full", action="store_true")
    arguments.add_argument("--presets", action="store_true")
    options = arguments.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device}")
    full(options.steps) if options.full else tiny(options.steps)
    if options.presets and not options.full:
        with tempfile.TemporaryDirectory() as folder:
            make_pipeline().save_pretrained(folder)
            presets(folder, make_batch(1, 16, (96, 64)))


if __name__ == "__main__":
    main()
