"""Trains a network on an objective, and records the run: python -m ztsnr.train schedule=ztsnr loss=vpred"""

from omegaconf import DictConfig

from ztsnr.checkpoints.overrides import with_recorded_overrides
from ztsnr.config.command import command
from ztsnr.config.identity import TAGGED_GROUPS, config_digest, result_config
from ztsnr.config.job import chosen_options
from ztsnr.config.registry import build
from ztsnr.sweeps.attempt import run_in_sweep
from ztsnr.sweeps.files import current_sweep


@command("train", text_keys=("resume",), expand=with_recorded_overrides)
def main(composed: DictConfig) -> float:
    """Returns the validation score, which sweeps rank and optimise; nan where a run of a sweep has none."""
    tracker = build(composed, "tracking")
    tags = chosen_options(TAGGED_GROUPS) | {"ztsnr.role": "run"}

    def train(title: str, tags: dict[str, str]) -> float:
        from ztsnr.training.run import run

        return run(composed, tracker, title, tags)

    if sweep := current_sweep():
        return run_in_sweep(composed, sweep, tracker, tags, train)
    tags["ztsnr.config"] = config_digest(result_config(composed))
    return train(f"{tags['schedule']} {tags['loss']} seed {composed.seed}", tags)


if __name__ == "__main__":
    main()
