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
    folder = Path(tempfile.mkdtemp(prefix="tiny_sdxl_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    load_script("make_tiny_sdxl").make_pipeline().save_pretrained(folder)
    return str(folder)
