"""Checks of a command's output path, before any work begins."""

from collections.abc import Sequence
from pathlib import Path

from ztsnr.core.errors import ConfigError


def output_file(value: object, suffixes: Sequence[str]) -> Path:
    """The file of output=VALUE. Raises ConfigError unless it is of one of these types and its folder exists."""
    path = Path(str(value))
    if path.suffix.lower() not in suffixes or not path.parent.is_dir():
        *others, last = suffixes
        types = f"{', '.join(others)} or {last}" if others else last
        raise ConfigError(f"output must be a {types} file in an existing folder, got {str(value)!r}")
    return path


def new_folder(value: object) -> Path:
    """The new folder of output=VALUE. Raises ConfigError if it exists, or if its parent does not."""
    path = Path(str(value))
    if not path.parent.is_dir():
        raise ConfigError(f"output must be the name of a new folder in an existing one, got {str(value)!r}")
    if path.exists():
        raise ConfigError(f"output={value} exists already. Give the name of a new folder")
    return path
