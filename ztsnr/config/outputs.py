"""Where a command writes: refused before any work where it cannot."""

from collections.abc import Sequence
from pathlib import Path

from ztsnr.core.errors import ConfigError


def output_file(value: object, suffixes: Sequence[str]) -> Path:
    """The file that output=VALUE names, of one of these types and in a folder that exists. Raises ConfigError."""
    path = Path(str(value))
    if path.suffix.lower() not in suffixes or not path.parent.is_dir():
        *others, last = suffixes
        types = f"{', '.join(others)} or {last}" if others else last
        raise ConfigError(f"output must be a {types} file in an existing folder, got {str(value)!r}")
    return path


def new_folder(value: object) -> Path:
    """The folder that output=VALUE names, which must not exist yet, in one that does. Raises ConfigError."""
    path = Path(str(value))
    if not path.parent.is_dir():
        raise ConfigError(f"output must be the name of a new folder in an existing one, got {str(value)!r}")
    if path.exists():
        raise ConfigError(f"output={value} exists already. Give the name of a new folder")
    return path
