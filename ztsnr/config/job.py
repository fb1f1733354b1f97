"""What Hydra knows of the job that is running: the options chosen, its words and its folder."""

from collections.abc import Iterable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig


def chosen_options(groups: Iterable[str]) -> dict[str, str]:
    """The options chosen in these groups."""
    return {name: str(HydraConfig.get().runtime.choices[name]) for name in groups}


def task_overrides() -> list[str]:
    """The overrides of the job's config, Hydra's own left out."""
    return list(HydraConfig.get().overrides.task)


def run_folder() -> Path:
    """Hydra's folder of this run, relative where it lies below the current one."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
