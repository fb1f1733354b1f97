"""Checks of what a config gives a constructor. Each returns nothing or raises ConfigError with the value's full key.

A part of a config is a frozen dataclass that derives from `Part`: its fields are checked against their annotations.

    @dataclass(frozen=True, kw_only=True)
    class MinSNR(Weighting):  # a Part
        base: Target
        gamma: Positive
"""

import dataclasses
import math
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from ztsnr.core.errors import ConfigError


@dataclass(frozen=True)
class Bounds:
    """What a number may be. Only with `infinite` may it be inf; nan never."""

    above: float = -math.inf
    at_least: float = -math.inf
    below: float = math.inf
    at_most: float = math.inf
    infinite: bool = False


@dataclass(frozen=True)
class NonEmpty:
    """Of a list: at least one entry."""


Positive = Annotated[float, Bounds(above=0)]
NonNegative = Annotated[float, Bounds(at_least=0)]
Fraction = Annotated[float, Bounds(at_least=0, at_most=1)]
Count = Annotated[int, Bounds(at_least=1)]
Index = Annotated[int, Bounds(at_least=0)]


# Keys ----------------------------------------------------------------------------------------------------------------

_prefix: ContextVar[str] = ContextVar("prefix", default="")
_references: ContextVar[Mapping[str, str]] = ContextVar("references", default=types.MappingProxyType({}))


@contextmanager
def constructing(prefix: str, references: Mapping[str, str] = types.MappingProxyType({})) -> Iterator[None]:
    """Inside, `key` gives full keys of the node `prefix`, some of whose fields refer to the key of another node."""
    tokens = _prefix.set(prefix), _references.set(references)
    try:
        yield
    finally:
        _prefix.reset(tokens[0])
        _references.reset(tokens[1])


def key(name: str) -> str:
    """A field's key on the command line while the registry builds its node; in Python code the field's own name."""
    if name in _references.get():
        return _references.get()[name]
    return f"{_prefix.get()}.{name}" if _prefix.get() else name


# Parts ---------------------------------------------------------------------------------------------------------------


class Part:
    """Base of the dataclasses that a config describes. A `__post_init__` of their own begins with this one's."""

    def __post_init__(self) -> None:
        if dataclasses.is_dataclass(self):
            for name, annotation in _annotations(type(self)).items():
                of_type(name, getattr(self, name), annotation)


@cache
def _annotations(part: type) -> dict[str, Any]:
    fields = [field for field in dataclasses.fields(part) if field.init]
    try:
        hints = get_type_hints(part, include_extras=True)
    except NameError:  # a plug-in names a type that it imports only for its type checker
        hints = {field.name: Any if isinstance(field.type, str) else field.type for field in fields}
    return {field.name: hints[field.name] for field in fields}


def of_type(name: str, value: object, annotation: Any) -> None:
    """Checks a value against a type: bool, int, float, str, Literal, Annotated with Bounds, X | None, X | Y, list[X],
    tuple[X, Y], a mapping, a callable or any class. Numbers are finite; lists and tuples stand for each other.
    """
    options = _union(annotation)
    if value is None and type(None) in options:
        return
    options = [option for option in options if option is not type(None)]
    if len(options) > 1:
        _one_of_types(name, value, options)
        return

    annotation, notes = _without_notes(options[0])
    bounds = next((note for note in notes if isinstance(note, Bounds)), Bounds())
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if annotation is Any or annotation is object:
        return
    if annotation is bool:
        flag(name, value)
    elif annotation is int:
        _integer(name, value, bounds)
    elif annotation is float:
        _number(name, value, bounds)
    elif origin is Literal:
        one_of(name, value, arguments)
    elif origin in (list, tuple, Sequence):
        _list(name, value, annotation, notes)
    elif origin is Callable:
        if not callable(value):
            raise ConfigError(f"{key(name)} must be callable, got {value!r}")
    elif isinstance(origin, type) and not getattr(origin, "_is_protocol", False):
        instance(name, value, Mapping if origin is dict else origin)


def _union(annotation: Any) -> list[Any]:
    return list(get_args(annotation)) if get_origin(annotation) in (Union, types.UnionType) else [annotation]


def _without_notes(annotation: Any) -> tuple[Any, tuple]:
    if get_origin(annotation) is Annotated:
        annotation, *notes = get_args(annotation)
        return annotation, tuple(notes)
    return annotation, ()


def _one_of_types(name: str, value: object, options: list[Any]) -> None:
    for option in options:
        try:
            return of_type(name, value, option)
        except ConfigError:
            continue
    raise ConfigError(f"{key(name)} must be {' or '.join(map(_describe, options))}, got {value!r}")


