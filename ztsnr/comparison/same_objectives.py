"""Finds options that train the same objective, from the configs of their runs."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from ztsnr.analysis.summary import Summary, same_objectives
from ztsnr.comparison.options import Option
from ztsnr.config.names import upgrade
from ztsnr.config.registry import build_from_file
from ztsnr.core.errors import ZtsnrError
from ztsnr.core.objective import Objective
from ztsnr.tracking.experiment import Experiment

PARTS = ("schedule", "target", "weighting", "distance")
DRAWS = 2**14
"""The number of noise levels at which two objectives are compared."""


def same_objective_options(options: Sequence[Option], experiment: Experiment, folder: Path) -> list[list[str]]:
    """Groups of names of options that train alike: their objectives and all other settings are the same.

    folder: where configs are downloaded to.
    """
    summaries: dict[str, dict[str, Summary]] = {}  # other settings -> option name -> summary
    for option in options:
        objective = _objective(option, experiment, folder)
        if objective is not None:
            others = {key: value for key, value in option.values.items() if not _is_of_objective(key)}
            summary = Summary(objective=objective, steps=1, count=DRAWS)
            summaries.setdefault(repr(others), {})[option.name] = summary

    groups = []
    for comparable in summaries.values():
        groups += same_objectives(comparable)
    return groups


def _objective(option: Option, experiment: Experiment, folder: Path) -> Objective | None:
    """The objective of the option's first finished run; None without a config, or if it needs a missing plug-in."""
    if not option.finished:
        return None
    file = experiment.download(option.finished[0].id, "config.yaml", folder)
    if file is None:
        return None
    config = upgrade(yaml.safe_load(file.read_text()))
    try:
        parts = {part: build_from_file(config[part], file) for part in PARTS}
    except ZtsnrError:
        return None
    return Objective(**parts, normalise_weight=False)


def _is_of_objective(key: str) -> bool:
    return key.split(".")[0] in (*PARTS, "loss")
