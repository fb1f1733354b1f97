"""The grammar of all commands' arguments: Hydra's flags and overrides, and texts such as file names without quotes.

A word is a flag (-m, --config-dir FOLDER), an override (key=value), or, where the command takes one, a bare value.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from ztsnr.config.registry import conf_folder
from ztsnr.config.renamed import refuse_renamed
from ztsnr.core.errors import ConfigError

NOT_TEXT = ("", "null", "???")
"""Values of a text's key that keep their meaning in Hydra's grammar."""


def unchanged(overrides: list[str]) -> list[str]:
    return overrides


@dataclass(frozen=True)
class Grammar:
    """How one command reads its arguments."""

    config: str
    """conf/NAME.yaml."""
    positional: str | None = None
    """The key whose value a bare word is, as FILE of ztsnr.doctor."""
    text_keys: tuple[str, ...] = ()
    """Keys whose values are texts, whatever characters they hold: a comma in them does not sweep."""
    expand: Callable[[list[str]], list[str]] = unchanged
    """Called last; it may add and replace overrides."""
    multirun: bool = True
    """False for a command that takes all values of a sweep in one run: -m then changes nothing."""


def parse(arguments: Sequence[str], grammar: Grammar) -> argparse.Namespace:
    """Translates a user's words to Hydra's arguments; flags may come anywhere. Raises ConfigError for an old key."""
    parsed = get_args_parser().parse_intermixed_args(list(arguments))
    if parsed.experimental_rerun is not None:
        raise ConfigError("--experimental-rerun is not supported. To continue a run, use resume=RUN_FOLDER")

    overrides = [as_override(word, grammar) for word in parsed.overrides]
    refuse_renamed(overrides)
    parsed.overrides = grammar.expand(overrides)
    if not grammar.multirun:
        parsed.multirun = False
    return parsed


def as_override(word: str, grammar: Grammar) -> str:
    """One word as Hydra reads it: a bare word gets its key, a text its quotes."""
    key, equals, value = word.partition("=")
    if grammar.positional is not None and not _is_override(word, grammar.config):
        return f"{grammar.positional}={quoted(word)}"
    if not equals or value in NOT_TEXT or _is_quoted(value):
        return word
    is_text = key.lstrip("+") in grammar.text_keys or (not _is_readable(word) and Path(value).exists())
    return f"{key}={quoted(value)}" if is_text else word


def quoted(text: str) -> str:
    """Any text as the value of an override: in double quotes, with what Hydra and OmegaConf would read escaped."""
    text = text.replace("${", "\\${")
    text = re.sub(r'(\\*)"', r'\1\1\\"', text)
    text = re.sub(r"(\\*)$", r"\1\1", text, count=1)
    return f'"{text}"'


def _is_override(word: str, config: str) -> bool:
    """False for an existing file whose name holds an =, unless the part before it is a key."""
    key, equals, _ = word.partition("=")
    if not equals:
        return False
    keys = OmegaConf.load(conf_folder() / f"{config}.yaml")
    return key.lstrip("+~").split(".")[0] in (*keys, "hydra") or not Path(word).exists()


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] and value[0] in "'\""


def _is_readable(word: str) -> bool:
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True
