"""Lists the commands, or runs one: python -m ztsnr [COMMAND ...], or ztsnr [COMMAND ...] if it is installed."""

import ast
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

COMMANDS = ("train", "preview", "sample", "compare", "ui", "cache", "export", "doctor", "ema", "sync")
USER_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """arguments: words of a command line; None: those of this process."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(list_commands())
    elif words[0] in COMMANDS:
        import_module(f"ztsnr.{words[0]}").main(words[1:])
    else:
        print(f"error: there is no command {words[0]!r}.\n\n{list_commands()}", file=sys.stderr)
        sys.exit(USER_ERROR)


def list_commands() -> str:
    """Each command with the first line of its module's docstring, which is read without importing it."""
    lines = ["ztsnr COMMAND [group=option ...] [key=value ...]", ""]
    for name in COMMANDS:
        source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
        docstring = ast.get_docstring(ast.parse(source)) or ""
        description, _, _ = docstring.splitlines()[0].partition(": python -m")
        lines.append(f"  {name:8} {description}.")
    return "\n".join([*lines, "", "ztsnr COMMAND --help shows a command's options and keys."])


if __name__ == "__main__":
    main()
