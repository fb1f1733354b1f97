"""Hydra's hook around a multirun: it opens the sweep's record before the first run and compares the runs at the end."""

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict

from ztsnr.config.command import print_error
from ztsnr.config.identity import FAILED
from ztsnr.config.registry import build
from ztsnr.core.errors import ZtsnrError
from ztsnr.sweeps.axes import swept_axes
from ztsnr.sweeps.files import find_sweep, read_results, write_json


class SweepRecord(Callback):
    """It acts in the process that starts the runs, whichever launcher does it."""

    def __getstate__(self) -> dict:
        """Nothing: launchers send this to the runs' processes, where it has nothing to do."""
        return {}

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        try:
            self._start(config)
        except ZtsnrError as error:  # Hydra would only warn and continue
            sys.exit(print_error(error, "train"))

    def _start(self, config: DictConfig) -> None:
        self.started_at = time.perf_counter()
        self.tracker = build(config, "tracking")
        self.tracker.check()
        command, axes = _command_and_axes(config)
        if config.sweep.resume:
            self._resume(config, command)
        else:
            self._begin(Path(config.hydra.sweep.dir), command, axes)

    def _begin(self, folder: Path, command: str, axes: dict[str, list[str]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.sweep = {"command": command, "axes": axes, "id": "-".join(folder.parts[-2:]).removesuffix("-sweep")}
        self.sweep["run_id"] = self.tracker.start_sweep(f"sweep {self.sweep['id']}", self.sweep, self.sweep["id"])
        write_json(folder / "sweep.json", self.sweep)

    def _resume(self, config: DictConfig, command: str) -> None:
        self.folder = find_sweep(Path(config.hydra.sweep.dir).parent.parent, command)
        with open_dict(config):
            config.hydra.sweep.dir = str(self.folder)
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={self.folder}")
        self.sweep = json.loads((self.folder / "sweep.json").read_text())
        self.tracker.close_orphans(self.sweep["id"])

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        from ztsnr.sweeps.results_table import print_sweep

        results = read_results(self.folder)
        counts = Counter(result["outcome"] for result in results.values())
        table = print_sweep(results, time.perf_counter() - self.started_at)
        print(f"results {self.folder}", file=sys.stderr)
        try:
            self.tracker.finish_sweep(self.sweep["run_id"], table, counts)
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


def _command_and_axes(config: DictConfig) -> tuple[str, dict[str, list[str]]]:
    """The words of the command line, and what they and a study's own axes sweep."""
    overrides = [word for word in config.hydra.overrides.task if not word.startswith("sweep.resume=")]
    of_study = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    return " ".join(overrides), swept_axes([*of_study, *overrides])
