import re

import pytest

from tests.helpers import ROOT, load_script

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_options_is_what_conf_holds():
    assert load_script("options_table").with_table(README) == README, "run scripts/options_table.py --write"


def test_an_option_without_a_word_on_it_is_refused(tmp_path):
    silent = tmp_path / "silent.yaml"
    silent.write_text("_target_: x\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="has no comment"):
        load_script("options_table").first_comment(silent)


def test_the_first_command_comes_early():
    assert any("scripts/run schedule=ztsnr loss=vpred" in line for line in README.splitlines()[:30])


def test_files_that_the_readme_names_exist():
    named = re.findall(r"\]\((?!http)([^)#]+)\)|!\[[^\]]*\]\(([^)]+)\)", README)
    paths = [first or second for first, second in named]
    assert paths
    assert all((ROOT / path).exists() for path in paths)
