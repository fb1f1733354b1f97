"""The running job: its chosen options, its overrides and its folder, from Hydra."""

from collections.abc import Iterable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig


def chosen_options(groups: Iterable[str]) -> dict[str, str]:
    """The options chosen in these groups."""
    return {name: str(HydraConfig.get().runtime.choices[name]) for name in groups}


def task_overrides() -> list[str]:
    """The overrides of the job's config, without Hydra's own."""
    return list(HydraConfig.get().overrides.task)


def run_folder() -> Path:
    """Hydra's folder of this run, relative where it lies below the current one."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
