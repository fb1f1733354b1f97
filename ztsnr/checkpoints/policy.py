"""When a run saves its state, and which saved states it keeps."""

import re
from dataclasses import dataclass
from typing import Literal

from ztsnr.core import checks
from ztsnr.core.checks import Count, Part, key
from ztsnr.core.errors import ConfigError

SECONDS = {"s": 1, "min": 60, "h": 3600}
INTERVAL = re.compile(r"(\d+)(s|min|h)")


@dataclass(frozen=True, kw_only=True)
class SavePolicy(Part):
    """every: a number of steps, or a time such as 10min; null saves only when a signal stops the run.
    keep: the number of newest states to keep.
    keep_every: also keeps the states at multiples of this number of steps; null: none.
    keep_best: also saves a state whenever the validation score improves, and keeps the best one.
    on_save_error: stop the run, or continue without that state.
    """

    every: int | str | None
    keep: Count
    keep_best: bool
    keep_every: Count | None
    on_save_error: Literal["stop", "continue"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.every, str):
            if not INTERVAL.fullmatch(self.every):
                raise ConfigError(
                    f"{key('every')} must be a number of steps or a time such as 90s, 10min or 2h, got {self.every!r}"
                )
        elif self.every is not None:
            checks.integer("every", self.every, at_least=1)

    def due(self, step: int, seconds: float) -> bool:
        """Whether to save after `step` steps, `seconds` after the last save."""
        if self.every is None:
            return False
        if isinstance(self.every, int):
            return step % self.every == 0
        number, unit = INTERVAL.findall(self.every)[0]
        return seconds >= int(number) * SECONDS[unit]

    def steps_to_keep(self, steps: list[int], best: int | None) -> set[int]:
        """steps: the saved ones, ascending. best: the step of the best validation."""
        kept_steps = set(steps[-self.keep :])
        if best is not None:
            kept_steps.add(best)
        if self.keep_every is not None:
            kept_steps |= {step for step in steps if step % self.keep_every == 0}
        return kept_steps
