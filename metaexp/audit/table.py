"""What an audit finds: one row per check, and the table that shows them within 80 columns."""

import math
import textwrap
from dataclasses import dataclass, field
from typing import NamedTuple

WIDTH = 80
HEAD = f"{'check':<47} {'number':>9} {'limit':>10}  result"


class Finding(NamedTuple):
    """What one check found."""

    number: float | None  # None: the check does not apply, or could not be made
    limit: str  # what the number must be, e.g. "= 0", "<= 1e-05", "> 0"
    ok: bool | None  # None: the check does not apply
    reason: str = ""


def at_most(number: float, limit: float, reason: str = "") -> Finding:
    """A number that must not exceed the limit; NaN does. The reason is shown only if it does."""
    ok = number <= limit
    return Finding(number, "= 0" if limit == 0 else f"<= {limit:.3g}", ok, "" if ok else reason)


def above(number: float, least: float, reason: str = "") -> Finding:
    """A number that must be above the limit (and finite). The reason is shown only if it is not."""
    ok = math.isfinite(number) and number > least
    return Finding(number, f"> {least:.3g}", ok, "" if ok else reason)


def not_applicable(reason: str) -> Finding:
    """A check that does not apply to this learner or this family."""
    return Finding(None, "", None, reason)


class Row(NamedTuple):
    """A check with its name and what it found."""

    check: str
    number: float | None
    limit: str
    ok: bool | None
    reason: str

    @property
    def result(self) -> str:
        """ok, FAIL or n/a."""
        return "n/a" if self.ok is None else "ok" if self.ok else "FAIL"

    def __str__(self) -> str:
        number = "-" if self.number is None else f"{self.number:.3g}"
        line = f"{self.check:<47} {number:>9} {self.limit or '-':>10}  {self.result}"
        about = textwrap.wrap(self.reason, WIDTH - 4, initial_indent="    ", subsequent_indent="    ")
        return "\n".join([line, *about])


@dataclass
class Audit:
    """The rows of an audit, in the order of the checks; `str` is the table."""

    rows: list[Row] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """The names of the checks that failed."""
        return [row.check for row in self.rows if row.ok is False]

    def __getitem__(self, check: str) -> Row:
        """The row of a check; raises KeyError."""
        for row in self.rows:
            if row.check == check:
                return row
        raise KeyError(check)

    @property
    def summary(self) -> str:
        """One line: how many checks there were, and which failed."""
        applied = sum(row.ok is not None for row in self.rows)
        left = len(self.rows) - applied
        apart = f", {left} did not apply" if left else ""
        found = f"{len(self.failed)} of {applied} checks failed" if self.failed else f"all {applied} checks passed"
        return found + apart

    def __str__(self) -> str:
        return "\n".join([HEAD, "-" * WIDTH, *map(str, self.rows), "-" * WIDTH, self.summary])
