"""A sweep on the disk: sweep.json says what is swept, and in each run's folder result.json says what became of it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from ztsnr.core.errors import ConfigError
from ztsnr.io.atomic import write_text_atomically


def find_sweep(root: Path, command: str) -> Path:
    """The folder of the newest sweep of the same command."""
    files = [file for file in root.glob("*/*/sweep.json") if json.loads(file.read_text())["command"] == command]
    if not files:
        raise ConfigError(
            f"sweep.resume=true finds no sweep below {root} that was started by the same command, {command!r}. "
            f"Without it, a new one starts."
        )
    return max(files, key=lambda file: file.stat().st_mtime).parent


def current_sweep() -> dict[str, Any] | None:
    """The sweep that this run belongs to, if it does."""
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return json.loads((Path(HydraConfig.get().sweep.dir) / "sweep.json").read_text())


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """What became of each run, by its name, in the order of the runs."""
    files = sorted(folder.glob("*/result.json"), key=lambda path: (len(path.parent.name), path.parent.name))
    results = [json.loads(file.read_text()) for file in files]
    return {result["name"]: result for result in results}


def count_outcomes(folder: Path) -> Counter[str]:
    return Counter(result["outcome"] for result in read_results(folder).values())


def write_json(file: Path, content: dict[str, Any]) -> None:
    write_text_atomically(file, json.dumps(content, indent=1))
