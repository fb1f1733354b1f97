"""The axes of a sweep, and a run's values on them."""

from collections.abc import Iterable, Mapping

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser

from ztsnr.config.identity import SEED_KEYS
from ztsnr.config.job import task_overrides


def swept_axes(overrides: Iterable[str]) -> dict[str, list[str]]:
    """Each swept key with its values; the last override of a key counts. A range has an empty list."""
    axes: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.get_key_element()
        if override.is_discrete_sweep():
            axes[key] = list(override.sweep_string_iterator())
        elif override.is_sweep_override():
            axes[key] = []
        else:
            axes.pop(key, None)
    return axes


def axis_values(axes: Mapping[str, list[str]]) -> dict[str, str]:
    """This run's value on each axis of its sweep."""
    chosen = {}
    for word in task_overrides():
        key, equals, value = word.lstrip("+").partition("=")
        if equals:
            chosen[key] = value
    return {key: chosen[key] for key in axes if key in chosen}


def run_title(values: Mapping[str, str]) -> str:
    """A run's name: its swept values, each with its key unless it is an option."""
    options = HydraConfig.get().runtime.choices
    words = [value if key in options else f"{key}={value}" for key, value in values.items()]
    return " ".join(words) or f"run {HydraConfig.get().job.num}"


def option_title(values: Mapping[str, str]) -> str:
    """A run's name without its seeds: the same for all repetitions of an option."""
    return run_title({key: value for key, value in values.items() if key not in SEED_KEYS})
