"""Checkpoints of weights: safetensors files with metadata that describes them. Nothing in them is executable."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from safetensors import SafetensorError
from torch import Tensor, nn

from ztsnr.config.names import upgrade
from ztsnr.core.errors import CheckpointError
from ztsnr.io.tensors import checksum, open_tensors, write_tensors

CHECKPOINT_FORMAT = "1"
NO_FACTS: Mapping = MappingProxyType({})


@dataclass(frozen=True)
class Checkpoint:
    """A file's metadata; the weights stay on the disk until they are loaded."""

    path: Path
    config: dict
    """The resolved config of the run: schedule, target, weighting, distance, model, data, ..."""
    step: int
    score: float
    """Of the last validation; nan without one."""
    names: tuple[str, ...]
    """The networks in the file: "raw", and "ema" if the run averaged."""
    facts: dict
    """Other facts, such as the statistics of latents."""
    checksums: dict

    def load_into(self, network: nn.Module, name: str) -> None:
        """Fills the network with the weights called `name`.

        Raises CheckpointError if one of its tensors is missing, does not fit or is corrupted.
        """
        self._require(name)
        expected = network.state_dict()
        tensors = {}
        with open_tensors(self.path) as file:
            for key in expected:
                try:
                    tensors[key] = file.get_tensor(f"{name}.{key}")
                except SafetensorError as error:
                    raise CheckpointError(f"{self.path} does not fit model: it lacks {name}.{key}") from error
                _check_fit(f"{self.path} does not fit model: {name}.{key}", tensors[key], expected[key])
        self._verify(name, tensors)
        network.load_state_dict(tensors)

    def state(self, name: str) -> dict[str, Tensor]:
        """All weights called `name`, without a network to fill. Raises CheckpointError."""
        self._require(name)
        tensors = {}
        with open_tensors(self.path) as file:
            for key in file.keys():  # noqa: SIM118 (it is not iterable)
                if key.startswith(f"{name}."):
                    tensors[key.removeprefix(f"{name}.")] = file.get_tensor(key)
        self._verify(name, tensors)
        return tensors

    def _require(self, name: str) -> None:
        if name not in self.names:
            raise CheckpointError(f"{self.path} holds the weights {', '.join(self.names)}, not {name!r}")

    def _verify(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        if checksum(tensors) != self.checksums.get(name):
            raise CheckpointError(f"{self.path} is corrupted: checksum mismatch for {name}")


def _check_fit(what: str, tensor: Tensor, expected: Tensor) -> None:
    if tensor.shape != expected.shape:
        raise CheckpointError(f"{what} is {tuple(tensor.shape)}, the model has {tuple(expected.shape)}")
    if tensor.dtype != expected.dtype and not (tensor.is_floating_point() and expected.is_floating_point()):
        raise CheckpointError(f"{what} is of {tensor.dtype}, the model has {expected.dtype}")


def save_checkpoint(
    path: Path,
    networks: Mapping[str, nn.Module],
    config: Mapping,
    step: int,
    *,
    score: float = math.nan,
    facts: Mapping = NO_FACTS,
) -> None:
    """Writes the file completely or not at all. Raises CheckpointError if the disk refuses.

    config, facts: values that JSON can hold.
    """
    states = {name: _state(network) for name, network in networks.items()}
    write_checkpoint(path, states, config, step, score=score, facts=facts)


def write_checkpoint(
    path: Path,
    states: Mapping[str, Mapping[str, Tensor]],
    config: Mapping,
    step: int,
    *,
    score: float = math.nan,
    facts: Mapping = NO_FACTS,
) -> None:
    """Like save_checkpoint, for contiguous tensors in host memory that share no memory."""
    checksums = {name: checksum(state) for name, state in states.items()}
    metadata = {
        "ztsnr.format": CHECKPOINT_FORMAT,
        "ztsnr.config": json.dumps(config),
        "ztsnr.step": str(step),
        "ztsnr.score": repr(score),
        "ztsnr.networks": json.dumps(list(states)),
        "ztsnr.facts": json.dumps(dict(facts)),
        "ztsnr.checksums": json.dumps(checksums),
    }
    tensors = {}
    for name, state in states.items():
        for key, tensor in state.items():
            tensors[f"{name}.{key}"] = tensor
    write_tensors(path, tensors, metadata)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Raises CheckpointError for a file that is not a checkpoint, or is broken."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint={path} is not a file")
    with open_tensors(path) as file:
        metadata = file.metadata() or {}
    if "ztsnr.format" not in metadata:
        raise CheckpointError(f"{path} was not written by ztsnr: its metadata has no ztsnr.format")
    if metadata["ztsnr.format"] != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path} has format {metadata['ztsnr.format']!r}, this version reads {CHECKPOINT_FORMAT!r}"
        )
    try:
        step = int(metadata["ztsnr.step"])
        score = float(metadata["ztsnr.score"])
        values = {}
        for name, kind in (("config", dict), ("networks", list), ("facts", dict), ("checksums", dict)):
            values[name] = json.loads(metadata[f"ztsnr.{name}"])
            if not isinstance(values[name], kind):
                raise ValueError(f"ztsnr.{name} is a {type(values[name]).__name__}")
        config = upgrade(values["config"])
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has broken metadata: {error}") from error
    names = tuple(map(str, values["networks"]))
    return Checkpoint(path, config, step, score, names, values["facts"], values["checksums"])


def _state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict in host memory. Tied weights are copied, since safetensors refuses shared memory."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    addresses: set[int] = set()
    for key, value in tensors.items():
        if value.untyped_storage().data_ptr() in addresses:
            tensors[key] = value.clone()
        addresses.add(tensors[key].untyped_storage().data_ptr())
    return tensors
