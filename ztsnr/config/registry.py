"""conf/ is the registry: an option's name is its file name, its class the file's _target_. This is its Python face.

options("weighting")                          # ['min_snr', 'unit_eps', ...]
make("weighting", "min_snr", gamma=3.0)       # MinSNR(base=X0(), gamma=3.0)
build(compose("schedule=sdxl", "loss=eps"))   # every part of a run, by name
"""

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from hydra.version import setbase
from omegaconf import DictConfig, ListConfig, OmegaConf

import ztsnr
from ztsnr.config.names import decode
from ztsnr.config.renamed import RENAMED_KEYS, refuse_renamed
from ztsnr.core.checks import constructing
from ztsnr.core.errors import CheckpointError, ConfigError, ZtsnrError

HYDRA_VERSION = "1.3"


def conf_folder() -> Path:
    """Inside the package where it is installed, beside it in a checkout."""
    package = Path(ztsnr.__file__).parent
    return next(folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir())


def options(group: str, config_dir: str | Path | None = None) -> list[str]:
    """Names of a group's options, "schedule" or "schedule/density"; `config_dir` adds a folder of the user's own."""
    with _hydra(config_dir) as loader:
        return loader.get_group_options(group, ObjectType.CONFIG)


def compose(*overrides: str, config: str = "train", config_dir: str | Path | None = None) -> DictConfig:
    """The config that these command-line overrides give. Its interpolations are resolved when it is built."""
    refuse_renamed(overrides)
    with _hydra(config_dir):
        return hydra_compose(config, list(overrides))


def make(group: str, option: str, config_dir: str | Path | None = None, **fields: object) -> Any:
    """One object of the registry; `fields` replace values of its YAML."""
    config = compose(f"{group}={option}", config_dir=config_dir)
    key = group.replace("/", ".")
    node = OmegaConf.select(config, key)
    for name, value in fields.items():
        if name not in node:
            raise ConfigError(f"{group}={option} has no {name!r}; it has {', '.join(k for k in node if k[0] != '_')}")
        node[name] = value
    return build(config, key)


def build(config: DictConfig | dict, key: str = "") -> Any:
    """The object that the node `key` of a config describes, "schedule.density"; the config itself where key is "".

    A node with a `_target_` is a call of that class with the node's other entries, built before it; one without is a
    dict of its objects and values. Messages of constructors name full keys. Raises ConfigError.
    """
    if key:
        config = OmegaConf.select(config if isinstance(config, DictConfig) else OmegaConf.create(config), key)
    return _build(config, key)


def _build(node: Any, key: str) -> Any:
    if isinstance(node, ListConfig | list):
        return [_build(entry, f"{key}[{number}]") for number, entry in enumerate(node)]
    if not isinstance(node, DictConfig | dict):
        return node

    references = _references(node)
    prefix = f"{key}." if key else ""
    values = {}
    for name in node:
        if name not in ("_target_", "_partial_"):
            values[str(name)] = _build(node[name], references.get(str(name), f"{prefix}{name}"))

    if "_target_" not in node:
        return values
    target = _locate(node["_target_"], key)
    if node.get("_partial_"):
        return partial(target, **values)
    _check_keys(target, values, prefix)
    try:
        with constructing(key, references):
            return target(**values)
    except ZtsnrError:
        raise
    except (TypeError, ImportError, AttributeError, ValueError) as error:
        name = f"{key}: " if key else ""
        raise ConfigError(f"{name}{node['_target_']} cannot be built from these values: {error}") from error


def _check_keys(target: Callable[..., Any], names: Iterable[str], prefix: str) -> None:
    """Raises ConfigError for a key that the class does not have, and names the one that may be meant."""
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:  # a function written in C has no signature to check against
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return

    for name in names:
        if name in parameters:
            continue
        key = prefix + name
        if key in RENAMED_KEYS:
            raise ConfigError(f"{key} is now {RENAMED_KEYS[key]}")
        hint = f"The keys here are {', '.join(parameters)}." if parameters else "This option has no keys."
        if near := difflib.get_close_matches(name, parameters, n=1):
            hint = f"Did you mean {prefix}{near[0]}?"
        raise ConfigError(f"There is no key {key!r}. {hint}")


