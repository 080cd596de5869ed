"""How much memory this process may use."""

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def memory_limit(groups: str | None = None, root: Path = CGROUPS) -> int:
    """Bytes: the machine's memory, or less where a limit of the process or of its control groups says so.

    Args:
        groups: the content of /proc/self/cgroup; `root`: where control groups are mounted.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limits += [soft for kind in ("RLIMIT_AS", "RLIMIT_DATA") if (soft := _soft(kind)) is not None]
    if groups is None:
        with suppress(OSError):
            groups = Path("/proc/self/cgroup").read_text(encoding="utf-8")
    return min([*limits, *_of_groups(groups or "", root)])


def resident() -> int:
    """Bytes of memory that this process holds now; 0 where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


def _soft(kind: str) -> int | None:
    if not hasattr(resource, kind):
        return None
    soft = resource.getrlimit(getattr(resource, kind))[0]
    return None if soft == resource.RLIM_INFINITY or soft <= 0 else soft


def _of_groups(groups: str, root: Path) -> Iterator[int]:
    """The limits of a process's control groups and of those above; version 1 writes a huge number for none."""
    for line in groups.splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        base, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            with suppress(OSError, ValueError):  # not mounted, "max", or a path outside this container
                limit = int(base.joinpath(*parts[:depth], name).read_text(encoding="ascii"))
                if limit > 0:
                    yield limit
