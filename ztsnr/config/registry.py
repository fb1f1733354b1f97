"""conf/ is the registry: an option's name is its file name, its class the file's _target_. This is its Python face.

options("weighting")                          # ['min_snr', 'unit_eps', ...]
make("weighting", "min_snr", gamma=3.0)       # MinSNR(base=X0(), gamma=3.0)
build(compose("schedule=sdxl", "loss=eps"))   # every part of a run, by name
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from hydra import compose as hydra_compose
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from hydra.version import setbase
from omegaconf import DictConfig, OmegaConf

import ztsnr
from ztsnr.config.renamed import refuse_renamed
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


def make(group: str, option: str, config_dir: str | Path | None = None, **fields):
    """One object of the registry; `fields` replace values of its YAML."""
    node = OmegaConf.select(compose(f"{group}={option}", config_dir=config_dir), group.replace("/", "."))
    for name, value in fields.items():
        if name not in node:
            raise ConfigError(f"{group}={option} has no {name!r}; it has {', '.join(k for k in node if k[0] != '_')}")
        node[name] = value
    return build(node)


def build(node: DictConfig | dict):
    """The object a node describes; for a node without a class, a dict of its objects and values."""
    if "_target_" not in node:
        return {str(key): build(value) if OmegaConf.is_dict(value) else value for key, value in node.items()}
    try:
        plain = OmegaConf.to_container(node, resolve=True, throw_on_missing=True) if OmegaConf.is_config(node) else node
        return instantiate(plain, _convert_="all")  # given the node itself, it would resolve that in place
    except InstantiationException as error:
        if isinstance(error.__cause__, ZtsnrError):
            raise _with_full_key(error.__cause__, node, str(error)) from None
        if isinstance(error.__cause__, TypeError | ImportError | AttributeError | ValueError) or not error.__cause__:
            hint = ", set env var HYDRA_FULL_ERROR=1 to see chained exception."  # here the cause is told
            raise ConfigError(str(error).replace(hint, f": {error.__cause__}").replace("\n", " ")) from error
        raise


def _with_full_key(cause: ZtsnrError, node: DictConfig | dict, told: str) -> ZtsnrError:
    """Puts the key by which the command line sets it in place of the constructor's own: density.b, schedule.density.b.

    `told` is Hydra's message, which ends in the part's place below `node`.
    """
    if not OmegaConf.is_config(node):
        return cause
    key, place = node._get_full_key(None), re.search(r"^full_key: (\S+)$", told, re.MULTILINE)
    for part in place[1].split(".") if place else ():
        reference = OmegaConf.to_container(node, resolve=False)[part]
        plain = re.fullmatch(r"\$\{(\w[\w.]*)\}", reference) if isinstance(reference, str) else None
        key, node = plain[1] if plain else f"{key}.{part}".lstrip("."), node[part]
    cause.args = (re.sub(r"^[\w.]+\.(\w+ must )", rf"{key}.\1", str(cause)),)
    return cause


def build_from_file(node: dict, source: Path):
    """Like build, for configs that come with a file: only classes that some option of the registry names are called."""
    known = known_targets()
    for target in _targets(node):
        if target not in known:
            raise CheckpointError(
                f"{source} names the class {target!r}, which no option in conf/ does, so it is not called. "
                f"If you trust it, add its YAML by --config-dir."
            )
    return build(node)


def known_targets() -> set[str]:
    """Every class that an option of the search path names."""
    with _hydra(None) as loader:
        paths = [entry.path for entry in loader.get_search_path().get_path() if entry.provider != "hydra"]
    texts = [file.read_text() for path in paths for file in _yaml_files(path)]
    return {target for text in texts for target in re.findall(r"^\s*_target_:\s*([\w.]+)", text, re.MULTILINE)}


def _yaml_files(path: str) -> Iterator:
    """Every YAML file below an entry of Hydra's search path: a folder, file://FOLDER or pkg://PACKAGE."""
    scheme, _, place = path.rpartition("://")
    if scheme == "pkg":
        folders = [files(place)]
    else:
        folders = [Path(place)] if scheme in ("", "file") and place else []
    while folders:
        for entry in folders.pop().iterdir():
            if entry.is_dir():
                folders.append(entry)
            elif entry.name.endswith(".yaml"):
                yield entry


def _targets(node) -> Iterator[str]:
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
def _hydra(config_dir: str | Path | None) -> Iterator:
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
    Hydra.create_main_hydra2("ztsnr", search_path)  # what hydra.initialize does, which takes one folder alone
    try:
        yield GlobalHydra.instance().config_loader()
    finally:
        GlobalHydra.instance().clear()
