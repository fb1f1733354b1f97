"""The version of the code that made a run."""

import subprocess
from pathlib import Path

import ztsnr


def code_version() -> dict[str, str]:
    """Tags of the version, and in a checkout of its commit and whether it had uncommitted changes."""
    package = Path(ztsnr.__file__).parent
    tags = {"mlflow.source.name": "ztsnr.train", "mlflow.source.type": "LOCAL", "ztsnr.version": ztsnr.__version__}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if git("ls-files", "--", "__init__.py"):  # false in a virtual environment inside some other checkout
            tags["mlflow.source.git.commit"] = git("rev-parse", "HEAD")
            tags["git dirty"] = str(bool(git("status", "--porcelain"))).lower()
    except (OSError, subprocess.SubprocessError):
        return tags  # there is no git, or the package is installed
    return tags
