"""The layout, read from the folders: each is a layer, imports go one way, and a command is nobody's library."""

import ast
import configparser
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import ztsnr

PACKAGE = Path(ztsnr.__file__).parent
COMMANDS = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}
FOLDERS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"conf"}
MODULES = sorted(path for folder in FOLDERS for path in (PACKAGE / folder).rglob("*.py"))
HEAVY = ["hydra", "omegaconf", "mlflow", "diffusers", "accelerate", "transformers", "sklearn", "jaxtyping"]


def imported_by(path):
    """Every module that a file imports, at its top, in a function or under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package_imports(path):
    """The parts below ztsnr of what a file imports: ("core", "noise") for ztsnr.core.noise."""
    for name in imported_by(path):
        package, *parts = name.split(".")
        if package == "ztsnr" and parts:
            yield tuple(parts)


def module_name(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def assert_no_cycle(graph):
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' <- '.join(error.args[1])}")


def imports_of_folders():
    graph = {folder: set() for folder in FOLDERS}
    for path in MODULES:
        folder = path.relative_to(PACKAGE).parts[0]
        graph[folder] |= {parts[0] for parts in package_imports(path)} & FOLDERS - {folder}
    return graph


def test_folders_import_each_other_one_way():
    assert_no_cycle(imports_of_folders())


@pytest.mark.parametrize(
    ("readme", "pattern"), [("ztsnr/README.md", r"^\| `(\w+)/`"), ("README.md", r"`(\w+)`(?=,| →|\.$)")]
)
def test_a_readme_lists_each_folder_above_those_that_it_imports(readme, pattern):
    text = (PACKAGE.parent / readme).read_text(encoding="utf-8")
    if readme == "README.md":
        (text,) = re.findall(r"^Imports go one way: .*?\.$", text, re.DOTALL | re.MULTILINE)
    order = re.findall(pattern, text, re.MULTILINE)
    assert sorted(order) == sorted(FOLDERS)
    for folder, imported in imports_of_folders().items():
        assert imported <= set(order[order.index(folder) + 1 :]), folder


def test_modules_import_each_other_one_way():
    names = {module_name(path) for path in MODULES}
    graph = {name: set() for name in names}
    for path in MODULES:
        graph[module_name(path)] = {".".join(parts) for parts in package_imports(path)} & names - {module_name(path)}
    assert_no_cycle(graph)


@pytest.mark.parametrize("path", [*MODULES, *(PACKAGE / f"{name}.py" for name in sorted(COMMANDS))], ids=module_name)
def test_no_module_imports_a_command(path):
    assert {parts[0] for parts in package_imports(path)} & COMMANDS == set()


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_only_tracking_imports_mlflow(path):
    if path.parent.name != "tracking":
        assert "mlflow" not in {name.split(".")[0] for name in imported_by(path)}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_command_is_a_page(name):
    assert len((PACKAGE / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").rglob("*.py")), ids=module_name)
def test_core_imports_the_standard_library_torch_and_core(path):
    checker = {"jaxtyping"} if path.name == "shapes.py" else set()  # imported only where tests check shapes
    assert {name.split(".")[0] for name in imported_by(path)} <= sys.stdlib_module_names | {"torch", "ztsnr"} | checker
    assert {parts[0] for parts in package_imports(path)} <= {"core"}


@pytest.mark.parametrize("path", sorted((PACKAGE.parent / "nodes").glob("*.py")), ids=lambda path: path.name)
def test_nodes_import_core_torch_and_comfyui(path):
    names = {name.split(".")[0] for name in imported_by(path)}
    siblings = {other.stem for other in path.parent.glob("*.py")}
    comfyui = {"comfy", "comfy_api", "folder_paths"}
    assert names <= sys.stdlib_module_names | {"torch", "ztsnr"} | comfyui | siblings
    assert {parts[0] for parts in package_imports(path)} <= {"core"}


def test_the_wheel_has_every_package():
    settings = configparser.ConfigParser()
    settings.read(PACKAGE.parent / "setup.cfg")
    listed = settings["options"]["packages"].split()
    packages = [".".join(path.parent.relative_to(PACKAGE.parent).parts) for path in PACKAGE.rglob("__init__.py")]
    assert sorted(listed) == sorted([*packages, "ztsnr.conf"])


def names_in(path):
    """What a module defines or imports at its top level."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))
        elif hasattr(node, "name"):
            yield node.name


@pytest.mark.parametrize("path", sorted((PACKAGE.parent / "scripts").glob("*.py")), ids=lambda path: path.name)
def test_imports_of_a_script_exist(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ztsnr"):
            module = PACKAGE.parent / node.module.replace(".", "/")
            file = module.with_suffix(".py") if not module.is_dir() else module / "__init__.py"
            submodules = {entry.stem for entry in module.glob("*")} if module.is_dir() else set()
            assert {alias.name for alias in node.names} <= {*names_in(file), *submodules}


@pytest.mark.slow
def test_importing_core_loads_none_of_the_heavy_libraries():
    code = f"import sys, ztsnr.core.objective, ztsnr.core.sampling; print(*(set({HEAVY}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []
