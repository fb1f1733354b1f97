"""A sweep's files: sweep.json holds what is swept, and result.json in each run's folder that run's outcome."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from ztsnr.config.renamed import upgrade_overrides
from ztsnr.core.errors import ConfigError
from ztsnr.io.atomic import write_text_atomically


def find_sweep(root: Path, command: str) -> Path:
    """The folder of the newest sweep of the same command, which 0de1f9a may have started with older names."""
    files = []
    for file in root.glob("*/*/sweep.json"):
        recorded = json.loads(file.read_text())["command"]
        if command in (recorded, " ".join(upgrade_overrides(recorded.split(" ")))):
            files.append(file)
    if not files:
        raise ConfigError(
            f"sweep.resume=true finds no sweep below {root} that was started by the same command, {command!r}. "
            f"Without it, a new one starts."
        )
    return max(files, key=lambda file: file.stat().st_mtime).parent


def current_sweep() -> dict[str, Any] | None:
    """The sweep that this run belongs to; None outside a sweep."""
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return json.loads((Path(HydraConfig.get().sweep.dir) / "sweep.json").read_text())


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Each run's result, by its name, in the order of the runs."""
    files = sorted(folder.glob("*/result.json"), key=lambda path: (len(path.parent.name), path.parent.name))
    results = [json.loads(file.read_text()) for file in files]
    return {result["name"]: result for result in results}


def count_outcomes(folder: Path) -> Counter[str]:
    return Counter(result["outcome"] for result in read_results(folder).values())


def write_json(file: Path, content: dict[str, Any]) -> None:
    write_text_atomically(file, json.dumps(content, indent=1))
