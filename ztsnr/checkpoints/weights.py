"""Checkpoints: safetensors files that say what they are, and never anything that can run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from safetensors import SafetensorError
from torch import Tensor, nn

from ztsnr.config.names import upgrade
from ztsnr.core.errors import CheckpointError
from ztsnr.io.tensors import checksum, open_tensors, write_tensors

FORMAT = "1"
NONE: Mapping = MappingProxyType({})


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    config: dict
    """The resolved config of the run: schedule, target, weighting, distance, model, data, ..."""
    step: int
    score: float
    names: tuple[str, ...]
    """Networks in the file: "raw", and "ema" where there is one."""
    facts: dict
    """What else there is to say, as the statistics of latents."""
    checksums: dict

    def load_into(self, network: nn.Module, name: str) -> None:
        """Fills the network with the weights called `name`; every tensor must be there, fit, and be as written."""
        self._refuse_absent(name)
        wanted, found = network.state_dict(), {}
        with open_tensors(self.path) as file:
            for key in wanted:
                try:
                    found[key] = file.get_tensor(f"{name}.{key}")
                except SafetensorError as error:
                    raise CheckpointError(f"{self.path} does not fit model: it lacks {name}.{key}") from error
                _refuse_misfit(f"{self.path} does not fit model: {name}.{key}", found[key], wanted[key])
        self._refuse_changed(name, found)
        network.load_state_dict(found)

    def state(self, name: str) -> dict[str, Tensor]:
        """All weights called `name`, whatever the network."""
        self._refuse_absent(name)
        with open_tensors(self.path) as file:
            keys = [key for key in file.keys() if key.startswith(f"{name}.")]  # noqa: SIM118 (it is not iterable)
            found = {key.removeprefix(f"{name}."): file.get_tensor(key) for key in keys}
        self._refuse_changed(name, found)
        return found

    def _refuse_absent(self, name: str) -> None:
        if name not in self.names:
            raise CheckpointError(f"{self.path} holds the weights {', '.join(self.names)}, not {name!r}")

    def _refuse_changed(self, name: str, found: Mapping[str, Tensor]) -> None:
        if checksum(found) != self.checksums.get(name):
            raise CheckpointError(f"{self.path} is not what was written: the checksum of {name} is another")


def _refuse_misfit(what: str, found: Tensor, wanted: Tensor) -> None:
    if found.shape != wanted.shape:
        raise CheckpointError(f"{what} is {tuple(found.shape)}, the model has {tuple(wanted.shape)}")
    if found.dtype != wanted.dtype and not (found.is_floating_point() and wanted.is_floating_point()):
        raise CheckpointError(f"{what} is of {found.dtype}, the model has {wanted.dtype}")


def save_checkpoint(
    path: Path, networks: Mapping[str, nn.Module], config: Mapping, step: int, score: float, facts: Mapping = NONE
) -> None:
    """Writes whole or not at all: to a temporary file beside it, to the disk, then into place.

    facts: what JSON can hold, as the statistics of latents.
    """
    states = {name: _state(network) for name, network in networks.items()}
    write_checkpoint(path, states, config, step, score, facts)


def write_checkpoint(
    path: Path, states: Mapping[str, Mapping[str, Tensor]], config: Mapping, step: int, score: float, facts: Mapping
) -> None:
    """Like save_checkpoint, of states in host memory, contiguous and each of its own memory."""
    metadata = {"ztsnr.format": FORMAT, "ztsnr.config": json.dumps(config), "ztsnr.step": str(step)}
    metadata |= {"ztsnr.score": repr(score), "ztsnr.networks": json.dumps(list(states))}
    metadata |= {"ztsnr.facts": json.dumps(dict(facts))}
    metadata |= {"ztsnr.checksums": json.dumps({name: checksum(state) for name, state in states.items()})}
    tensors = {f"{name}.{key}": value for name, state in states.items() for key, value in state.items()}
    write_tensors(path, tensors, metadata)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads what the file says of itself; the weights stay on the disk until load_into."""
    path = Path(path)
    with open_tensors(path) as file:
        metadata = file.metadata() or {}
    if "ztsnr.format" not in metadata:
        raise CheckpointError(f"{path} was not written by ztsnr: its metadata has no ztsnr.format")
    if metadata["ztsnr.format"] != FORMAT:
        raise CheckpointError(f"{path} has format {metadata['ztsnr.format']!r}, this version reads {FORMAT!r}")
    try:
        step, score = int(metadata["ztsnr.step"]), float(metadata["ztsnr.score"])
        named = {name: json.loads(metadata[f"ztsnr.{name}"]) for name in ("config", "networks", "facts", "checksums")}
        for name, kind in (("config", dict), ("networks", list), ("facts", dict), ("checksums", dict)):
            if not isinstance(named[name], kind):
                raise ValueError(f"ztsnr.{name} is a {type(named[name]).__name__}")
        config = upgrade(named["config"])
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has broken metadata: {error}") from error
    names = tuple(map(str, named["networks"]))
    return Checkpoint(path, config, step, score, names, named["facts"], named["checksums"])


def _state(network: nn.Module) -> dict[str, Tensor]:
    """Tensors of their own memory each, which tied weights are not: safetensors refuses those."""
    found = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    taken: set[int] = set()
    for key, value in found.items():
        if value.untyped_storage().data_ptr() in taken:
            found[key] = value.clone()
        taken.add(found[key].untyped_storage().data_ptr())
    return found
