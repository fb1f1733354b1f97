"""A JSON schema of conf/: groups, options, keys, types and bounds, so that an editor completes and checks a YAML.

.venv/bin/python scripts/config_schema.py           # prints it
.venv/bin/python scripts/config_schema.py --write   # puts it into conf/schema.json
.venv/bin/python scripts/config_schema.py --config-dir my_conf > schema.json   # with options of your own

An editor with yaml-language-server (VS Code's YAML extension, among others) uses it for a file that begins with
    # yaml-language-server: $schema=../conf/schema.json
Types and bounds are read from the annotations of the classes; of classes of other packages only the name is checked.
"""

import argparse
import dataclasses
import inspect
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_class
from omegaconf import OmegaConf

from ztsnr.config.registry import compose, conf_folder, options
from ztsnr.core.bounds import Bounds, bounds_in
from ztsnr.core.checks import Part

ROOT = Path(__file__).parent.parent
SCHEMA = ROOT / "conf" / "schema.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
REFERENCE = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}
"""An interpolation, ${schedule.table}, or ???, a value that must be given."""
KEYS_OF_HYDRA = {"_target_": {"type": "string"}, "_partial_": {"type": "boolean"}, "defaults": {"type": "array"}}


def config_schema(config_dir: Path | None = None) -> dict[str, Any]:
    """Of any YAML of conf/: an option, whose `_target_` says which keys it has, a preset, or a study."""
    folders = [conf_folder(), *([config_dir] if config_dir else [])]
    targets = sorted({target for folder in folders for file in folder.rglob("*.yaml") for target in targets_in(file)})
    classes = {path: get_class(path) for path in targets}
    definitions = {path: class_schema(path, classes) for path in targets}
    groups = {group: options(group, config_dir) for group in groups_of(folders)}

    by_target = [
        {"if": {"properties": {"_target_": {"const": path}}}, "then": {"$ref": f"#/$defs/{path}"}} for path in targets
    ]
    return {
        "$schema": DIALECT,
        "title": "ztsnr's conf/",
        "type": ["object", "null"],
        "properties": {"defaults": {"type": "array", "items": defaults_schema(groups)}},
        "if": {"required": ["_target_"]},
        "then": {"properties": {"_target_": {"enum": targets}}, "allOf": by_target},
        "else": {"properties": study_properties(groups, config_dir)},
        "$defs": definitions,
    }


def targets_in(file: Path) -> list[str]:
    return re.findall(r"^ *_target_: *([\w.]+)", file.read_text(encoding="utf-8"), re.MULTILINE)


def groups_of(folders: Sequence[Path]) -> list[str]:
    groups = {file.parent.relative_to(folder).as_posix() for folder in folders for file in folder.rglob("*/*.yaml")}
    return sorted(groups)


def class_schema(path: str, classes: Mapping[str, type]) -> dict[str, Any]:
    """The keys of a node of this class. A node may leave some to another file: none is required."""
    cls = classes[path]
    target = {"_target_": {"const": path}}
    if not (
        path.startswith("ztsnr.") or (isinstance(cls, type) and issubclass(cls, Part))
    ):  # other libraries do not annotate theirs
        return {"type": "object", "properties": target}
    keys = {name: value_schema(annotation, classes) for name, annotation in annotations_of(cls).items()}
    return {"type": "object", "properties": KEYS_OF_HYDRA | target | keys, "additionalProperties": False}


def annotations_of(cls: type) -> dict[str, Any]:
    if dataclasses.is_dataclass(cls):
        hints = get_type_hints(cls, include_extras=True)
        return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}
    hints = get_type_hints(cls.__init__, include_extras=True)
    return {name: hints.get(name, Any) for name in inspect.signature(cls).parameters}


def value_schema(annotation: Any, classes: Mapping[str, type]) -> dict[str, Any]:
    """A value of this type, or what stands for one until the config is resolved."""
    schema = type_schema(annotation, classes)
    return {"anyOf": [schema, REFERENCE]} if schema else {}


def type_schema(annotation: Any, classes: Mapping[str, type]) -> dict[str, Any]:
    """{} is anything."""
    if get_origin(annotation) is Annotated:
        inner, *notes = get_args(annotation)
        return type_schema(inner, classes) | bounds_schema(bounds_in(tuple(notes)))
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if origin in (Union, UnionType):
        alternatives = [type_schema(argument, classes) for argument in arguments]
        return {"anyOf": alternatives} if all(alternatives) else {}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (list, tuple, Sequence):
        return list_schema(origin, arguments, classes)
    json_types = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    if origin in json_types:
        return {"type": json_types[origin]}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object"}
    return part_schema(origin, classes)


def list_schema(origin: Any, arguments: tuple, classes: Mapping[str, type]) -> dict[str, Any]:
    if origin is tuple and arguments[-1] is not ...:
        entries = [value_schema(argument, classes) for argument in arguments]
        return {"type": "array", "prefixItems": entries, "minItems": len(entries), "maxItems": len(entries)}
    return {"type": "array", "items": value_schema(arguments[0], classes) if arguments else {}}


def part_schema(base: Any, classes: Mapping[str, type]) -> dict[str, Any]:
    """A node of any class of conf/ that derives from `base`."""
    if not isinstance(base, type) or base is object:
        return {}
    paths = [path for path, cls in classes.items() if isinstance(cls, type) and issubclass(cls, base)]
    return {"anyOf": [{"$ref": f"#/$defs/{path}"} for path in paths]} if paths else {}


def bounds_schema(bounds: Bounds) -> dict[str, float]:
    limits = {
        "exclusiveMinimum": bounds.above,
        "minimum": bounds.at_least,
        "exclusiveMaximum": bounds.below,
        "maximum": bounds.at_most,
    }
    return {name: limit for name, limit in limits.items() if math.isfinite(limit)}


def defaults_schema(groups: Mapping[str, list[str]]) -> dict[str, Any]:
    """An entry of a defaults list: the options of each group."""
    entries = {}
    for group, names in groups.items():
        entries[rf"^(override |optional )*/?{group}(@[\w.]+)?$"] = {
            "anyOf": [{"enum": names}, {"type": ["null", "array"]}, REFERENCE]
        }
    return {"anyOf": [{"type": "string"}, {"type": "object", "patternProperties": entries}]}


def study_properties(groups: Mapping[str, list[str]], config_dir: Path | None) -> dict[str, Any]:
    """The keys at the top of a study, those of ztsnr.train: a group's node may set some of its keys only."""
    properties: dict[str, Any] = {}
    config = OmegaConf.to_container(compose(config_dir=config_dir))
    assert isinstance(config, dict)
    for key, value in config.items():
        files = [conf_folder() / str(key) / f"{name}.yaml" for name in groups.get(str(key), [])]
        paths = sorted({target for file in files if file.is_file() for target in targets_in(file)})
        if paths:
            properties[str(key)] = {"anyOf": [*({"$ref": f"#/$defs/{path}"} for path in paths), {"type": "null"}]}
        elif isinstance(value, bool):
            properties[str(key)] = {"anyOf": [{"type": "boolean"}, REFERENCE]}
        elif isinstance(value, int):
            properties[str(key)] = {"anyOf": [{"type": "integer"}, REFERENCE]}
    return properties


def as_text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"into {SCHEMA.relative_to(ROOT)}")
    parser.add_argument("--config-dir", type=Path, help="a folder with options of your own")
    arguments = parser.parse_args()
    text = as_text(config_schema(arguments.config_dir))
    if arguments.write:
        SCHEMA.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
