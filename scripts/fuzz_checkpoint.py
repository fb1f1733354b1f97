"""Damages checkpoint files at random and reads them. Reading may raise only CheckpointError.

    .venv/bin/python scripts/fuzz_checkpoint.py --files 10000

Half are a final.safetensors, whose weights are loaded into the network; half are training states, which are resumed.
Half of each kind are damaged, and half are forged with valid checksums. A file may load if its content is still valid.
"""

import argparse
import collections
import json
import random
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from ztsnr.checkpoints.state import optimizer_state, restore, restore_optimizer, settings_of, trained_state
from ztsnr.checkpoints.state_file import read_state, write_state
from ztsnr.checkpoints.tree import pack
from ztsnr.checkpoints.weights import read_checkpoint, save_checkpoint
from ztsnr.core.errors import CheckpointError

CONFIG = {"target": {"_target_": "ztsnr.core.target.V"}, "data": {"shape": [1, 8, 8], "classes": 10}, "seed": 0}
NASTY = ("NaN", "1e999", "-1", "9" * 400, "null", "[]", "{}", '""', "[" * 4000, '{"tensor":0}', '"\\ud800"', "true")
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "C64", "F4", "X9", "")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def trained() -> tuple[nn.Module, torch.optim.Optimizer, list[dict]]:
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    settings = settings_of(optimizer)
    net(torch.randn(5, 3)).square().mean().backward()
    optimizer.step()
    return net, optimizer, settings


def write_both(folder: Path) -> dict[str, bytes]:
    """A small valid file of each kind."""
    net, optimizer, settings = trained()
    final, state = folder / "final.safetensors", folder / "state.safetensors"
    save_checkpoint(final, {"raw": net, "ema": network()}, CONFIG, 7, score=0.25, facts={"mean": [0.5, 1.0]})
    parts = {"network": trained_state(net), "optimizer": optimizer_state(optimizer, settings), "scaler": None}
    write_state(state, 7, {"config": CONFIG, "overrides": ["seed=1"], "record": None}, *pack(parts, "state"))
    return {"final": final.read_bytes(), "state": state.read_bytes()}


class Forged(nn.Module):
    """A module with an arbitrary state."""

    def __init__(self, state: dict):
        super().__init__()
        self.tensors = state

    def state_dict(self):
        return self.tensors


def other_tensors(tensors: dict, draw: random.Random) -> dict:
    """Changes the type, shape or name of one tensor, or removes it."""
    name = draw.choice(sorted(tensors))
    tensor = tensors[name].contiguous()
    kind = draw.choice((torch.int64, torch.bool, torch.float64, torch.bfloat16, torch.complex64, torch.float8_e4m3fn))
    replacement = draw.choice((tensor.to(kind), tensor.reshape(-1)[:1], tensor[None], tensor.reshape(-1)[:0], None))
    renamed = draw.choice((name, name, name + ".x", ""))
    rest = {key: value for key, value in tensors.items() if key != name}
    return rest if replacement is None else rest | {renamed: replacement.contiguous()}


def forge(kind: str, path: Path, draw: random.Random) -> None:
    """Writes a file with valid checksums and content that no run would write."""
    net, optimizer, settings = trained()
    if kind == "final":
        state = other_tensors(net.state_dict(), draw)
        config = draw.choice((CONFIG, [], None, {"target": 0}))
        save_checkpoint(path, {draw.choice(("raw", "ema", "")): Forged(state), "ema": network()}, config, -1)
        return
    parts = {"network": trained_state(net), "optimizer": optimizer_state(optimizer, settings), "scaler": None}
    tree, tensors = pack(parts, "state")
    text, value = json.dumps(tree), draw.choice([*NASTY, '{"tensor": "state.network.0.weight", "order": [9, 0]}'])
    for pattern in draw.choices(
        (r"\{[^{}]*\}", r'"\w+"(?!:)', r"\d+", "true|null", r"\[[^\[\]]*\]", r'"\w+"(?=:)'), k=2
    ):
        text = _replace_one(pattern, lambda: value, draw)(text)
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        tree = draw.choice((None, 0, [], {"dict": {}}, {"tuple": {}}, {"tensor": [], "order": [0]}, {"dtype": "load"}))
    tensors = other_tensors(tensors, draw) if draw.random() < 0.5 else tensors
    write_state(path, draw.choice((7, 7, 7, 7, -1)), draw.choice(({"config": CONFIG}, {}, {}, [])), tree, tensors)


def read_final(path: Path) -> None:
    checkpoint = read_checkpoint(path)
    for name in ("raw", "ema"):
        checkpoint.load_into(network(), name)


