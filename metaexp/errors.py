"""The errors a user can cause or meet, one class per exit code of `python -m metaexp.train`.

They derive from Hydra's compact exception, so Hydra prints the one line and no traceback. None has an own
`__init__`: they must pickle to come back from a launcher's worker process.
"""

from hydra.errors import CompactHydraException


class MetaexpError(CompactHydraException):
    """Base class: `exit_code` is what the process returns."""

    exit_code = 1


class ConfigError(MetaexpError):
    """A key, a value or a pair of choices that cannot be; names the key and the fix."""

    exit_code = 2


class DataError(MetaexpError):
    """Data missing, damaged or unreadable; names the file or folder and how to get it."""

    exit_code = 3


class CheckpointError(MetaexpError):
    """No usable checkpoint, or one this version cannot read."""

    exit_code = 4


class NonFiniteError(MetaexpError):
    """The outer loss or the meta-gradient became inf or NaN; names the step and the last finite checkpoint."""

    exit_code = 5


class BusyError(MetaexpError):
    """The run folder is in use by another process, or taken."""

    exit_code = 6


class SpaceError(MetaexpError):
    """A file could not be written: no space, a size limit, a read-only folder."""

    exit_code = 7


class TimeLimitError(MetaexpError):
    """The run's own `time_limit` was reached; the checkpoint is written."""

    exit_code = 124


class Interrupted(KeyboardInterrupt):
    """Ctrl-C between two outer steps, after the checkpoint. Not an Exception: it must also end a sweep."""

    exit_code = 130


class Terminated(Interrupted):
    """SIGTERM, likewise."""

    exit_code = 143
