"""The part of a run's config that determines its result, and how it is stored and compared."""

import json
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ztsnr.config.names import CLASS, NAMES, TARGET, downgrade, encode

RESULT_GROUPS = ("schedule", "target", "weighting", "distance", "model", "data", "optimizer", "lr_schedule", "trainer")
RESULT_GROUPS += ("sampler", "samples", "validation", "seed")
PARAMETER_GROUPS = (*RESULT_GROUPS, "quality")
"""Groups whose values are the parameters of a tracked run."""
TAGGED_GROUPS = ("schedule", "loss", "target", "weighting", "distance", "model", "data", "optimizer", "lr_schedule")
"""Groups whose chosen options are tags of a run."""
SEED_KEYS = ("seed", "data.seed", "trainer.noise_seed")
"""Settings in which repetitions of one option differ."""
NON_RESULT_KEYS = ("log_every", "checkpoint")
"""Keys of the trainer that change no result."""
PATH_KEYS = ("cache", "local_cache")
"""Keys of the data that say where its cache is, and change no result."""
FINISHED = "finished"
INCOMPATIBLE = "incompatible"
FAILED = "failed"
INTERRUPTED = "interrupted"
"""Outcomes of a run."""


def result_config(config: DictConfig) -> dict:
    """All that determines the weights, resolved, with classes by their names in files."""
    return encode({name: _plain(config[name]) for name in RESULT_GROUPS})


def without_paths(config: dict) -> dict:
    """A `result_config` without the paths of images and their cache: the part that is published with the weights."""
    return config | {"data": _without(("root", *PATH_KEYS), config["data"])}


def identity_config(config: dict) -> dict:
    """The part of a `result_config` that changes the result: equal for runs that would be the same."""
    trainer = _without(NON_RESULT_KEYS, config["trainer"])
    data = _without(PATH_KEYS, config["data"])
    return config | {"trainer": trainer, "data": data}


def config_digest(config: dict) -> str:
    """The digest of a `result_config`: equal for runs that would be the same, whatever the paths of classes."""
    return _digest(identity_config(config))


def accepted_digests(config: dict) -> tuple[str, str]:
    """The digests that a file of an equal run may hold: today's, and the one that 0de1f9a computed."""
    return config_digest(config), _digest(downgrade(identity_config(config)))


def _digest(config: dict) -> str:
    return blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=8).hexdigest()


def differences(then: dict, now: dict) -> list[str]:
    """The differences between two result configs that change the result, a line each. Upgrade a file's config first."""
    old = dict(_leaves(identity_config(then)))
    new = dict(_leaves(identity_config(now)))
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before = old.get(key, "(absent)")
        after = new.get(key, "(absent)")
        if before != after:
            lines.append(f"{key}: {before} -> {after}")
    return lines


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, object]]:
    if not isinstance(node, dict):
        yield prefix, node
        return
    for key, value in node.items():
        if key == CLASS:
            yield prefix, value
        else:
            yield from _leaves(value, f"{prefix}.{key}" if prefix else key)


def tracked_parameters(config: DictConfig) -> dict[str, object]:
    """A run's settings by dotted key, those of the quality measure included.

    A reference to another node is left out. A node's class is recorded under the node's own key, by its name in files
    without the group.
    """
    parameters: dict[str, object] = {}

    def walk(node: DictConfig, keys: Iterable, prefix: str) -> None:
        for key in keys:
            value = node[key]
            if key == TARGET:
                parameters[prefix.removesuffix(".")] = NAMES.get(value, str(value)).rpartition(".")[2]
            elif isinstance(value, DictConfig):
                if not OmegaConf.is_interpolation(node, key):
                    walk(value, value, f"{prefix}{key}.")
            elif not key.startswith("_"):
                parameters[prefix + key] = _plain(value)

    walk(config, PARAMETER_GROUPS, "")
    return parameters


def _without(keys: tuple[str, ...], node: dict) -> dict:
    return {key: value for key, value in node.items() if key not in keys}


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
