"""Checks of values that a config passes to a constructor. Each raises ConfigError with the value's full key.

A part of a config is a frozen dataclass that derives from `Part`, which checks its fields against their annotations.

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
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypedDict, Union, Unpack, cast, get_args, get_origin, get_type_hints

from ztsnr.core.bounds import Bounds, NonEmpty, bounds_in, describe, describe_integer, describe_number, split_notes
from ztsnr.core.errors import ConfigError

Positive = Annotated[float, Bounds(above=0)]
NonNegative = Annotated[float, Bounds(at_least=0)]
Fraction = Annotated[float, Bounds(at_least=0, at_most=1)]
Count = Annotated[int, Bounds(at_least=1)]
NonNegativeInt = Annotated[int, Bounds(at_least=0)]


# Keys ----------------------------------------------------------------------------------------------------------------

_prefix: ContextVar[str] = ContextVar("prefix", default="")
_references: ContextVar[Mapping[str, str]] = ContextVar("references", default=types.MappingProxyType({}))


@contextmanager
def constructing(prefix: str, references: Mapping[str, str] = types.MappingProxyType({})) -> Iterator[None]:
    """Inside it, `key` returns full keys of the node `prefix`. `references`: fields that refer to a different node."""
    outer_prefix = _prefix.set(prefix)
    outer_references = _references.set(references)
    try:
        yield
    finally:
        _prefix.reset(outer_prefix)
        _references.reset(outer_references)


def key(name: str) -> str:
    """A field's full key while the registry builds its node; the field's own name when Python code constructs it."""
    if name in _references.get():
        return _references.get()[name]
    return f"{_prefix.get()}.{name}" if _prefix.get() else name


# Parts ---------------------------------------------------------------------------------------------------------------


class Part:
    """Base of the dataclasses that a config describes. A `__post_init__` of their own calls this one first."""

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
    tuple[X, Y], a mapping, a callable or any class. Numbers must be finite; a list may replace a tuple and vice versa.
    """
    is_union = get_origin(annotation) in (Union, types.UnionType)
    options = list(get_args(annotation)) if is_union else [annotation]
    if type(None) in options:
        if value is None:
            return
        options.remove(type(None))
    if len(options) > 1:
        _one_of_types(name, value, options)
        return

    annotation, notes = split_notes(options[0])
    origin = get_origin(annotation) or annotation
    if annotation is Any or annotation is object:
        return
    if annotation is bool:
        flag(name, value)
    elif annotation is int:
        _integer(name, value, bounds_in(notes))
    elif annotation is float:
        _number(name, value, bounds_in(notes))
    elif origin is Literal:
        one_of(name, value, get_args(annotation))
    elif origin in (list, tuple, Sequence):
        _list(name, value, annotation, notes)
    elif origin is Callable:
        if not callable(value):
            raise ConfigError(f"{key(name)} must be callable, got {value!r}")
    elif isinstance(origin, type) and not getattr(origin, "_is_protocol", False):
        instance(name, value, Mapping if origin is dict else origin)


def _one_of_types(name: str, value: object, options: list[Any]) -> None:
    for option in options:
        try:
            return of_type(name, value, option)
        except ConfigError:
            continue
    raise ConfigError(f"{key(name)} must be {' or '.join(map(describe, options))}, got {value!r}")


def _list(name: str, value: object, annotation: Any, notes: tuple) -> None:
    """A wrong entry is reported by the list's key and the entry's value."""
    must_have_entries = any(isinstance(note, NonEmpty) for note in notes)
    if not isinstance(value, list | tuple) or (must_have_entries and not value):
        raise ConfigError(f"{key(name)} must be {describe(annotation)}, got {value!r}")

    entry_types = list(get_args(annotation))
    has_fixed_length = get_origin(annotation) is tuple and entry_types[-1:] != [...]
    if not has_fixed_length:
        entry_types = entry_types[:1] * len(value)
    elif len(value) != len(entry_types):
        raise ConfigError(f"{key(name)} must be {describe(annotation)}, got {value!r}")
    for entry, entry_type in zip(value, entry_types, strict=False):  # a plain `list` has no type for its entries
        of_type(name, entry, entry_type)


# Values --------------------------------------------------------------------------------------------------------------


class Limits(TypedDict, total=False):
    """Bounds as keyword arguments."""

    above: float
    at_least: float
    below: float
    at_most: float


def number(name: str, value: object, **limits: Unpack[Limits]) -> None:
    """A real number, which may be infinite within the bounds; `above` and `below` exclude only finite numbers."""
    _number(name, value, Bounds(**limits, infinite=True))


def finite(name: str, value: object, **limits: Unpack[Limits]) -> None:
    _number(name, value, Bounds(**limits))


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
        raise ConfigError(f"{key(name)} must be {describe(kind)}, got {value!r}{hint}")


def numbers(name: str, value: object, **limits: Unpack[Limits]) -> None:
    """A list of at least one finite number, each within the bounds."""
    entry = Annotated[float, Bounds(**limits)]
    of_type(name, value, Annotated[list[entry], NonEmpty()])


def _number(name: str, value: object, bounds: Bounds) -> None:
    message = f"{key(name)} must be {describe_number(bounds)}, got {value!r}"
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
        raise ConfigError(f"{key(name)} must be {describe_integer(bounds)}, got {value!r}")
