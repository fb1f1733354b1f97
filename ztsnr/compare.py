"""Ranks what runs tried, over their seeds: python -m ztsnr.compare [sweep=ID] ['baseline=sdxl eps']"""

import sys

from omegaconf import DictConfig

from ztsnr.config.command import command
from ztsnr.config.registry import build
from ztsnr.core import checks

TEXT_KEYS = ("sweep", "filter", "baseline", "output")


@command("compare", text_keys=TEXT_KEYS)
def main(composed: DictConfig) -> None:
    from ztsnr.comparison.compare import compare
    from ztsnr.comparison.measures import MEASURES
    from ztsnr.io.console import make_console

    checks.one_of("rank_by", composed.rank_by, MEASURES)
    checks.one_of("format", composed.format, ("table", "json", "csv"))
    for name in ("attach", "all"):
        checks.flag(name, composed[name])
    report, page = compare(
        build(composed, "tracking"),
        sweep=composed.sweep,
        where=composed.filter,
        baseline=composed.baseline,
        rank_by=composed.rank_by,
        output=composed.output,
        every_run=composed.all,
        attach=composed.attach,
    )
    if composed.format == "table":
        report.print_to(make_console(sys.stdout))
    else:
        print(report.as_json() if composed.format == "json" else report.as_csv(), end="")
    print(f"report {page}", file=sys.stderr)


if __name__ == "__main__":
    main()
