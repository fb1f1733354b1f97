"""Sweeps: one record of all their runs, made before the first, and what goes wrong in a run stays in it.

A sweep's folder holds sweep.json, what is swept, and in each run's folder result.json, what became of it.
"""

import hashlib
import json
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from ztsnr.config.command import explain, print_error
from ztsnr.config.identity import FAILED, FINISHED, INCOMPATIBLE, INTERRUPTED, REPLICATES, flatten, important, science
from ztsnr.config.registry import build
from ztsnr.core.errors import ConfigError, IncompatibleObjective, ZtsnrError
from ztsnr.devices.gpus import take_gpu
from ztsnr.io.atomic import write_whole

if TYPE_CHECKING:
    from ztsnr.tracking.tracker import Tracker


class SweepRecord(Callback):
    """Hydra's hook around a multirun; it acts in the process that starts the runs, whichever launcher does it."""

    def __getstate__(self) -> dict:
        """Nothing: launchers send this to the runs' processes, where it has nothing to do."""
        return {}

    def on_multirun_start(self, config: DictConfig, **_) -> None:
        try:
            self._start(config)
        except ZtsnrError as error:  # Hydra would make a warning of it and go on
            sys.exit(print_error(error, "train"))

    def _start(self, config: DictConfig) -> None:
        overrides = [word for word in config.hydra.overrides.task if not word.startswith("sweep.resume=")]
        of_study = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
        sweep = {"command": " ".join(overrides), "axes": axes([*of_study, *overrides])}
        self.tracker = build(config, "tracking")
        self.tracker.check()
        folder = Path(config.hydra.sweep.dir)
        if config.sweep.resume:
            folder = find_sweep(folder.parent.parent, sweep["command"])
            with open_dict(config):
                config.hydra.sweep.dir = str(folder)
                config.hydra.overrides.hydra.append(f"hydra.sweep.dir={folder}")
            sweep = json.loads((folder / "sweep.json").read_text())
            self.tracker.close_orphans(sweep["id"])
        else:
            folder.mkdir(parents=True, exist_ok=True)
            sweep["id"] = "-".join(folder.parts[-2:]).removesuffix("-sweep")
            sweep["run_id"] = self.tracker.start_sweep(f"sweep {sweep['id']}", sweep, sweep["id"])
            write_json(folder / "sweep.json", sweep)
        self.folder, self.sweep, self.began = folder, sweep, time.perf_counter()

    def on_multirun_end(self, config: DictConfig, **_) -> None:
        from ztsnr.analysis.tables import print_sweep

        results = read_results(self.folder)
        counts = Counter(result["outcome"] for result in results.values())
        told = print_sweep(results, time.perf_counter() - self.began)
        print(f"results {self.folder}", file=sys.stderr)
        try:
            self.tracker.finish_sweep(self.sweep["run_id"], told, counts)
            if self.tracker.open_hint():
                self._compare()
                print(f"charts  {self.tracker.open_hint(self.sweep['id'])}", file=sys.stderr)
        except ZtsnrError as error:
            print(f"no comparison: {error}", file=sys.stderr)
        if counts[FAILED]:
            print(f"{counts[FAILED]} failed; sweep.resume=true tries them again", file=sys.stderr)
            sys.exit(1)

    def _compare(self) -> None:
        from ztsnr.comparison.compare import compare
        from ztsnr.io.console import make_console

        report, page = compare(self.tracker, sweep=self.sweep["id"])
        report.print_to(make_console(sys.stderr))
        print(f"report  {page}", file=sys.stderr)


def axes(overrides: list[str]) -> dict[str, list[str]]:
    """What is swept, and over which values; of words on one key the last holds. Ranges have no list of values."""
    found: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.get_key_element()
        if override.is_sweep_override():
            found[key] = list(override.sweep_string_iterator()) if override.is_discrete_sweep() else []
        else:
            found.pop(key, None)
    return found


