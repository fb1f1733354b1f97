"""A run's config as a record of it: readable parameters, and what a checkpoint must say of itself."""

from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from ztsnr.config.names import CLASS, NAMES, TARGET, encode

SCIENCE = ("schedule", "target", "weighting", "distance", "model", "data", "optimizer", "lr_schedule", "trainer")
SCIENCE += ("sampler", "samples", "validation", "seed")
RECORDED = (*SCIENCE, "quality")
CHOICES = ("schedule", "loss", "target", "weighting", "distance", "model", "data", "optimizer", "lr_schedule")
"""Groups whose chosen options are tags of a run."""
REPLICATES = ("seed", "data.seed", "trainer.noise_seed")
"""Settings that make another sample of the same option."""
FINISHED, INCOMPATIBLE, FAILED, INTERRUPTED = "finished", "incompatible", "failed", "interrupted"
"""What becomes of a run."""
UNIMPORTANT = ("log_every", "checkpoint")
"""Keys of the trainer that change no result."""
ADDRESSES = ("cache", "local_cache")
"""Keys of the data that say where what is made of it lies, and change no result."""


def science(config: DictConfig) -> dict:
    """All that made the weights, as files hold it; a run is resumed and told apart by what is important of it."""
    return encode({name: _plain(config[name]) for name in SCIENCE})


def published(science: dict) -> dict:
    """The part that goes with the weights to others: nothing of where pictures and their cache are."""
    return science | {"data": _without(("root", *ADDRESSES), science["data"])}


def important(science: dict) -> dict:
    """Without what changes no result: equal for runs that would be the same."""
    trainer, data = _without(UNIMPORTANT, science["trainer"]), _without(ADDRESSES, science["data"])
    return science | {"trainer": trainer, "data": data}


def differences(then: dict, now: dict) -> list[str]:
    """What differs between two configs of `science`, a line each. One from a file must be upgraded first."""
    old, new = (dict(_leaves(important(config))) for config in (then, now))
    told = ((key, old.get(key, "(absent)"), new.get(key, "(absent)")) for key in sorted(old.keys() | new.keys()))
    return [f"{key}: {before} -> {after}" for key, before, after in told if before != after]


def _leaves(node, prefix: str = "") -> Iterator[tuple[str, object]]:
    if not isinstance(node, dict):
        yield prefix, node
        return
    for key, value in node.items():
        if key == CLASS:
            yield prefix, value
        else:
            yield from _leaves(value, f"{prefix}.{key}" if prefix else key)


def flatten(config: DictConfig) -> dict[str, object]:
    """The science's values, and how quality is measured, under dotted names, each once.

    What refers to another node is left out. A node's class is recorded under the node's own key, by its name in files
    without the group.
    """
    flat: dict[str, object] = {}

    def walk(node: DictConfig, names, prefix: str) -> None:
        for key in names:
            value = node[key]
            if key == TARGET:
                flat[prefix.removesuffix(".")] = NAMES.get(value, value).rpartition(".")[2]
            elif OmegaConf.is_dict(value):
                if not OmegaConf.is_interpolation(node, key):
                    walk(value, value, f"{prefix}{key}.")
            elif not key.startswith("_"):
                flat[prefix + key] = _plain(value)

    walk(config, RECORDED, "")
    return flat


def _without(keys: tuple[str, ...], node: dict) -> dict:
    return {key: value for key, value in node.items() if key not in keys}


def _plain(value):
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
