"""All combinations of swept values in one run of ztsnr.preview: schedule=a,b loss=c,d is four configs."""

from itertools import product

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from ztsnr.config.arguments import quoted
from ztsnr.config.job import chosen_options, task_overrides
from ztsnr.config.registry import compose
from ztsnr.core.errors import ConfigError

MAX_COMBINATIONS = 24
"""As many as a table and a figure can show."""


def first_combination(overrides: list[str]) -> list[str]:
    """Replaces `schedule=a,b` by `schedule=a`, and lists all combinations in `swept` (the first) and `others`."""
    swept = {}
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.is_sweep_override():
            key = override.get_key_element()
            swept[override.input_line] = [f"{key}={value}" for value in override.sweep_string_iterator()]
    if not swept:
        return overrides

    combinations = list(product(*swept.values()))
    if len(combinations) > MAX_COMBINATIONS:
        raise ConfigError(f"these are {len(combinations)} combinations; at most {MAX_COMBINATIONS} can be shown")
    first = dict(zip(swept, combinations[0], strict=True))
    others = ",".join(map(_as_list, combinations[1:]))
    replaced = [first.get(word, word) for word in overrides]
    return [*replaced, f"swept={_as_list(combinations[0])}", f"others=[{others}]"]


def _as_list(words: tuple[str, ...]) -> str:
    return f"[{','.join(map(quoted, words))}]"


def combinations_of(composed: DictConfig) -> dict[str, DictConfig]:
    """Each combination's config by its swept words; without a sweep, the one config by its schedule and loss."""
    if not composed.swept:
        chosen = chosen_options(("schedule", "loss"))
        return {f"schedule={chosen['schedule']} loss={chosen['loss']}": composed}

    common = []
    for word in task_overrides():
        if word not in composed.swept and not word.startswith(("swept=", "others=")):
            common.append(word)
    combinations = [list(composed.swept), *map(list, composed.others)]
    return {" ".join(swept): compose(*common, *swept, config="preview") for swept in combinations}
