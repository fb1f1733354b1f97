"""The tiny SDXL of scripts/make_tiny_sdxl.py, made once for all tests of a process."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from tests.test_readme import load_script


@cache
def tiny_sdxl() -> str:
    """Its folder."""
    folder = _folder()
    load_script("make_tiny_sdxl").make_pipeline().save_pretrained(folder)
    return str(folder)


@cache
def tiny_sdxl_file() -> str:
    """The same weights as a single file."""
    script, file = load_script("make_tiny_sdxl"), _folder() / "tiny.safetensors"
    script.save_single_file(script.make_pipeline(), file)
    return str(file)


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tiny_sdxl_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
