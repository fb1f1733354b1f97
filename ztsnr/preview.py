"""Shows what a combination trains before it is trained: python -m ztsnr.preview schedule=ztsnr loss=vpred,novelai_v3"""

import sys
from itertools import product
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from ztsnr.config.command import command, quoted
from ztsnr.config.registry import build, compose
from ztsnr.core.errors import ConfigError, IncompatibleObjective

MOST = 24
"""Combinations that a table and a figure can still show."""


def main() -> None:
    sys.argv[1:] = one_of_many(sys.argv[1:])
    preview()


def one_of_many(arguments: list[str]) -> list[str]:
    """Turns `schedule=a,b` into `schedule=a` and names the other combinations by `others`, with -m or without."""
    flags = get_args_parser().parse_args(arguments)
    swept = {}
    for override in OverridesParser.create().parse_overrides(flags.overrides):
        if override.is_sweep_override():
            key = override.get_key_element()
            swept[override.input_line] = [f"{key}={value}" for value in override.sweep_string_iterator()]
    combinations = list(product(*swept.values()))
    if len(combinations) > MOST:
        raise SystemExit(f"error: these are {len(combinations)} combinations; at most {MOST} can be shown together.")
    first = dict(zip(swept, combinations[0], strict=True))
    kept = [first.get(word, word) for word in arguments if word not in ("-m", "--multirun")]
    others = ",".join("[" + ",".join(map(quoted, combination)) + "]" for combination in combinations[1:])
    return [*kept, f"swept=[{','.join(map(quoted, combinations[0]))}]", f"others=[{others}]"] if swept else kept


@command("preview")
def preview(composed: DictConfig) -> None:
    output = Path(str(composed.output))
    if not output.parent.is_dir() or output.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"output must be a .png, .svg or .pdf file in an existing folder, got {composed.output!r}")
    from ztsnr.analysis.plots import objective_figure
    from ztsnr.analysis.summary import Summary
    from ztsnr.analysis.tables import tell_many, tell_one
    from ztsnr.io.console import make_console

    summaries, refused = {}, {}
    for name, config in combinations_of(composed).items():
        try:
            summaries[name] = Summary(objective=build(config, "objective"), steps=build(config, "samples").steps)
        except IncompatibleObjective as error:
            if not composed.swept:
                raise
            refused[name] = str(error)
    console = make_console(sys.stdout)
    if len(summaries) == 1 and not refused:
        tell_one(console, *next(iter(summaries.items())))
    else:
        tell_many(console, summaries, refused)
    if summaries:
        objective_figure(summaries).savefig(output, dpi=110)
        console.print(f"figure {output}")


def combinations_of(composed: DictConfig) -> dict[str, DictConfig]:
    """Each combination's config by what is swept, or by its schedule and loss where nothing is."""
    choices, task = HydraConfig.get().runtime.choices, HydraConfig.get().overrides.task
    if not composed.swept:
        return {f"schedule={choices.schedule} loss={choices.loss}": composed}
    common = [word for word in task if word not in composed.swept and not word.startswith(("swept=", "others="))]
    combinations = [list(composed.swept), *map(list, composed.others)]
    return {" ".join(swept): compose(*common, *swept, config="preview") for swept in combinations}


if __name__ == "__main__":
    main()
