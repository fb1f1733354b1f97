"""One run of a sweep: its failure does not stop the sweep, and a finished run is not repeated."""

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ztsnr.config.command import explain
from ztsnr.config.identity import (
    FAILED,
    FINISHED,
    INCOMPATIBLE,
    INTERRUPTED,
    accepted_digests,
    config_digest,
    result_config,
    tracked_parameters,
)
from ztsnr.core.errors import IncompatibleObjective
from ztsnr.devices.gpus import take_gpu
from ztsnr.sweeps.axes import axis_values, option_title, run_title
from ztsnr.sweeps.files import count_outcomes, write_json
from ztsnr.tracking.tracker import Tracker

Train = Callable[[str, dict[str, str]], float]
"""Called with a run's title and tags; returns its score."""
JOBLIB_LAUNCHER = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"


def run_in_sweep(
    composed: DictConfig, sweep: dict[str, Any], tracker: Tracker, tags: dict[str, str], train: Train
) -> float:
    """The run's score; nan if it fails or its parts cannot be trained together."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    values = axis_values(sweep["axes"])
    title = run_title(values)
    tags = tags | {
        "ztsnr.sweep": sweep["id"],
        "ztsnr.axes": json.dumps(values),
        "ztsnr.option": option_title(values),
    }
    result: dict[str, Any] = {"name": title, "score": None, "message": ""}
    digest = ""
    parameters: dict[str, object] = {}
    start = time.perf_counter()
    try:
        config = result_config(composed)
        digest = config_digest(config)
        parameters = tracked_parameters(composed)
        earlier = _finished_result(folder / "result.json", accepted_digests(config))
        if earlier is not None:
            print(f"{title}: {earlier['outcome']} earlier", file=sys.stderr)
            return _score(earlier)
        tags["ztsnr.config"] = digest
        _choose_gpu(folder.parent)
        result |= {"outcome": FINISHED, "score": train(title, tags)}
    except IncompatibleObjective as error:
        result |= {"outcome": INCOMPATIBLE, "message": str(error)}
    except Exception as error:  # whatever it is, the sweep continues
        logging.getLogger(__name__).exception("%s failed", title)
        result |= {"outcome": FAILED, "message": explain(error, "train")}
    except KeyboardInterrupt:
        result |= {"outcome": INTERRUPTED}
        raise
    finally:
        if "outcome" in result:
            seconds = round(time.perf_counter() - start, 1)
            write_json(folder / "result.json", result | {"config": digest, "seconds": seconds})
            tracker.update_sweep_progress(sweep["run_id"], count_outcomes(folder.parent))

    if not tracker.started:  # it was refused before training opened its record
        record = tracker.start(title, parameters, tags | {"ztsnr.outcome": result["outcome"]}, folder)
        record.finish("FINISHED" if result["outcome"] == INCOMPATIBLE else "FAILED", result["message"])
    return _score(result)


def _finished_result(file: Path, digests: Collection[str]) -> dict[str, Any] | None:
    """The result of an earlier run of the same config, unless it must run again; None otherwise."""
    if not file.is_file():
        return None
    result = json.loads(file.read_text())
    is_final = result.get("config") in digests and result["outcome"] in (FINISHED, INCOMPATIBLE)
    return result if is_final else None


def _choose_gpu(sweep_folder: Path) -> None:
    """A GPU for each process of the joblib launcher, which starts several on this machine."""
    if HydraConfig.get().launcher._target_ == JOBLIB_LAUNCHER:
        import torch

        take_gpu(sweep_folder, torch.cuda.device_count())


def _score(result: dict[str, Any]) -> float:
    return math.nan if result["score"] is None else result["score"]
