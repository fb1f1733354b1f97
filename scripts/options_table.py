"""Generates the table of options in conf/README.md from the first comment of each file in conf/.

.venv/bin/python scripts/options_table.py           # prints it
.venv/bin/python scripts/options_table.py --write   # puts it into conf/README.md
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
START, END = "<!-- options: scripts/options_table.py --write -->", "<!-- end of options -->"
GROUPS = {
    "schedule": "presets of the four parts below",
    "schedule/density": "the levels that training draws",
    "schedule/grid": "the levels that sampling visits",
    "schedule/table": "the levels of a discrete-time model",
    "schedule/timesteps": "what the network receives for a level",
    "loss": "named pairs of target and weighting, as in papers",
    "target": "what the network predicts; takes precedence over `loss`",
    "weighting": "of the loss, the same whatever is predicted; takes precedence over `loss`",
    "distance": "between output and ideal output",
    "optimizer": "",
    "lr_schedule": "of the learning rate",
    "model": "",
    "model/train": "which part of a pretrained U-Net is trained",
    "model/train_text": "which part of its text encoders is trained",
    "data": "",
    "data/sizes": "of the buckets of images",
    "sampler": "",
    "trainer": "",
    "validation": "",
    "samples": "images drawn while training",
    "quality": "of drawn images, measured at the end",
    "quality/features": "what images are compared by",
    "tracking": "",
    "experiments": "studies, chosen by `+experiments=NAME`: they bring their own axes",
}


def options_table(conf: Path) -> str:
    groups = {str(file.parent.relative_to(conf)) for file in conf.rglob("*/*.yaml")}
    if groups != set(GROUPS):
        raise SystemExit(f"GROUPS in {Path(__file__).name} and the folders of conf/ differ: {groups ^ set(GROUPS)}")
    sections = []
    for group, about in GROUPS.items():
        files = sorted((conf / group).glob("*.yaml"))
        names = ", ".join(f"<code>{file.stem}</code>" for file in files)
        plus = "+" if group == "experiments" else ""
        rows = "\n".join(f"| `{plus}{group}={file.stem}` | {first_comment(file)} |" for file in files)
        title = f"<b>{group}</b>{': ' + about if about else ''}<br>{names}"
        sections.append(f"<details><summary>{title}</summary>\n\n| | |\n|---|---|\n{rows}\n\n</details>\n")
    return "\n".join(sections)


def first_comment(file: Path) -> str:
    """The comment at the beginning of a file, as one line."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("# "):
            break
        lines.append(line.removeprefix("# "))
    if not lines:
        raise SystemExit(f"{file} has no comment that says what it is")
    if not lines[-1].endswith((".", ".)")):
        raise SystemExit(f"{file}: the comment at its beginning must end as a sentence does, got {lines[-1]!r}")
    return " ".join(lines).replace("|", "\\|")


def with_table(readme: str) -> str:
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    if not after:
        raise SystemExit(f"conf/README.md lacks {START} or {END}")
    return f"{before}{START}\n\n{options_table(ROOT / 'conf')}\n{END}{after}"


def main() -> None:
    readme = ROOT / "conf" / "README.md"
    if "--write" in sys.argv[1:]:
        readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(options_table(ROOT / "conf"))


if __name__ == "__main__":
    main()
