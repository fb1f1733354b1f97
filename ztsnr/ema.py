"""Makes an average of the weights of any length from a run's snapshots: python -m ztsnr.ema run=RUN_FOLDER std=0.08"""

from pathlib import Path

from omegaconf import DictConfig

from ztsnr.config.command import command
from ztsnr.config.identity import published
from ztsnr.core import checks
from ztsnr.core.errors import CheckpointError, ConfigError


@command("ema", text_keys=("run", "output"))
def main(composed: DictConfig) -> None:
    from ztsnr.checkpoints.weights import read_checkpoint, write_checkpoint
    from ztsnr.training.posthoc import LONGEST, combination, combine, gamma_of

    checks.finite("std", composed.std, above=0, at_most=LONGEST)
    output, folder = Path(str(composed.output)), Path(str(composed.run)) / "snapshots"
    if not output.parent.is_dir() or output.suffix != ".safetensors":
        raise ConfigError(f"output must be a .safetensors file in an existing folder, got {composed.output!r}")
    read = [read_checkpoint(path) for path in sorted(folder.glob("step_*.safetensors"))]
    if composed.step is not None:
        checks.integer("step", composed.step, at_least=1)
        read = [snapshot for snapshot in read if snapshot.step <= composed.step]
    if not read:
        raise CheckpointError(f"{folder} holds no snapshot: train with trainer.posthoc_ema.stds=[0.05,0.1]")
    kept = [(snapshot, name) for snapshot in read for name in snapshot.names]
    places = [(snapshot.step, gamma_of(snapshot.facts["posthoc_stds"][name])) for snapshot, name in kept]
    shares = combination(places, (read[-1].step, gamma_of(composed.std)))
    made = combine([snapshot.state(name) for snapshot, name in kept], shares)
    facts = {name: value for name, value in read[-1].facts.items() if name != "posthoc_stds"}  # as of latents
    facts |= {"posthoc_std": composed.std, "snapshots": len(read)}
    write_checkpoint(output, {"ema": made}, published(read[-1].config), read[-1].step, float("nan"), facts)
    print(output)


if __name__ == "__main__":
    main()