def resume(path: Path) -> None:
    net, optimizer, _ = trained()
    parts = read_state(path).parts
    if not {"network", "optimizer"} <= parts.keys():
        raise CheckpointError("parts are missing")
    restore(trained_state(net), parts["network"], "network")
    restore_optimizer(optimizer, parts["optimizer"])


READERS: dict[str, Callable[[Path], None]] = {"final": read_final, "state": resume}


def damaged(content: bytes, draw: random.Random) -> bytes:
    """One or two damages: to single bytes, to the length, to the header's numbers, texts, types and shapes."""
    for _ in range(draw.randint(1, 2)):
        content = draw.choice((_flip, _cut, _splice, _length, _number, _word, _type, _metadata))(content, draw)
    return content


def _flip(content: bytes, draw: random.Random) -> bytes:
    copy = bytearray(content)
    for _ in range(draw.randint(1, 8)) if copy else ():
        copy[draw.randrange(len(copy))] = draw.randrange(256)
    return bytes(copy)


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)] + bytes(draw.choice((0, 0, 1, 999)))


def _splice(content: bytes, draw: random.Random) -> bytes:
    start, stop = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[:start] + draw.randbytes(draw.randint(0, 9)) + content[min(stop, start + 64) :]


def _length(content: bytes, draw: random.Random) -> bytes:
    return draw.choice((0, 1, len(content), 10**8, 10**8 + 1, 2**63, 2**64 - 1)).to_bytes(8, "little") + content[8:]


def _header(content: bytes, change: Callable[[str], str]) -> bytes:
    """Changes the header and corrects its length, so that the damage passes the first check."""
    size = int.from_bytes(content[:8], "little")
    header = change(content[8 : 8 + size].decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def _replace_one(pattern: str, by: Callable[[], str], draw: random.Random) -> Callable[[str], str]:
    def change(header: str) -> str:
        matches = list(re.finditer(pattern, header))
        if not matches:
            return header
        match = draw.choice(matches)
        return header[: match.start()] + by() + header[match.end() :]

    return change


def _number(content: bytes, draw: random.Random) -> bytes:
    numbers = ("0", "1", "3", "5", "-1", "4294967296", "18446744073709551615", "1e3", "0.5", "")
    return _header(content, _replace_one(r"\d+", lambda: draw.choice(numbers), draw))


def _word(content: bytes, draw: random.Random) -> bytes:
    by = draw.choice(("", "raw", '"', "]"))
    return _header(content, _replace_one(r'[a-z_.]{3,}|[{}\[\]",:\\]', lambda: by, draw))


def _type(content: bytes, draw: random.Random) -> bytes:
    return _header(content, _replace_one(r'(?<="dtype":")\w+', lambda: draw.choice(DTYPES), draw))


def _metadata(content: bytes, draw: random.Random) -> bytes:
    """Replaces one text of the metadata; the header remains valid JSON."""

    def change(header: str) -> str:
        try:
            document = json.loads(header)
            metadata = document["__metadata__"]
            metadata[draw.choice(list(metadata))] = draw.choice(NASTY)
            return json.dumps(document)
        except (ValueError, KeyError, TypeError, IndexError):
            return header

    return _header(content, change)


def fuzz(folder: Path, files: int, seed: int) -> Iterator[str]:
    """Yields '' for a file that loaded, otherwise the error message without names and numbers."""
    draw, sound = random.Random(seed), write_both(folder)
    path = folder / "damaged.safetensors"
    for number in range(files):
        kind = ("final", "state")[number % 2]
        if number % 4 < 2:
            path.write_bytes(damaged(sound[kind], draw))
        else:
            forge(kind, path, draw)
        try:
            READERS[kind](path)
            yield ""
        except CheckpointError as error:
            yield re.sub(r"'[^']*'|\d+|`.*|: .*", "…", str(error).replace(str(path), "FILE"))[:70]
        except BaseException:
            copy = Path(f"fuzz_{seed}_{number}.safetensors").absolute()
            copy.write_bytes(path.read_bytes())
            print(f"{copy} did not raise CheckpointError")
            raise


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--files", type=int, default=10_000)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    memory = Path("/dev/shm")  # where there is no disk to wait for
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        outcomes = collections.Counter(fuzz(Path(folder), options.files, options.seed))
    print(f"{options.files} files, {outcomes.pop('', 0)} loaded; refused:")
    for message, times in outcomes.most_common(20):
        print(f"{times:6} {message!a}")


if __name__ == "__main__":
    main()
