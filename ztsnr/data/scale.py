"""How x0 is made of latents: latent = x0 * std + mean, by channel."""

from collections.abc import Mapping

from ztsnr.core import checks
from ztsnr.core.errors import ConfigError

NORMALISE = ("channel", "scalar", "none")


def check_scale(normalise: str, statistics: Mapping | None) -> None:
    """Raises ConfigError."""
    if statistics is None:
        return
    if normalise == "none":
        raise ConfigError(
            "data.statistics replaces measured ones: it needs data.latent_normalisation=channel or scalar"
        )
    names = set(statistics) if isinstance(statistics, Mapping) else None
    if names != {"mean", "std"} or len(statistics["mean"]) != len(statistics["std"]):
        raise ConfigError(f"data.statistics must be a mean and a std of each channel, got {statistics!r}")
    checks.numbers("data.statistics.mean", statistics["mean"])
    checks.numbers("data.statistics.std", statistics["std"], above=0)


def latent_scale(normalise: str, statistics: Mapping | None, told: Mapping) -> dict[str, list[float]]:
    """`told` is what an index says of its latents; `statistics`, where given, take the place of that."""
    channels = len(told["mean"])
    if statistics is not None:
        if len(statistics["mean"]) != channels:
            raise ConfigError(f"data.statistics must be of the VAE's {channels} channels, got {statistics}")
        return dict(statistics)
    if normalise == "channel":
        return {"mean": told["mean"], "std": told["std"]}
    std = told["std_of_all"] if normalise == "scalar" else 1 / told["scaling_factor"]
    return {"mean": [0.0] * channels, "std": [std] * channels}
