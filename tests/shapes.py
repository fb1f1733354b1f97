"""Checks the shape annotations of ztsnr.core in every call: tests of the core run inside `checked_shapes`."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from inspect import isclass, isfunction
from types import ModuleType

from beartype import BeartypeConf, beartype
from jaxtyping import jaxtyped

import ztsnr.core
from ztsnr.core.shapes import PerSample, Samples

CORE_TESTS = (
    "test_density",
    "test_distance",
    "test_grid",
    "test_learned",
    "test_noise",
    "test_objective",
    "test_sampling",
    "test_schedule",
    "test_target",
    "test_weighting",
)

typecheck = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as for other type checkers


@contextmanager
def checked_shapes() -> Iterator[None]:
    """Inside, a call of the core with a tensor of a wrong shape raises BeartypeCallHintViolation."""
    for owner, name, _, checked in _replacements():
        setattr(owner, name, checked)
    try:
        yield
    finally:
        for owner, name, function, _ in _replacements():
            setattr(owner, name, function)


@cache
def _replacements() -> list[tuple[type | ModuleType, str, object, object]]:
    """(class or module, name, function, checked function) of whatever in the core has an annotated shape."""
    checked = {}
    replacements = []
    for owner in _owners():
        for name, function in list(vars(owner).items()):
            if isfunction(function) and _has_shapes(function):
                if function not in checked:
                    checked[function] = _check(function)
                replacements.append((owner, name, function, checked[function]))
    return replacements


def _check(function: Callable) -> Callable:
    typechecked = typecheck(function)

    @wraps(function)
    def checked(*args: object, **kwargs: object) -> object:
        with jaxtyped("context"):  # half the time of @jaxtyped(typechecker=typecheck)
            return typechecked(*args, **kwargs)

    return checked


def _owners() -> Iterator[type | ModuleType]:
    """The core's modules, and the classes that each defines."""
    for info in pkgutil.walk_packages(ztsnr.core.__path__, "ztsnr.core."):
        module = importlib.import_module(info.name)
        yield module
        for value in list(vars(module).values()):
            if isclass(value) and value.__module__ == module.__name__:
                yield value


def _has_shapes(function: object) -> bool:
    annotations = function.__annotations__.values()
    return any(shape is annotation for annotation in annotations for shape in (PerSample, Samples))
