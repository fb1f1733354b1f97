"""Reads the recorded runs that are compared."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ztsnr.config.identity import FAILED, FINISHED, INCOMPATIBLE, INTERRUPTED, TAGGED_GROUPS
from ztsnr.config.names import upgrade_settings
from ztsnr.core.errors import ConfigError
from ztsnr.tracking.experiment import Experiment, RecordedRun

OUTCOME_OF_STATUS = {"FINISHED": FINISHED, "FAILED": FAILED, "KILLED": INTERRUPTED}


@dataclass(frozen=True)
class Run:
    id: str
    name: str
    outcome: str
    message: str
    started: int
    """Milliseconds since 1970."""
    settings: Mapping[str, str]
    """The swept settings, the chosen options and the parameters, in this order."""
    metrics: Mapping[str, float]
    identity: str
    """Equal for two attempts at the same run."""


def newest_sweep(experiment: Experiment) -> str:
    """The newest sweep's id. Raises ConfigError if there is no sweep."""
    sweeps = experiment.search("tags.`ztsnr.role` = 'sweep'")
    if not sweeps:
        raise ConfigError(f"{experiment} has no sweeps yet. With all=true, all its runs are compared.")
    return max(sweeps, key=lambda run: run.start_time).tags["ztsnr.sweep"]


def sweep_summary(experiment: Experiment, sweep: str) -> RecordedRun:
    """The summary run of a sweep. Raises ConfigError if there is no such sweep."""
    summaries = experiment.search(f"tags.`ztsnr.sweep` = '{sweep}' and tags.`ztsnr.role` = 'sweep'")
    if not summaries:
        raise ConfigError(f"{experiment} has no sweep={sweep}")
    return summaries[0]


def read_runs(experiment: Experiment, sweep: str = "", where: str = "") -> list[Run]:
    """The runs of a sweep, or all runs, that match MLflow's filter `where`; of several attempts only the best.

    Raises ConfigError if there is none.
    """
    conditions = ["tags.`ztsnr.role` = 'run'"]
    if sweep:
        conditions.insert(0, f"tags.`ztsnr.sweep` = '{sweep}'")
    if where:
        conditions.append(where)
    recorded = experiment.search(" and ".join(conditions))
    if not recorded:
        searched = where or f"sweep={sweep}"
        raise ConfigError(f"{experiment} has no run with {searched}" if where or sweep else f"{experiment} has no runs")
    return best_attempts(map(interpret, recorded))


def best_attempts(runs: Iterable[Run]) -> list[Run]:
    """One run for each identity, the newest finished one or else the newest, in the order of their starts."""
    best: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: (run.outcome == FINISHED, run.started)):
        best[run.identity] = run
    return sorted(best.values(), key=lambda run: run.started)


def interpret(recorded: RecordedRun) -> Run:
    """The run as a comparison reads it: settings with today's names, its outcome, and why it did not finish."""
    tags = recorded.tags
    settings = upgrade_settings(json.loads(tags.get("ztsnr.axes", "{}")))
    options = {group: tags[group] for group in TAGGED_GROUPS if group in tags}
    params = upgrade_settings(recorded.params)
    for more in (options, dict(sorted(params.items()))):
        for key, value in more.items():
            settings.setdefault(key, value)

    outcome = OUTCOME_OF_STATUS.get(recorded.status, INTERRUPTED)
    if outcome == FINISHED and tags.get("ztsnr.outcome") == INCOMPATIBLE:
        outcome = INCOMPATIBLE
    message = ""
    if outcome != FINISHED:
        note = tags.get("mlflow.note.content", "").split("\n")[0]
        message = re.sub(r"^(\w+Error|\w*Objective|NonFinite): ", "", note)

    return Run(
        id=recorded.id,
        name=recorded.name,
        outcome=outcome,
        message=message,
        started=recorded.start_time,
        settings=settings,
        metrics=recorded.metrics,
        identity=tags.get("ztsnr.config") or tags.get("ztsnr.axes") or recorded.id,
    )
