"""The part of the V3 node API that these nodes use, in terms of the classic one (INPUT_TYPES, RETURN_TYPES, ...)."""

from dataclasses import dataclass, field
from typing import Any


class Port:
    """An input or an output: its id, its type's name, and the widget's options (default, min, max, tooltip, ...)."""

    def __init__(
        self,
        kind: str,
        id: str | None = None,
        *,
        options: list[str] | None = None,
        optional: bool = False,
        display_name: str | None = None,
        **widget: object,
    ) -> None:
        self.kind = kind
        self.id = id
        self.options = options
        self.optional = optional
        self.name = display_name or kind
        self.widget = {key: value for key, value in widget.items() if value is not None}

    @property
    def classic(self) -> tuple:
        return (self.kind if self.options is None else self.options, self.widget)


class _Kind:
    def __init__(self, name: str) -> None:
        self.name = name

    def Input(self, id: str, **options: Any) -> Port:
        return Port(self.name, id, **options)

    def Output(self, **options: Any) -> Port:
        return Port(self.name, **options)


Boolean = _Kind("BOOLEAN")
Combo = _Kind("COMBO")
Float = _Kind("FLOAT")
Int = _Kind("INT")
Latent = _Kind("LATENT")
Model = _Kind("MODEL")
Sampler = _Kind("SAMPLER")
Sigmas = _Kind("SIGMAS")


@dataclass(kw_only=True)
class Schema:
    node_id: str
    display_name: str
    category: str
    description: str = ""
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)


class NodeOutput(tuple):
    def __new__(cls, *values: object) -> "NodeOutput":
        return super().__new__(cls, values)


class ComfyNode:
    FUNCTION = "execute"

    @classmethod
    def define_schema(cls) -> Schema:
        raise NotImplementedError

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        ports = cls.define_schema().inputs
        return {
            "required": {port.id: port.classic for port in ports if not port.optional},
            "optional": {port.id: port.classic for port in ports if port.optional},
        }


def classic_mappings(nodes: list[type]) -> tuple[dict, dict]:
    """NODE_CLASS_MAPPINGS and NODE_DISPLAY_NAME_MAPPINGS; sets each class's classic attributes from its schema."""
    classes = {}
    names = {}
    for node in nodes:
        schema = node.define_schema()
        node.CATEGORY = schema.category
        node.DESCRIPTION = schema.description
        node.RETURN_TYPES = tuple(port.kind for port in schema.outputs)
        node.RETURN_NAMES = tuple(port.name for port in schema.outputs)
        if hasattr(node, "fingerprint_inputs"):
            node.IS_CHANGED = node.fingerprint_inputs
        classes[schema.node_id] = node
        names[schema.node_id] = schema.display_name
    return classes, names
