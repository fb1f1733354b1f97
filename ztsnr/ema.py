"""Makes an average of the weights of any length from a run's snapshots: python -m ztsnr.ema run=RUN_FOLDER std=0.08"""

import math
from pathlib import Path

from omegaconf import DictConfig

from ztsnr.config.command import command
from ztsnr.config.identity import without_paths
from ztsnr.core.errors import ConfigError


@command("ema", text_keys=("run", "output"))
def main(composed: DictConfig) -> None:
    from ztsnr.checkpoints.weights import write_checkpoint
    from ztsnr.training.posthoc import average_snapshots

    output = Path(str(composed.output))
    if not output.parent.is_dir() or output.suffix != ".safetensors":
        raise ConfigError(f"output must be a .safetensors file in an existing folder, got {composed.output!r}")
    average = average_snapshots(Path(str(composed.run)) / "snapshots", composed.std, composed.step)
    config = without_paths(average.config)
    write_checkpoint(output, {"ema": average.weights}, config, average.step, math.nan, average.facts)
    print(output)


if __name__ == "__main__":
    main()
