"""What the annotation of a config's field allows, and how messages say it: "a number above 0", "a list of integers"."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin


@dataclass(frozen=True)
class Bounds:
    """The numbers that are allowed. Infinite ones need `infinite`; nan never is."""

    above: float = -math.inf
    at_least: float = -math.inf
    below: float = math.inf
    at_most: float = math.inf
    infinite: bool = False


@dataclass(frozen=True)
class NonEmpty:
    """Of a list: at least one entry."""


def split_notes(annotation: Any) -> tuple[Any, tuple]:
    """An annotation's type, and its notes such as Bounds."""
    if get_origin(annotation) is Annotated:
        annotation, *notes = get_args(annotation)
        return annotation, tuple(notes)
    return annotation, ()


def bounds_in(notes: tuple) -> Bounds:
    return next((note for note in notes if isinstance(note, Bounds)), Bounds())


def describe(annotation: Any) -> str:
    """What a value must be: "a number above 0"."""
    annotation, notes = split_notes(annotation)
    origin = get_origin(annotation) or annotation
    arguments = get_args(annotation)
    if annotation is bool:
        return "true or false"
    if annotation is int:
        return describe_integer(bounds_in(notes))
    if annotation is float:
        return describe_number(bounds_in(notes))
    if annotation is str:
        return "a text"
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (list, tuple, Sequence):
        return _describe_list(origin, arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping, such as {key: value}"
    name = getattr(origin, "__name__", str(origin))
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _describe_list(origin: Any, arguments: tuple) -> str:
    entry = split_notes(arguments[0])[0] if arguments else Any
    if entry is float:
        plural = "numbers"
        example = "[1, 2]"
    elif entry is int:
        plural = "integers"
        example = "[1, 2]"
    else:
        plural = "values"
        example = "[a, b]"
    if origin is tuple and arguments[-1] is not ...:
        return f"a list of {len(arguments)} {plural}"
    return f"a list of {plural}, such as {example}"


def describe_number(bounds: Bounds) -> str:
    words = []
    if math.isfinite(bounds.above):
        words.append(f"above {bounds.above}")
    elif math.isfinite(bounds.at_least):
        words.append(f"of at least {bounds.at_least}")
    if math.isfinite(bounds.below):
        words.append(f"below {bounds.below}")
    elif math.isfinite(bounds.at_most):
        words.append(f"of at most {bounds.at_most}")
    return " ".join(["a number", " and ".join(words)]).strip()


def describe_integer(bounds: Bounds) -> str:
    if math.isfinite(bounds.at_least) and math.isfinite(bounds.at_most):
        return f"an integer from {bounds.at_least} to {bounds.at_most}"
    if math.isfinite(bounds.at_least):
        return f"an integer of {bounds.at_least} or more"
    return "an integer"
