"""Keys, options and values renamed since 0de1f9a. The commands refuse an old name with the new one; files are upgraded.

Add a line here with every public rename. Class paths are in ztsnr.config.names.
"""

from collections.abc import Iterable
from copy import deepcopy

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from ztsnr.core.errors import ConfigError

RENAMED_KEYS: dict[str, str] = {
    "data.captions.lines": "data.captions.split_lines",
    "data.copies": "data.local_cache",
    "data.level": "data.batch_size_step",
    "data.normalise": "data.latent_normalisation",
    "data.windows": "data.text_windows",
    "objective.normalise": "objective.normalise_weight",
    "tracking.must_answer": "tracking.require_server",
    "tracking.patience": "tracking.final_flush_seconds",
    "trainer.accumulate": "trainer.gradient_accumulation_steps",
    "trainer.clip": "trainer.max_grad_norm",
    "trainer.precision": "trainer.mixed_precision",
    "trainer.step_in_backward": "trainer.optimizer_in_backward",
    "trainer.weights": "trainer.param_dtype",
}
"""Full key of 0de1f9a -> full key of today, as "trainer.clip": "trainer.max_grad_norm". One table for all commands."""

RENAMED_OPTIONS: dict[tuple[str, str], str] = {("quality", "samples"): "frechet"}
"""(group, option of 0de1f9a) -> option of today, as ("quality", "samples"): "frechet"."""

RENAMED_VALUES: dict[tuple[str, object], object] = {
    ("trainer.checkpoint.on_save_error", "go_on"): "continue",
}
"""(full key of today, value of 0de1f9a) -> value of today."""


def refuse_renamed(overrides: Iterable[str]) -> None:
    """Raises ConfigError for a command-line word that uses an old name: trainer.clip is now trainer.max_grad_norm."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.get_key_element().lstrip("+~")
        if key in RENAMED_KEYS:
            raise ConfigError(f"{key} is now {RENAMED_KEYS[key]}")
        for value in _values(override):
            new = _new_value(key, value)
            if new is not None:
                raise ConfigError(f"{key}={value} is now {key}={new}")


def upgrade_overrides(overrides: Iterable[object]) -> list[str]:
    """Words with which a run of an older version was started, in today's names."""
    upgraded = []
    for word in map(str, overrides):
        name, equals, value = word.partition("=")
        bare = name.lstrip("+~")
        key = RENAMED_KEYS.get(bare, bare)
        new = _new_value(key, value)
        upgraded.append(f"{name.removesuffix(bare)}{key}{equals}{value if new is None else new}")
    return upgraded


def _values(override: Override) -> list[str]:
    if override.is_discrete_sweep():
        return list(override.sweep_string_iterator())
    if override.is_sweep_override():  # an interval
        return []
    return [override.get_value_element_as_str()]


def _new_value(key: str, value: str) -> object:
    """Today's name of an option or value, or None where it has not changed."""
    return RENAMED_OPTIONS.get((key, value), RENAMED_VALUES.get((key, value)))


def upgrade_keys(config: dict) -> dict:
    """A copy of a run's resolved config in which old keys and values have today's names."""
    upgraded = deepcopy(config)
    for old, new in RENAMED_KEYS.items():
        _move(upgraded, old, new)
    for (key, old_value), new_value in RENAMED_VALUES.items():
        _replace(upgraded, key, old_value, new_value)
    return upgraded


def downgrade_keys(config: dict) -> dict:
    """The inverse of `upgrade_keys`: a copy in which keys and values have the names of 0de1f9a."""
    downgraded = deepcopy(config)
    for (key, old_value), new_value in RENAMED_VALUES.items():
        _replace(downgraded, key, new_value, old_value)
    for old, new in RENAMED_KEYS.items():
        _move(downgraded, new, old)
    return downgraded


def _move(config: dict, source: str, destination: str) -> None:
    """Moves a value from one full key to the other, where the config has the first and the second's group."""
    *groups, name = source.split(".")
    node = _node(config, groups)
    if node is None or name not in node:
        return
    value = node.pop(name)
    *new_groups, new_name = destination.split(".")
    target = _node(config, new_groups)
    if target is not None:
        target[new_name] = value


def _replace(config: dict, key: str, old_value: object, new_value: object) -> None:
    *groups, name = key.split(".")
    node = _node(config, groups)
    if node is not None and node.get(name) == old_value:
        node[name] = new_value


def _node(config: dict, keys: list[str]) -> dict | None:
    """The mapping under these keys, or None where there is none."""
    node: object = config
    for key in keys:
        node = node.get(key) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else None
