"""The part of the V3 node API that these nodes use, in terms of the classic one (INPUT_TYPES, RETURN_TYPES, ...)."""

from dataclasses import dataclass, field


class Port:
    """An input or an output: its id, its type's name, and what the widget is told."""

    def __init__(self, kind, id=None, *, options=None, optional=False, display_name=None, **told):
        self.kind, self.id, self.options, self.optional = kind, id, options, optional
        self.name = display_name or kind
        self.told = {key: value for key, value in told.items() if value is not None}

    @property
    def classic(self) -> tuple:
        return (self.kind if self.options is None else self.options, self.told)


class _Kind:
    def __init__(self, name: str):
        self.name = name

    def Input(self, id: str, **told) -> Port:
        return Port(self.name, id, **told)

    def Output(self, **told) -> Port:
        return Port(self.name, **told)


Boolean, Combo, Float, Int = (_Kind(name) for name in ("BOOLEAN", "COMBO", "FLOAT", "INT"))
Latent, Model, Sampler, Sigmas = (_Kind(name) for name in ("LATENT", "MODEL", "SAMPLER", "SIGMAS"))


@dataclass(kw_only=True)
class Schema:
    node_id: str
    display_name: str
    category: str
    description: str = ""
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)


class NodeOutput(tuple):
    def __new__(cls, *values):
        return super().__new__(cls, values)


class ComfyNode:
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        ports = cls.define_schema().inputs
        return {
            "required": {port.id: port.classic for port in ports if not port.optional},
            "optional": {port.id: port.classic for port in ports if port.optional},
        }


def classic_mappings(nodes: list[type]) -> tuple[dict, dict]:
    """NODE_CLASS_MAPPINGS and NODE_DISPLAY_NAME_MAPPINGS; sets each class's classic attributes from its schema."""
    classes, names = {}, {}
    for node in nodes:
        schema = node.define_schema()
        node.CATEGORY, node.DESCRIPTION = schema.category, schema.description
        node.RETURN_TYPES = tuple(port.kind for port in schema.outputs)
        node.RETURN_NAMES = tuple(port.name for port in schema.outputs)
        if hasattr(node, "fingerprint_inputs"):
            node.IS_CHANGED = node.fingerprint_inputs
        classes[schema.node_id], names[schema.node_id] = node, schema.display_name
    return classes, names
