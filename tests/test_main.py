"""python -m ztsnr: the list of commands, and each by its name."""

import subprocess
import sys

from tests.helpers import ROOT
from ztsnr.__main__ import COMMANDS, list_commands


def run_package(*words, cwd, code=0):
    command = [sys.executable, "-m", "ztsnr", *words]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200)
    assert result.returncode == code, result.stderr
    return result


def test_the_list_has_every_command_with_a_description():
    modules = {path.stem for path in (ROOT / "ztsnr").glob("*.py")} - {"__init__", "__main__"}
    assert set(COMMANDS) == modules
    lines = [line for line in list_commands().splitlines() if line.startswith("  ")]
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    assert all(len(line.split()) > 4 for line in lines)


def test_a_command_runs_by_its_name(tmp_path):
    assert "python -m ztsnr.doctor" in run_package("doctor", "--help", cwd=tmp_path).stdout
    assert "file must be given" in run_package("doctor", cwd=tmp_path, code=2).stderr


def test_no_command_lists_them_and_an_unknown_one_is_refused(tmp_path):
    assert run_package(cwd=tmp_path).stdout == list_commands() + "\n"
    assert "no command 'trian'" in run_package("trian", cwd=tmp_path, code=2).stderr