def _references(node: DictConfig | dict) -> dict[str, str]:
    """Each entry that refers to another node, such as `table: ${schedule.table}`, with that node's key."""
    if not isinstance(node, DictConfig):
        return {}
    references = {}
    plain = cast("dict[str, Any]", OmegaConf.to_container(node, resolve=False))
    for name, text in plain.items():
        if isinstance(text, str) and text.startswith("${") and text.endswith("}"):
            key = text[2:-1]
            if all(part.isidentifier() for part in key.split(".")):
                references[str(name)] = key
    return references


def _locate(path: str, key: str) -> Callable[..., Any]:
    """The class or function that a `_target_` names; Hydra refuses those that could do harm, such as os.system."""
    try:
        return instantiate({"_target_": path, "_partial_": True}).func
    except InstantiationException as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise ConfigError(f"{key + '.' if key else ''}_target_={path} cannot be used: {cause}") from error


def build_from_file(node: dict, source: Path, key: str = "") -> Any:
    """Like build, for the node `key` of a config in a file: only classes that some option of the registry names are
    called."""
    try:
        decoded = decode(node)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    known = known_targets()
    for target in _targets(decoded):
        if target not in known:
            raise CheckpointError(
                f"{source} names the class {target!r}, which no option in conf/ does, so it is not called. "
                f"If you trust it, add its YAML by --config-dir."
            )
    return _build(decoded, key)


def known_targets() -> set[str]:
    """Every class that an option of the search path names."""
    with _hydra(None) as loader:
        paths = [entry.path for entry in loader.get_search_path().get_path() if entry.provider != "hydra"]
    targets = set()
    for path in paths:
        for file in _yaml_files(path):
            targets.update(re.findall(r"^\s*_target_:\s*([\w.]+)", file.read_text(), re.MULTILINE))
    return targets


def _yaml_files(path: str) -> Iterator[Path | Traversable]:
    """Every YAML file below an entry of Hydra's search path: a folder, file://FOLDER or pkg://PACKAGE."""
    scheme, _, location = path.rpartition("://")
    folders: list[Path | Traversable] = []
    if scheme == "pkg":
        folders.append(files(location))
    elif scheme in ("", "file") and location:
        folders.append(Path(location))
    while folders:
        for entry in folders.pop().iterdir():
            if entry.is_dir():
                folders.append(entry)
            elif entry.name.endswith(".yaml"):
                yield entry


def _targets(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "_target_":
                yield value
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)
    elif isinstance(node, str) and "${" in node:
        raise CheckpointError(f"a config in a file must be resolved, but this one holds {node!r}")


@contextmanager
def _hydra(config_dir: str | Path | None) -> Iterator[ConfigLoader]:
    """The running command's configuration loader, or one of our own with `config_dir` added."""
    if GlobalHydra.instance().is_initialized():
        if config_dir is not None:
            raise ConfigError("inside a command, folders are added by --config-dir, not by config_dir=")
        yield GlobalHydra.instance().config_loader()
        return
    search_path = create_config_search_path(str(conf_folder()))
    if config_dir is not None:
        folder = Path(config_dir).absolute()
        if not folder.is_dir():
            raise ConfigError(f"config_dir must be a folder, got {str(config_dir)!r}")
        search_path.prepend("user", f"file://{folder}", anchor="schema")
    setbase(HYDRA_VERSION)
    Hydra.create_main_hydra2("ztsnr", search_path)  # what hydra.initialize does, which takes only one folder
    try:
        yield GlobalHydra.instance().config_loader()
    finally:
        GlobalHydra.instance().clear()
