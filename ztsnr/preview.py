"""Shows what a combination trains before it is trained: python -m ztsnr.preview schedule=ztsnr loss=vpred,novelai_v3"""

import sys

from omegaconf import DictConfig

from ztsnr.config.combinations import combinations_of, first_combination
from ztsnr.config.command import command
from ztsnr.config.outputs import output_file
from ztsnr.config.registry import build
from ztsnr.core.errors import IncompatibleObjective


@command("preview", text_keys=("output",), expand=first_combination, multirun=False)
def main(composed: DictConfig) -> None:
    output = output_file(composed.output, (".png", ".svg", ".pdf"))

    from ztsnr.analysis.plots import objective_figure
    from ztsnr.analysis.summary import Summary
    from ztsnr.analysis.tables import print_many, print_one
    from ztsnr.io.console import make_console

    summaries = {}
    refused = {}
    for name, config in combinations_of(composed).items():
        try:
            summaries[name] = Summary(objective=build(config, "objective"), steps=build(config, "samples").steps)
        except IncompatibleObjective as error:
            if not composed.swept:
                raise
            refused[name] = str(error)

    console = make_console(sys.stdout)
    if len(summaries) == 1 and not refused:
        print_one(console, *next(iter(summaries.items())))
    else:
        print_many(console, summaries, refused)
    if summaries:
        objective_figure(summaries).savefig(output, dpi=110)
        console.print(f"figure {output}")


if __name__ == "__main__":
    main()
