"""A run's config as a record of it: readable parameters, and what a checkpoint must say of itself."""

from omegaconf import DictConfig, OmegaConf

SCIENCE = ("schedule", "target", "weighting", "distance", "model", "data", "optimizer", "lr_schedule", "trainer")
SCIENCE += ("sampler", "samples", "validation", "seed")
RECORDED = (*SCIENCE, "quality")


def science(config: DictConfig) -> dict:
    """The part that a checkpoint carries: all that made the weights, and nothing of the machine or its addresses."""
    return {name: _plain(config[name]) for name in SCIENCE}


def flatten(config: DictConfig) -> dict[str, object]:
    """The science's values, and how quality is measured, under dotted names, each once.

    What refers to another node is left out. A node's class stands under the node's own name, without its module.
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

    walk(config, RECORDED, "")
    return flat


def _plain(value):
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
