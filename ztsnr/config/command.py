"""The frame of all commands: Hydra's command line, exit codes, and a message for each error that a user can fix."""

import difflib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from hydra.version import setbase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from ztsnr.config.arguments import Grammar, parse, unchanged
from ztsnr.config.registry import HYDRA_VERSION, compose, conf_folder
from ztsnr.core.errors import Interrupted, ZtsnrError
from ztsnr.devices.processes import is_main

USER_ERROR = 2
SAVED = 75  # EX_TEMPFAIL: try again
INTERRUPTED = 130
BROKEN_PIPE = 141


def command(
    config: str,
    *,
    positional: str | None = None,
    text_keys: tuple[str, ...] = (),
    expand: Callable[[list[str]], list[str]] = unchanged,
    multirun: bool = True,
) -> Callable[[Callable[[DictConfig], object]], Callable[..., None]]:
    """Turns a function of a resolved config into a program, python -m ztsnr.NAME. For arguments see `Grammar`."""
    grammar = Grammar(config, positional, text_keys, expand, multirun)

    def decorate(task: Callable[[DictConfig], object]) -> Callable[..., None]:
        @functools.wraps(task)
        def job(composed: DictConfig) -> object:
            in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
            try:
                if not in_sweep:  # in a sweep, a broken interpolation fails only its run
                    OmegaConf.to_container(composed, resolve=True)
                return task(composed)
            except (ZtsnrError, OmegaConfBaseException) as error:
                if in_sweep:
                    raise
                sys.exit(print_error(error, config))

        @functools.wraps(task)
        def main(arguments: Sequence[str] | None = None) -> None:
            """arguments: words of a command line; None: those of this process."""
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # so that errors come here, and bugs with all their frames
            with _exit_codes(config):
                parsed = parse(sys.argv[1:] if arguments is None else arguments, grammar)
                if not is_main():  # of several processes, only the first writes a run's folder
                    log = f"hydra.job_logging.handlers.file.filename={os.devnull}"
                    parsed.overrides += ["hydra.output_subdir=null", "hydra.run.dir=.", log]
                setbase(HYDRA_VERSION)
                _run_hydra(parsed, get_args_parser(), job, str(conf_folder()), config)

        return main

    return decorate


@contextmanager
def _exit_codes(config: str) -> Iterator[None]:
    """Ends the process with the exit code and the message of an error."""
    try:
        yield
    except (ZtsnrError, HydraException, OmegaConfBaseException) as error:
        sys.exit(print_error(error, config))
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)
    except Interrupted as error:
        print(f"{error}.", file=sys.stderr)
        sys.exit(SAVED)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)


def print_error(error: Exception, config: str) -> int:
    """Prints what happened and what the user can do about it; returns the exit code."""
    from ztsnr.io.console import make_console

    make_console(sys.stderr, wrap=False).print("[bold red]error:[/] ", end="")
    print(explain(error, config), *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
    return USER_ERROR


def explain(error: Exception, config: str) -> str:
    """What happened, and what the user of the command `config` can do about it."""
    cause = error.__cause__
    text = str(error)
    if isinstance(error, ConfigCompositionException) and isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return f"There is no key {cause.full_key!r}.{_did_you_mean(str(cause.full_key), config)}"
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        near = difflib.get_close_matches(option, error.options, n=1)
        hint = f" Did you mean {group}={near[0]}?" if near else ""
        return f"Could not find '{group}/{option}'.{hint} The options of {group} are {', '.join(error.options)}."
    if isinstance(error, InterpolationKeyError):
        return f"{text}. Two of the chosen options do not go together: choose another for one of them."
    if isinstance(error, InterpolationResolutionError) and "recursi" in text.lower():
        return f"Two of the chosen options refer to each other, so that neither has a value. Choose another. ({text})"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} must be given: {error.full_key}=VALUE"
    return text.strip() if isinstance(error, ZtsnrError | HydraException | OmegaConfBaseException) else repr(error)


def _did_you_mean(key: str, config: str) -> str:
    """' Did you mean ...?' for a misspelt key, from the keys of the plain config."""
    keys: list[str] = []

    def walk(node: dict, prefix: str) -> None:
        for name, value in node.items():
            keys.append(prefix + str(name))
            if isinstance(value, dict):
                walk(value, f"{prefix}{name}.")

    plain = OmegaConf.to_container(compose(config=config))
    assert isinstance(plain, dict)
    walk(plain, "")
    near = difflib.get_close_matches(key, keys, n=3)
    return f" Did you mean {' or '.join(near)}?" if near else " The keys are shown by --help."
