"""What the commands share: Hydra's command line, and errors that a user can mend told in one message."""

import difflib
import functools
import os
import re
import sys
from collections.abc import Callable

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

from ztsnr.config.registry import HYDRA_VERSION, compose, conf_folder
from ztsnr.config.renamed import refuse_renamed
from ztsnr.core.errors import Interrupted, ZtsnrError

USER_ERROR, SAVED, INTERRUPTED, BROKEN_PIPE = 2, 75, 130, 141  # 75 is EX_TEMPFAIL: try again


def command(config: str) -> Callable[[Callable[[DictConfig], object]], Callable[[], None]]:
    """Makes a function of a resolved config a program: python -m ztsnr.NAME."""

    def decorate(task: Callable[[DictConfig], object]) -> Callable[[], None]:
        @functools.wraps(task)
        def job(composed: DictConfig):
            try:
                if HydraConfig.get().mode != RunMode.MULTIRUN:  # where it is for the run to fail, not for the sweep
                    OmegaConf.to_container(composed, resolve=True)  # refuses what refers to nothing
                return task(composed)
            except (ZtsnrError, OmegaConfBaseException) as error:
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    raise  # on a sweep's way to the end of it
                sys.exit(tell(error, config))

        program = hydra.main(version_base=HYDRA_VERSION, config_path=str(conf_folder()), config_name=config)(job)

        @functools.wraps(task)
        def main() -> None:
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # so that errors come here, and bugs with all their frames
            if int(os.environ.get("RANK", 0)) > 0:  # of several processes, the first alone writes a run's folder
                log = f"hydra.job_logging.handlers.file.filename={os.devnull}"
                sys.argv += ["hydra.output_subdir=null", "hydra.run.dir=.", log]
            try:
                refuse_renamed(get_args_parser().parse_args().overrides)
                program()
            except (ZtsnrError, HydraException, OmegaConfBaseException) as error:
                sys.exit(tell(error, config))
            except BrokenPipeError:  # | head
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(BROKEN_PIPE)
            except Interrupted as error:
                print(f"{error}.", file=sys.stderr)
                sys.exit(SAVED)
            except KeyboardInterrupt:
                print("Interrupted.", file=sys.stderr)
                sys.exit(INTERRUPTED)

        return main

    return decorate


def tell(error: Exception, config: str) -> int:
    """Prints what the user can do about it; returns the exit code."""
    from ztsnr.io.console import make_console

    make_console(sys.stderr, wrap=False).print("[bold red]error:[/] ", end="")
    print(explain(error, config), *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
    return USER_ERROR


def explain(error: Exception, config: str) -> str:
    """What happened, and what the user of the command `config` can do about it."""
    text = str(error).split("\nConfig search path")[0].strip()
    if unknown := re.search(r"Could not override '([^']+)'", text):
        return f"There is no key {unknown[1]!r}.{_nearest(unknown[1], config)}"
    if isinstance(error, InterpolationKeyError):
        return f"{text}. Two of the chosen options do not go together: choose another for one of them."
    if "recursion" in text.lower():
        return f"Two of the chosen options refer to each other, so that neither has a value. Choose another. ({text})"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} must be given: {error.full_key}=VALUE"
    return text if isinstance(error, ZtsnrError | HydraException | OmegaConfBaseException) else repr(error)


def quoted(text: str) -> str:
    """As a value of an override."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _nearest(key: str, config: str) -> str:
    """' Did you mean ...?' for a misspelt key, from the keys of the plain config."""
    keys: list[str] = []

    def walk(node, prefix: str) -> None:
        for name, value in node.items():
            keys.append(prefix + str(name))
            if isinstance(value, dict):
                walk(value, f"{prefix}{name}.")

    walk(OmegaConf.to_container(compose(config=config)), "")
    near = difflib.get_close_matches(key, keys, n=3)
    return f" Did you mean {' or '.join(near)}?" if near else " The keys are shown by --help."
