"""Checks that constructors make on what a config gave them. Each returns nothing or raises ConfigError."""

import math
from collections.abc import Collection
from numbers import Integral, Real

from ztsnr.core.errors import ConfigError


def number(name: str, value, *, above=-math.inf, at_least=-math.inf, below=math.inf, at_most=math.inf) -> None:
    """A real number within the given bounds; `above` and `below` are exclusive only where they are finite."""
    wanted = "a number" + _bounds(above, at_least, below, at_most)
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
        raise ConfigError(f"{name} must be {wanted}, got {value!r}")
    too_low = value < at_least or (value <= above and math.isfinite(above))
    too_high = value > at_most or (value >= below and math.isfinite(below))
    if too_low or too_high:
        raise ConfigError(f"{name} must be {wanted}, got {value!r}")


def finite(name: str, value, **bounds) -> None:
    number(name, value, **bounds)
    if math.isinf(value):
        raise ConfigError(f"{name} must be finite, got {value!r}")


def ascending(low_name: str, low, high_name: str, high) -> None:
    """Two finite positive numbers, the first below the second."""
    finite(low_name, low, above=0)
    finite(high_name, high, above=0)
    if low >= high:
        raise ConfigError(f"{low_name} must be below {high_name}={high}, got {low}")


def integer(name: str, value, *, at_least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < at_least:
        raise ConfigError(f"{name} must be an integer of {at_least} or more, got {value!r}")


def flag(name: str, value) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, got {value!r}")


def one_of(name: str, value, options: Collection) -> None:
    if value not in options:
        raise ConfigError(f"{name} must be one of {', '.join(map(str, options))}, got {value!r}")


def instance(name: str, value, kind: type) -> None:
    if not isinstance(value, kind):
        hint = f". To choose an option: {name.replace('.', '/')}={value}" if isinstance(value, str) else ""
        raise ConfigError(f"{name} must be a {kind.__name__}, got {value!r}{hint}")


def numbers(name: str, value, **bounds) -> None:
    """A list of at least one finite number, each within the bounds of `number`."""
    if not isinstance(value, list | tuple) or not value:
        raise ConfigError(f"{name} must be a list of numbers, such as [1, 2], got {value!r}")
    for entry in value:
        finite(name, entry, **bounds)


def _bounds(above, at_least, below, at_most) -> str:
    low = f" above {above}" if math.isfinite(above) else f" of at least {at_least}" if math.isfinite(at_least) else ""
    high = f" below {below}" if math.isfinite(below) else f" of at most {at_most}" if math.isfinite(at_most) else ""
    return low + (" and" if low and high else "") + high
