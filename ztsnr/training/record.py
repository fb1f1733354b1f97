"""A run's config as a record of it: readable parameters, and what a checkpoint must say of itself."""

from collections.abc import Mapping

SCIENCE = ("schedule", "target", "weighting", "distance", "model", "data", "optimizer", "lr_schedule", "trainer")
SCIENCE += ("sampler", "samples", "validation", "seed")


def science(config: Mapping) -> dict:
    """The part that a checkpoint carries: all that made the weights, and nothing of the machine or its addresses."""
    return {name: config[name] for name in SCIENCE}


def flatten(config: Mapping, prefix: str = "") -> dict[str, object]:
    """Nested values under dotted names; a node's class stands under the node's own name, without its module."""
    flat: dict[str, object] = {}
    for key, value in config.items():
        if key == "_target_":
            flat[prefix.removesuffix(".")] = value.rsplit(".", 1)[-1]
        elif isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif not str(key).startswith("_"):
            flat[prefix + str(key)] = value
    return flat
