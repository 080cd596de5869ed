"""The errors that a user can cause or encounter, one class per exit code of `python -m metaexp.train`.

They derive from Hydra's compact exception, so Hydra prints one line and no traceback. None defines `__init__`: they
must be picklable to be returned from a launcher's worker process.
"""

from hydra.errors import CompactHydraException


class MetaexpError(CompactHydraException):
    """Base class; `exit_code` is the exit code of the process."""

    exit_code = 1


class ConfigError(MetaexpError):
    """An invalid key, value or combination of choices; the message names the key and the fix."""

    exit_code = 2


class NothingLearnedError(ConfigError, ValueError):
    """The meta-gradient is exactly zero: nothing is connected to what is learned."""


class DataError(MetaexpError):
    """Missing, damaged or unreadable data; the message names the file or folder and how to get it."""

    exit_code = 3


class CheckpointError(MetaexpError):
    """No usable checkpoint, or one that this version cannot read."""

    exit_code = 4


class NonFiniteError(MetaexpError):
    """The outer loss or meta-gradient became inf or NaN; the message names the step and the last finite checkpoint."""

    exit_code = 5


class BusyError(MetaexpError):
    """The run folder is in use by another process, or already holds a run."""

    exit_code = 6


class SpaceError(MetaexpError):
    """A file could not be written: no space, a size limit, a read-only folder."""

    exit_code = 7


class HangError(MetaexpError):
    """No step ended within `watchdog` seconds; the last checkpoint is what is kept."""

    exit_code = 8


class PeerError(MetaexpError):
    """Another process of a distributed run has ended or has not answered in time; the last checkpoint is kept."""

    exit_code = 9


class TimeLimitError(MetaexpError):
    """The run's own `time_limit` was reached; the checkpoint is written."""

    exit_code = 124


class Interrupted(KeyboardInterrupt):
    """Ctrl-C between two outer steps, after writing the checkpoint. Not an Exception, so that it also ends a sweep."""

    exit_code = 130


class Terminated(Interrupted):
    """SIGTERM, SIGHUP or SIGUSR1, handled like Ctrl-C."""

    exit_code = 143
