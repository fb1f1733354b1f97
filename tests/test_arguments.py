"""One grammar for all commands: file names of any characters, and flags anywhere."""

import importlib

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from ztsnr.config import arguments
from ztsnr.config.arguments import Grammar, as_override, parse, quoted
from ztsnr.config.registry import compose
from ztsnr.core.errors import ConfigError

NAMES = [
    "plain.safetensors",
    "a b (v2).safetensors",
    "model[v2].safetensors",
    "{a}.safetensors",
    "steps=3,4.safetensors",
    "it's.safetensors",
    'a "b".safetensors',
    "größe-東京.safetensors",
    "back\\slash\\.safetensors",
    "${seed}.safetensors",
    "#1 50% & more!.safetensors",
    "null.safetensors",
    "2024",
]
POSITIONAL = [("doctor", "file"), ("sync", "run"), ("sample", "checkpoint"), ("export", "checkpoint"), ("ema", "run")]
TEXTS = [
    ("doctor", "file"),
    ("sample", "checkpoint"),
    ("sample", "output"),
    ("sample", "file"),
    ("export", "checkpoint"),
    ("export", "output"),
    ("ema", "run"),
    ("ema", "output"),
    ("sync", "run"),
    ("compare", "baseline"),
    ("compare", "output"),
    ("train", "resume"),
    ("preview", "output"),
]


def grammar_of(command, monkeypatch):
    """That with which the command of this name parses its arguments."""
    from ztsnr.config import command as commands

    grammars = []
    with monkeypatch.context() as patched:
        patched.setattr(commands, "parse", lambda words, grammar: grammars.append(grammar))
        patched.setattr(commands, "_run_hydra", lambda *_: None)
        patched.setattr(commands, "get_args_parser", lambda: None)
        importlib.import_module(f"ztsnr.{command}").main([])
    return grammars[0]


def value_of(override):
    """As the config holds it."""
    (parsed,) = OverridesParser.create().parse_overrides([override])
    return OmegaConf.create({"value": parsed.value()}).value


@pytest.mark.parametrize("name", NAMES)
def test_a_quoted_text_is_read_unchanged(name):
    assert value_of(f"key={quoted(name)}") == name


@pytest.mark.parametrize(("command", "key"), TEXTS, ids="-".join)
@pytest.mark.parametrize("name", NAMES)
def test_a_text_key_takes_any_name(command, key, name, monkeypatch):
    assert value_of(as_override(f"{key}={name}", grammar_of(command, monkeypatch))) == name


@pytest.mark.parametrize(("command", "key"), POSITIONAL, ids="-".join)
@pytest.mark.parametrize("name", NAMES)
def test_a_bare_word_is_the_positional_keys_value(command, key, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    override = as_override(name, grammar_of(command, monkeypatch))
    if command == "sample" and name.startswith("steps="):  # a key of this command: here the file needs checkpoint=
        assert override == name
        return
    assert override.startswith(f"{key}=")
    assert value_of(override) == name


@pytest.mark.parametrize("word", ['file="a b"', "file='a b'", "file=null", "file=", "hydra.verbose=true", "fiel=x"])
def test_overrides_and_texts_already_quoted_are_unchanged(word):
    assert as_override(word, Grammar("doctor", positional="file", text_keys=("file",))) == word


def test_a_value_that_hydra_cannot_read_is_a_text_where_it_names_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos (2)").mkdir()
    grammar = Grammar("train")
    assert value_of(as_override("data.root=photos (2)", grammar)) == "photos (2)"
    for word in ("data.root=photos (3)", "seed=0,1", "+data.root=[a,b]"):
        assert as_override(word, grammar) == word


@pytest.mark.parametrize("position", range(4))
def test_flags_may_come_anywhere(position):
    words = ["seed=0,1", "loss=eps", "trainer.steps=3"]
    parsed = parse([*words[:position], "-m", "--config-dir", "mine", *words[position:]], Grammar("train"))
    assert parsed.multirun
    assert parsed.config_dir == "mine"
    assert parsed.overrides == words


def test_a_command_without_multirun_ignores_the_flag():
    assert not parse(["-m", "seed=0,1"], Grammar("preview", multirun=False)).multirun


def test_expand_receives_quoted_texts():
    grammar = Grammar("train", text_keys=("resume",), expand=lambda words: ["seed=1", *words])
    assert parse(["resume=a b"], grammar).overrides == ["seed=1", 'resume="a b"']


def test_an_old_key_is_refused_before_anything_else():
    with pytest.raises(ConfigError, match=r"^trainer\.clip is now trainer\.max_grad_norm$"):
        parse(["trainer.clip=1"], Grammar("train"))


def test_a_texts_value_reaches_the_config():
    override = as_override("checkpoint=${a}, b=[1].safetensors", Grammar("sample", text_keys=("checkpoint",)))
    assert compose(override, config="sample").checkpoint == "${a}, b=[1].safetensors"
    assert arguments.unchanged([override]) == [override]
