"""Checkpoints: safetensors files that say what they are, and never anything that can run."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ztsnr.errors import CheckpointError

FORMAT = "1"


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    config: dict
    """The resolved config of the run: schedule, target, weighting, distance, model, data, ..."""
    step: int
    score: float
    names: tuple[str, ...]
    """Networks in the file: "raw", and "ema" where there is one."""

    def load_into(self, network: nn.Module, name: str) -> None:
        """Fills the network with the weights called `name`; every tensor must be there and fit."""
        if name not in self.names:
            raise CheckpointError(f"{self.path} holds the weights {', '.join(self.names)}, not {name!r}")
        wanted, found = network.state_dict(), {}
        with _open(self.path) as file:
            for key in wanted:
                try:
                    found[key] = file.get_tensor(f"{name}.{key}")
                except SafetensorError as error:
                    raise CheckpointError(f"{self.path} does not fit model: it lacks {name}.{key}") from error
                if found[key].shape != wanted[key].shape:
                    shapes = f"{tuple(found[key].shape)}, the model has {tuple(wanted[key].shape)}"
                    raise CheckpointError(f"{self.path} does not fit model: {name}.{key} is {shapes}")
        network.load_state_dict(found)


def save_checkpoint(path: Path, networks: Mapping[str, nn.Module], config: Mapping, step: int, score: float) -> None:
    """Writes whole or not at all: to a temporary file beside it, to the disk, then into place."""
    tensors = {f"{name}.{key}": value for name, net in networks.items() for key, value in _state(net).items()}
    metadata = {"ztsnr.format": FORMAT, "ztsnr.config": json.dumps(config), "ztsnr.step": str(step)}
    metadata |= {"ztsnr.score": repr(score), "ztsnr.networks": json.dumps(list(networks))}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(save(tensors, metadata))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{path} could not be written: {error.strerror}") from error


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads what the file says of itself; the weights stay on the disk until load_into."""
    path = Path(path)
    with _open(path) as file:
        metadata = file.metadata() or {}
    if "ztsnr.format" not in metadata:
        raise CheckpointError(f"{path} was not written by ztsnr: its metadata has no ztsnr.format")
    if metadata["ztsnr.format"] != FORMAT:
        raise CheckpointError(f"{path} has format {metadata['ztsnr.format']!r}, this version reads {FORMAT!r}")
    try:
        config, names = json.loads(metadata["ztsnr.config"]), json.loads(metadata["ztsnr.networks"])
        return Checkpoint(path, config, int(metadata["ztsnr.step"]), float(metadata["ztsnr.score"]), tuple(names))
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} has broken metadata: {error}") from error


def _open(path: Path):
    if not path.is_file():
        raise CheckpointError(f"checkpoint={path} is not a file")
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
