"""Errors that a user can fix. The commands print these without a traceback."""


class ZtsnrError(Exception):
    """Base of all errors of this package; the message names the key, the value and the remedy."""


class ConfigError(ZtsnrError, ValueError):
    """A value that no run could use."""


class IncompatibleObjective(ConfigError):
    """Parts that are each valid and cannot be trained together, such as eps at sigma = inf."""


class CheckpointError(ZtsnrError):
    """A file that is not one of our checkpoints, or is incomplete."""


class Interrupted(KeyboardInterrupt):
    """A signal ended a run after its state was saved."""


class NonFinite(ZtsnrError, ArithmeticError):
    """A loss or gradient was inf or nan."""


class OutOfMemory(ZtsnrError, MemoryError):
    """The device ran out of memory."""


class TrackingError(ZtsnrError):
    """The tracking server or file cannot be reached or written."""


class BadImage(ZtsnrError):
    """An image that cannot be trained on; the message says why, without its name."""


class CacheError(ZtsnrError):
    """A cache of images or texts that cannot be read, written or used with these settings."""
