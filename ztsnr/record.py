"""A run's config as a record of it: readable parameters, and what a checkpoint must say of itself."""

from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

SCIENCE = ("schedule", "target", "weighting", "distance", "model", "data", "optimizer", "lr_schedule", "trainer")
SCIENCE += ("sampler", "samples", "validation", "seed")
UNIMPORTANT = ("log_every", "checkpoint")
"""Keys of the trainer that change no result."""


def science(config: DictConfig) -> dict:
    """The part that a checkpoint carries: all that made the weights, and nothing of the machine or its addresses."""
    return {name: _plain(config[name]) for name in SCIENCE}


def important(science: dict) -> dict:
    """Without what changes no result: equal for runs that would be the same."""
    trainer = {key: value for key, value in science["trainer"].items() if key not in UNIMPORTANT}
    return science | {"trainer": trainer}


def differences(then: dict, now: dict) -> list[str]:
    """What differs between two configs of `science`, a line each."""
    old, new = (dict(_leaves(important(config))) for config in (then, now))
    told = ((key, old.get(key, "(absent)"), new.get(key, "(absent)")) for key in sorted(old.keys() | new.keys()))
    return [f"{key}: {before} -> {after}" for key, before, after in told if before != after]


def _leaves(node, prefix: str = "") -> Iterator[tuple[str, object]]:
    if not isinstance(node, dict):
        yield prefix, node
        return
    for key, value in node.items():
        yield from _leaves(value, f"{prefix}.{key}" if prefix else key)


def flatten(config: DictConfig) -> dict[str, object]:
    """The science's values under dotted names, each once: what refers to another node is left out.

    A node's class stands under the node's own name, without its module.
    """
    flat: dict[str, object] = {}

    def walk(node: DictConfig, names, prefix: str) -> None:
        for key in names:
            value = node[key]
            if key == "_target_":
                flat[prefix.removesuffix(".")] = value.rsplit(".", 1)[-1]
            elif OmegaConf.is_dict(value):
                if not OmegaConf.is_interpolation(node, key):
                    walk(value, value, f"{prefix}{key}.")
            elif not key.startswith("_"):
                flat[prefix + key] = _plain(value)

    walk(config, SCIENCE, "")
    return flat


def _plain(value):
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
