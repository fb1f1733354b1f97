import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ztsnr

ROOT = Path(ztsnr.__file__).parent
CORE = ["noise", "target", "weighting", "distance", "learned", "objective", "sampling", "check", "errors", "schedule"]
HEAVY = ["hydra", "omegaconf", "mlflow", "diffusers", "accelerate", "transformers", "sklearn"]


def imported_by(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("module", CORE)
def test_core_knows_the_standard_library_torch_and_itself(module):
    path = ROOT / module
    allowed = sys.stdlib_module_names | {"torch", "ztsnr"}
    for file in path.glob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
        names = [name.split(".") for name in imported_by(file)]
        assert {name[0] for name in names} <= allowed, file.name
        assert {name[1] for name in names if name[0] == "ztsnr" and len(name) > 1} <= set(CORE), file.name


@pytest.mark.parametrize("path", sorted((ROOT.parent / "nodes").glob("*.py")), ids=lambda path: path.name)
def test_nodes_know_the_core_torch_and_comfyui(path):
    names = [name.split(".") for name in imported_by(path) if name]
    comfyui = {"comfy", "comfy_api", "folder_paths"}
    beside = {other.stem for other in path.parent.glob("*.py")}
    assert {name[0] for name in names} <= sys.stdlib_module_names | {"torch", "ztsnr"} | comfyui | beside
    assert {name[1] for name in names if name[0] == "ztsnr" and len(name) > 1} <= set(CORE)


@pytest.mark.slow
def test_importing_the_core_loads_none_of_the_heavy_libraries():
    code = f"import sys, ztsnr.objective, ztsnr.sampling; print(*(set({HEAVY}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []
