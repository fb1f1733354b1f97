"""Which test files a change touches, read from the imports of the tree: what scripts/test --changed runs."""

import ast
import re
import subprocess
from collections import deque
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

MAX_DISTANCE = 2
"""Test files further away from a change than this many imports are left out."""
OF_DATA = {"conf": "test_registry.py", "experiments": "test_registry.py", "nodes": "test_nodes.py"}
"""For files that no test imports: the tests that read them."""


def changed_files(root: Path) -> set[str]:
    """Paths below root that differ from where the branch left main, or on main from HEAD; untracked ones too."""
    base = _git(root, "merge-base", "HEAD", "main") or ["HEAD"]
    changed = _git(root, "diff", "--name-only", base[0])
    untracked = _git(root, "ls-files", "--others", "--exclude-standard")
    return set(changed) | set(untracked)


def touched_tests(root: Path, changed: Iterable[str]) -> dict[str, int]:
    """The distance of each test file that the changes touch, by its name in tests/.

    0: it changed, or is named after a changed module or reads a changed file; 1: it imports or runs one;
    2: it imports a module that imports one.
    """
    imports = _import_graph(root)
    distances = _distances_of_importers(imports, _modules(root, changed))

    tests = {name: 0 for path in changed for name in _readers(path)}
    for path in imports:
        name = path.removeprefix("tests/")
        if re.fullmatch(r"test_\w+\.py", name):
            subjects = [module for module in imports if _test_named_after(module) == name]
            candidates = [distances.get(path), *(distances.get(subject) for subject in subjects)]
            candidates.append(tests.get(name))
            tests[name] = min((distance for distance in candidates if distance is not None), default=MAX_DISTANCE + 1)
    return {name: distance for name, distance in tests.items() if distance <= MAX_DISTANCE}


def _git(root: Path, *arguments: str) -> list[str]:
    result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    return result.stdout.splitlines()


@cache
def _import_graph(root: Path) -> dict[str, set[str]]:
    return {path: set(_imports(root, path)) for path in _sources(root)}


def _sources(root: Path) -> Iterator[str]:
    for folder in ("ztsnr", "tests", "scripts"):
        for path in sorted((root / folder).rglob("*.py")):
            yield path.relative_to(root).as_posix()


def _test_named_after(module: str) -> str:
    return f"test_{Path(module.removesuffix('/__init__.py')).stem}.py"


def _readers(path: str) -> Iterator[str]:
    """The tests that read a file which is not a module."""
    if path.endswith("README.md"):
        yield "test_readme.py"
    if path.startswith("ztsnr/"):
        yield "test_layers.py"
    reader = OF_DATA.get(path.split("/")[0])
    if reader is not None:
        yield reader


def _modules(root: Path, changed: Iterable[str]) -> Iterator[str]:
    """The changed modules, and the module of the class that a changed option names."""
    for path in changed:
        yield path
        if path.endswith(".yaml") and (root / path).exists():
            for target in re.findall(r"^_target_: (\S+)\.\w+$", (root / path).read_text(encoding="utf-8"), re.M):
                yield from _file_of(root, target)


def _distances_of_importers(imports: dict[str, set[str]], changed: Iterable[str]) -> dict[str, int]:
    distances = dict.fromkeys(changed, 0)
    queue = deque(distances)
    while queue:
        imported = queue.popleft()
        for path, names in imports.items():
            if imported in names and path not in distances:
                distances[path] = distances[imported] + 1
                queue.append(path)
    return distances


def _imports(root: Path, path: str) -> Iterator[str]:
    """Files that a file imports anywhere in it, and the commands and scripts that a test runs."""
    for node in ast.walk(ast.parse((root / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _file_of(root, alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield from _file_of(root, f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("run", "load_script"):
            for argument in node.args:
                if isinstance(argument, ast.Constant):
                    yield f"ztsnr/{argument.value}.py"
                    yield f"scripts/{argument.value}.py"


def _file_of(root: Path, name: str) -> Iterator[str]:
    """The file of a module, or of what a module defines: ztsnr.core.noise.alpha is in ztsnr/core/noise.py."""
    parts = name.split(".")
    if parts[0] not in ("ztsnr", "tests"):
        return
    while parts:
        module = "/".join(parts)
        for path in (f"{module}.py", f"{module}/__init__.py"):
            if (root / path).exists():
                yield path
                return
        parts.pop()
