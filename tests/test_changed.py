"""Which tests a change runs."""

import subprocess

import pytest

from tests.changed import changed_files, touched_tests
from tests.helpers import ROOT


def test_a_changed_module_runs_its_own_tests_then_those_of_its_importers():
    touched = touched_tests(ROOT, ["ztsnr/core/weighting.py"])
    assert touched["test_weighting.py"] == 0
    assert touched["test_summary.py"] in (1, 2)
    assert "test_listing.py" not in touched


def test_a_module_without_tests_of_its_own_runs_those_of_its_importer():
    assert touched_tests(ROOT, ["ztsnr/training/step.py"])["test_trainer.py"] == 1


@pytest.mark.parametrize(
    ("changed", "name", "distance"),
    [
        ("tests/test_noise.py", "test_noise.py", 0),
        ("tests/tiny.py", "test_sdxl.py", 1),
        ("scripts/kill_runs.py", "test_interruptions.py", 1),
        ("ztsnr/preview.py", "test_preview.py", 0),
        ("ztsnr/sample.py", "test_commands.py", 1),
        ("conf/weighting/min_snr.yaml", "test_registry.py", 0),
        ("conf/weighting/min_snr.yaml", "test_weighting.py", 0),
        ("experiments/schedules.yaml", "test_registry.py", 0),
        ("nodes/sigmas.py", "test_nodes.py", 0),
        ("README.md", "test_readme.py", 0),
        ("ztsnr/core/schedule/__init__.py", "test_schedule.py", 0),
    ],
)
def test_distance_of_a_test_file_from_a_change(changed, name, distance):
    assert touched_tests(ROOT, [changed])[name] == distance


def test_an_unused_file_runs_nothing():
    assert touched_tests(ROOT, ["LICENSE"]) == {}


def test_changes_are_counted_from_where_the_branch_left_main(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=x", "-c", "user.email=x@x"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "--initial-branch=main")
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("")
    git("add", ".")
    git("commit", "--message=first")
    assert changed_files(tmp_path) == set()
    (tmp_path / "c.py").write_text("")
    assert changed_files(tmp_path) == {"c.py"}
    git("checkout", "-b", "branch")
    git("add", "c.py")
    git("commit", "--message=second")
    (tmp_path / "a.py").write_text("x = 1\n")
    assert changed_files(tmp_path) == {"a.py", "c.py"}