def _list(name: str, value: object, annotation: Any, notes: tuple) -> None:
    """An entry is reported under the list's key, with its value."""
    entries = list(get_args(annotation))
    ends_in_dots = entries[-1:] == [...]
    if not isinstance(value, list | tuple) or (not value and any(isinstance(note, NonEmpty) for note in notes)):
        raise ConfigError(f"{key(name)} must be {_describe(annotation)}, got {value!r}")
    if get_origin(annotation) is tuple and not ends_in_dots:
        if len(value) != len(entries):
            raise ConfigError(f"{key(name)} must be {_describe(annotation)}, got {value!r}")
    else:
        entries = entries[:1] * len(value)
    for entry, entry_annotation in zip(value, entries, strict=False):
        of_type(name, entry, entry_annotation)


def _describe(annotation: Any) -> str:
    annotation, notes = _without_notes(annotation)
    bounds = next((note for note in notes if isinstance(note, Bounds)), Bounds())
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if annotation is bool:
        return "true or false"
    if annotation is int:
        return _integer_words(bounds)
    if annotation is float:
        return _number_words(bounds)
    if annotation is str:
        return "a text"
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (list, tuple, Sequence):
        entry = _without_notes(arguments[0])[0] if arguments else Any
        plural, example = {float: ("numbers", "[1, 2]"), int: ("integers", "[1, 2]")}.get(entry, ("values", "[a, b]"))
        if origin is tuple and arguments[-1] is not ...:
            return f"a list of {len(arguments)} {plural}"
        return f"a list of {plural}, such as {example}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping, such as {key: value}"
    name = getattr(origin, "__name__", str(origin))
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


# Values --------------------------------------------------------------------------------------------------------------


def number(
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
) -> None:
    """A real number, which may be infinite within the bounds; `above` and `below` exclude only finite numbers."""
    _number(name, value, Bounds(above, at_least, below, at_most, infinite=True))


def finite(
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
) -> None:
    _number(name, value, Bounds(above, at_least, below, at_most))


def ascending(low_name: str, low: float, high_name: str, high: float) -> None:
    """Two finite positive numbers, the first below the second."""
    finite(low_name, low, above=0)
    finite(high_name, high, above=0)
    if low >= high:
        raise ConfigError(f"{key(low_name)} must be below {key(high_name)}={high}, got {low}")


def integer(name: str, value: object, *, at_least: int) -> None:
    _integer(name, value, Bounds(at_least=at_least))


def flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{key(name)} must be true or false, got {value!r}")


def one_of(name: str, value: object, options: Collection) -> None:
    if value not in options:
        raise ConfigError(f"{key(name)} must be one of {', '.join(map(str, options))}, got {value!r}")


def instance(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        is_name = isinstance(value, str) and not issubclass(kind, Mapping)
        hint = f". To choose an option: {key(name).replace('.', '/')}={value}" if is_name else ""
        raise ConfigError(f"{key(name)} must be {_describe(kind)}, got {value!r}{hint}")


def numbers(
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
) -> None:
    """A list of at least one finite number, each within the bounds."""
    entry = Annotated[float, Bounds(above, at_least, below, at_most)]
    of_type(name, value, Annotated[list[entry], NonEmpty()])


def _number(name: str, value: object, bounds: Bounds) -> None:
    message = f"{key(name)} must be {_number_words(bounds)}, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
        raise ConfigError(message)
    real = cast(float, value)  # Real has no comparisons for type checkers
    too_low = real < bounds.at_least or (real <= bounds.above and math.isfinite(bounds.above))
    too_high = real > bounds.at_most or (real >= bounds.below and math.isfinite(bounds.below))
    if too_low or too_high:
        raise ConfigError(message)
    if math.isinf(real) and not bounds.infinite:
        raise ConfigError(f"{key(name)} must be finite, got {value!r}")


def _integer(name: str, value: object, bounds: Bounds) -> None:
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_integer or not bounds.at_least <= cast(int, value) <= bounds.at_most:
        raise ConfigError(f"{key(name)} must be {_integer_words(bounds)}, got {value!r}")


def _number_words(bounds: Bounds) -> str:
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


def _integer_words(bounds: Bounds) -> str:
    low, high = bounds.at_least, bounds.at_most
    if math.isfinite(low) and math.isfinite(high):
        return f"an integer from {low} to {high}"
    if math.isfinite(low):
        return f"an integer of {low} or more"
    return "an integer"
