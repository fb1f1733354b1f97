"""The README's table of options, made from conf/: each file's first comment says what the option is.

.venv/bin/python scripts/options_table.py           # prints it
.venv/bin/python scripts/options_table.py --write   # puts it into README.md
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
START, END = "<!-- options: scripts/options_table.py --write -->", "<!-- end of options -->"
GROUPS = {
    "schedule": "presets of the four parts below",
    "schedule/density": "which levels training draws",
    "schedule/grid": "where sampling stops",
    "schedule/table": "the levels of a discrete-time model",
    "schedule/timesteps": "what the network is told of a level",
    "loss": "named pairs of target and weighting, as papers have them",
    "target": "what the network predicts; wins over what `loss` chose",
    "weighting": "of the loss, the same whatever is predicted; wins over what `loss` chose",
    "distance": "between output and ideal output",
    "optimizer": "",
    "lr_schedule": "of the learning rate",
    "model": "",
    "model/train": "what of a pretrained U-Net is trained",
    "model/train_text": "what of its text encoders is trained",
    "data": "",
    "data/sizes": "of the buckets of pictures",
    "sampler": "",
    "trainer": "",
    "validation": "",
    "samples": "pictures drawn while training",
    "quality": "of drawn pictures, measured at the end",
    "quality/features": "what pictures are compared by",
    "tracking": "",
    "experiments": "studies, chosen by `+experiments=NAME`: they bring their own axes",
}


def options_table(conf: Path) -> str:
    found = {str(file.parent.relative_to(conf)) for file in conf.rglob("*/*.yaml")}
    if found != set(GROUPS):
        raise SystemExit(f"GROUPS in {Path(__file__).name} and the folders of conf/ differ: {found ^ set(GROUPS)}")
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
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") and not line.startswith("# @package"):
            return line.removeprefix("# ").replace("|", "\\|")
    raise SystemExit(f"{file} has no comment that says what it is")


def with_table(readme: str) -> str:
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    if not after:
        raise SystemExit(f"README.md lacks {START} or {END}")
    return f"{before}{START}\n\n{options_table(ROOT / 'conf')}\n{END}{after}"


def main() -> None:
    readme = ROOT / "README.md"
    if "--write" in sys.argv[1:]:
        readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(options_table(ROOT / "conf"))


if __name__ == "__main__":
    main()
