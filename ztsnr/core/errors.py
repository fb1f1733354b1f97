"""What can go wrong that a user can mend. The commands print these without a traceback."""


class ZtsnrError(Exception):
    """Base of all errors of this package; the message names the key, the value and the remedy."""


class ConfigError(ZtsnrError, ValueError):
    """A value that no run could use."""


class IncompatibleObjective(ConfigError):
    """Parts that are each sound and cannot be trained together, such as eps at sigma = inf."""


class CheckpointError(ZtsnrError):
    """A file that is no checkpoint of ours, or not a whole one."""


class Interrupted(KeyboardInterrupt):
    """A signal ended a run after its state was saved."""


class NonFinite(ZtsnrError, ArithmeticError):
    """Training left the finite numbers."""


class OutOfMemory(ZtsnrError, MemoryError):
    """The device's memory does not suffice."""


class TrackingError(ZtsnrError):
    """The record of runs cannot be reached or written."""


class BadImage(ZtsnrError):
    """An image that cannot be trained on; the message says why, without its name."""


class CacheError(ZtsnrError):
    """A cache of images or texts that cannot be read, written or used as it is asked to be."""