def find_sweep(root: Path, command: str) -> Path:
    """The newest sweep of the same command."""
    found = [path for path in root.glob("*/*/sweep.json") if json.loads(path.read_text())["command"] == command]
    if not found:
        raise ConfigError(
            f"sweep.resume=true finds no sweep below {root} that was started by the same command, {command!r}. "
            f"Without it, a new one starts."
        )
    return max(found, key=lambda path: path.stat().st_mtime).parent


def read_results(folder: Path) -> dict[str, dict]:
    """What became of each run, by its name, in the order of the runs."""
    files = sorted(folder.glob("*/result.json"), key=lambda path: (len(path.parent.name), path.parent.name))
    results = [json.loads(file.read_text()) for file in files]
    return {result["name"]: result for result in results}


def sweeping() -> dict | None:
    """The sweep that this run belongs to, if it does."""
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return json.loads((Path(HydraConfig.get().sweep.dir) / "sweep.json").read_text())


def place_in(sweep: dict) -> dict[str, str]:
    """This run's value on each of the sweep's axes."""
    chosen = dict(word.lstrip("+").split("=", 1) for word in HydraConfig.get().overrides.task if "=" in word)
    return {key: chosen[key] for key in sweep["axes"] if key in chosen}


def title_of(place: dict[str, str]) -> str:
    """A run's name: what is swept and nothing else, options by their names alone."""
    options = HydraConfig.get().runtime.choices
    words = [value if key in options else f"{key}={value}" for key, value in place.items()]
    return " ".join(words) or f"run {HydraConfig.get().job.num}"


def digest(science: dict) -> str:
    """Of a run's resolved config, without what changes no result: equal for runs that would be the same."""
    text = json.dumps(important(science), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def attempt(composed: DictConfig, sweep: dict, tracker: "Tracker", tags: dict, train: Callable[[str, dict], float]):
    """One run of a sweep: its score, nan where it fails or cannot be; not run again where it has finished.

    train: called with the run's name and tags.
    """
    file, place = Path(HydraConfig.get().runtime.output_dir) / "result.json", place_in(sweep)
    began, name, config, params = time.perf_counter(), title_of(place), "", {}
    result = {"name": name, "score": None, "message": ""}
    tags = tags | {"ztsnr.sweep": sweep["id"], "ztsnr.axes": json.dumps(place)}
    tags["ztsnr.option"] = title_of({key: value for key, value in place.items() if key not in REPLICATES})
    try:
        config, params = digest(science(composed)), flatten(composed)
        earlier = json.loads(file.read_text()) if file.is_file() else {}
        if earlier.get("config") == config and earlier["outcome"] in (FINISHED, INCOMPATIBLE):
            print(f"{name}: {earlier['outcome']} earlier", file=sys.stderr)
            return math.nan if earlier["score"] is None else earlier["score"]
        tags["ztsnr.config"] = config
        if HydraConfig.get().launcher._target_.endswith("JoblibLauncher"):
            import torch

            take_gpu(file.parent.parent, torch.cuda.device_count())
        result |= {"outcome": FINISHED, "score": train(name, tags)}
    except IncompatibleObjective as error:
        result |= {"outcome": INCOMPATIBLE, "message": str(error)}
    except Exception as error:
        logging.getLogger(__name__).exception("%s failed", name)
        result |= {"outcome": FAILED, "message": explain(error, "train")}
    except KeyboardInterrupt:
        result |= {"outcome": INTERRUPTED}
        raise
    finally:
        if "outcome" in result:
            write_json(file, result | {"config": config, "seconds": round(time.perf_counter() - began, 1)})
            tracker.update_sweep_progress(
                sweep["run_id"], Counter(r["outcome"] for r in read_results(file.parent.parent).values())
            )
    if not tracker.started:  # it was refused before there was anything to record but this
        record = tracker.start(name, params, tags | {"ztsnr.outcome": result["outcome"]}, file.parent)
        record.finish("FINISHED" if result["outcome"] == INCOMPATIBLE else "FAILED", result["message"])
    return math.nan if result["score"] is None else result["score"]


def write_json(file: Path, content: dict) -> None:
    write_whole(file, lambda temporary: temporary.write_text(json.dumps(content, indent=1)))
