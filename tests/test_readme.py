"""What the READMEs name exists: files, links, commands, options and keys."""

import re
import shlex

import pytest
import torch
import yaml

from tests.helpers import GROUPS, ROOT, load_script
from ztsnr.config.registry import compose, make, options
from ztsnr.core.target import X0

FOLDERS = ("conf", "experiments", "nodes", "scripts", "tests", "ztsnr")
READMES = [ROOT / "README.md", *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("README.md")))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in READMES}
README = TEXTS["README.md"]
PLACEHOLDERS = {"group", "key", "group.key"}


def shell_lines(text):
    """The commands of the bash blocks: continued lines joined, comments removed."""
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def assignments(text):
    """Each KEY=VALUE of the commands and of inline code."""
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    words = [word for line in shell_lines(text) for word in line]
    for code in inline:
        words += code.replace("'", "").split()
    for word in words:
        match = re.fullmatch(r"\+?([a-z][\w/@.]*)=(.+)", word)
        if match and match[1] not in PLACEHOLDERS:
            yield match[1], match[2].rstrip(",")


def known_keys():
    """Every key of every YAML file of conf/, such as trainer.steps, schedule.density.mean or checkpoint."""
    keys = set()

    def walk(node, prefix):
        for name, value in node.items():
            keys.add(f"{prefix}{name}")
            if isinstance(value, dict):
                walk(value, f"{prefix}{name}.")

    for path in (ROOT / "conf").rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        groups = path.parent.relative_to(ROOT / "conf").parts
        is_global = not groups or "@package _global_" in text
        walk(yaml.safe_load(text) or {}, "" if is_global else ".".join(groups) + ".")
    return keys


KEYS = known_keys()


def is_known(key, value):
    group = key.split("@")[0]
    if group.startswith(("hydra/", "hydra.")):
        return True
    if group in GROUPS:
        chosen = [name for name in value.split(",") if not name.isupper() and not name.startswith("my_")]
        return set(chosen) <= set(options(group))
    if key in KEYS:
        return True
    # of a part inside another one, such as schedule.density.density.mass
    first, *_, last = key.split(".")
    return key.count(".") > 2 and any(known.startswith(f"{first}.") and known.endswith(f".{last}") for known in KEYS)


COMMANDS = [
    pytest.param(words, id=f"{name}:{' '.join(words)}")
    for name, text in TEXTS.items()
    for words in shell_lines(text)
    if any(word.startswith("ztsnr.") for word in words) or "scripts/run" in words
    if not any(word.startswith(("$OPTIONS", "resume=")) for word in words)  # which add to options of elsewhere
]


def test_the_table_of_options_is_what_conf_holds():
    table = TEXTS["conf/README.md"]
    assert load_script("options_table").with_table(table) == table, "run scripts/options_table.py --write"


def test_an_option_without_a_comment_is_rejected(tmp_path):
    silent = tmp_path / "silent.yaml"
    silent.write_text("_target_: x\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="has no comment"):
        load_script("options_table").first_comment(silent)


def test_an_options_description_is_its_whole_first_comment_and_ends_as_a_sentence(tmp_path):
    option = tmp_path / "option.yaml"
    option.write_text("# @package _global_\n# What it is,\n# and why.\n_target_: x # y\n", encoding="utf-8")
    assert load_script("options_table").first_comment(option) == "What it is, and why."
    option.write_text("# What it is,\n# and\n_target_: x\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="must end as a sentence"):
        load_script("options_table").first_comment(option)


def test_the_first_command_comes_early():
    assert any("scripts/run schedule=ztsnr loss=vpred" in line for line in README.splitlines()[:30])


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_to_files_and_headings(name):
    folder = (ROOT / name).parent
    for link in re.findall(r"\]\((?!http)([^)]+)\)", TEXTS[name]):
        path, _, heading = link.partition("#")
        target = folder / path if path else ROOT / name
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in anchors, link


@pytest.mark.parametrize("name", TEXTS)
def test_files_that_a_readme_names_exist(name):
    paths = re.findall(rf"(?<![\w/.$-])(?:{'|'.join(FOLDERS)})/[\w./-]*", TEXTS[name])
    missing = [path for path in paths if not (ROOT / path.rstrip(".")).exists()]
    assert [path for path in missing if path != "nodes/ztsnr"] == []


@pytest.mark.parametrize("name", TEXTS)
def test_modules_that_a_readme_names_exist(name):
    modules = {f"/{path.relative_to(ROOT).as_posix()}" for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    named = re.findall(r"(?<![\w/.])([a-z][\w/]*\.py)\b", re.sub(r"```python.*?```", "", TEXTS[name], flags=re.DOTALL))
    assert [file for file in named if not any(module.endswith(f"/{file}") for module in modules)] == []


@pytest.mark.parametrize("name", TEXTS)
def test_commands_that_a_readme_names_exist(name):
    lines = "\n".join(" ".join(line) for line in shell_lines(TEXTS[name]))
    commands = re.findall(r"\bztsnr\.(\w+)(?![\w.(])", lines) + re.findall(r"python -m ztsnr\.(\w+)", TEXTS[name])
    assert [command for command in commands if not (ROOT / "ztsnr" / f"{command}.py").exists()] == []


@pytest.mark.parametrize("name", TEXTS)
def test_options_and_keys_that_a_readme_names_exist(name):
    assert [f"{key}={value}" for key, value in assignments(TEXTS[name]) if not is_known(key, value)] == []


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_of_a_readme_composes(words):
    command = next((word.removeprefix("ztsnr.") for word in words if word.startswith("ztsnr.")), "train")
    overrides = [word for word in words if re.match(r"\+?[a-z][\w/@.]*=", word) and not word.startswith("hydra")]
    overrides = [word for word in overrides if not re.search(r"=(?:tag|range|choice|interval)\(|^filter=", word)]
    sweep_free = [re.sub(r"(=[\w.-]+),[\w.,-]+$", r"\1", word) for word in overrides]  # its first combination
    compose(*sweep_free, config=command)


def test_the_plug_in_of_the_readme_builds_and_weighs_as_it_says(tmp_path, monkeypatch):
    for name, content in re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", TEXTS["conf/README.md"], re.DOTALL):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    weighting = make("weighting", "my_soft_min_snr", config_dir=tmp_path / "my_conf")
    assert weighting(torch.ones(1), X0()).item() == pytest.approx(5 / 6)  # gamma / (1 + gamma) at SNR 1


@pytest.mark.slow
def test_the_python_example_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(example.replace("trainer.steps=300", "trainer.steps=2"), {})
    assert float(capsys.readouterr().out) > 0
    assert (tmp_path / "digits.png").exists()
