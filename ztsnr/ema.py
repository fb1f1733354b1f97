"""Averages a run's weights over any length, from its snapshots: python -m ztsnr.ema run=RUN_FOLDER std=0.08"""

from pathlib import Path

from omegaconf import DictConfig

from ztsnr.config.command import command
from ztsnr.config.identity import without_paths
from ztsnr.config.outputs import output_file


@command("ema", positional="run", text_keys=("run", "output"))
def main(composed: DictConfig) -> None:
    from ztsnr.checkpoints.weights import write_checkpoint
    from ztsnr.training.posthoc import average_snapshots

    output = output_file(composed.output, [".safetensors"])
    average = average_snapshots(Path(str(composed.run)) / "snapshots", composed.std, composed.step)
    config = without_paths(average.config)
    write_checkpoint(output, {"ema": average.weights}, config, average.step, facts=average.facts)
    print(output)


if __name__ == "__main__":
    main()
