"""Says what a checkpoint is and what other programs take it for: python -m ztsnr.doctor FILE"""

import sys
from pathlib import Path

from omegaconf import DictConfig

from ztsnr.config.command import command


def main() -> None:
    sys.argv[1:] = [word if "=" in word or word.startswith("-") else f"file={word}" for word in sys.argv[1:]]
    doctor()


@command("doctor")
def doctor(composed: DictConfig) -> None:
    tell(examine(Path(str(composed.file))))


def examine(path: Path):
    from ztsnr.formats.diagnosis import examine_folder, examine_tensors

    return examine_folder(path) if path.is_dir() else examine_tensors(path)


def tell(diagnosis) -> None:
    from rich.console import Console
    from rich.table import Table

    console, table = Console(highlight=False, soft_wrap=True), Table(box=None, pad_edge=False, show_header=False)
    for name, fact in diagnosis.facts.items():
        table.add_row(f"[bold]{name}[/]", fact)
    console.print(table)
    for note in diagnosis.notes:
        console.print(f"[bold yellow]note:[/] {note}")


if __name__ == "__main__":
    main()
