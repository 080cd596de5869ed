"""Which runs are compared: a section holds runs tested equally, a group holds runs that differ only in the seed."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from metaexp.checks import nearest, show
from metaexp.errors import ConfigError
from metaexp.report.reading import HERE, TESTED, UNKNOWN, Run, mark_of

CHOICES = ("algo", "task", "model", "optimizer", "experiment")
_OWN = ("normalise", "test_steps", "query_sha256")  # protocol entries that are columns, not part of the test itself


class Group(NamedTuple):
    """Runs that differ only in their seeds."""

    values: tuple[str, ...]  # of the grouping keys, as typed on the command line
    label: str  # short name for differences and pictures
    runs: list[Run]  # one per seed
    mixed: list[str]  # other keys in which the runs differ: they are not a sample of one algorithm


class Section(NamedTuple):
    """Groups tested in the same way, on the same query sets."""

    title: str
    task: str
    protocol: dict[str, Any]
    queries: str | None  # SHA-256 of the query sets; None: unknown, nothing is paired
    groups: list[Group]

    @property
    def runs(self) -> list[Run]:
        return [run for group in self.groups for run in group.runs]

    @property
    def metrics(self) -> list[str]:
        """The metrics, in the order in which the runs name them."""
        return list(dict.fromkeys(name for run in self.runs for name in run.result["test"]))


class Compared(NamedTuple):
    """All runs, sorted into sections and groups."""

    keys: list[str]
    sections: list[Section]
    notes: list[str]


def compare(runs: Sequence[Run], by: Sequence[str] = ()) -> Compared:
    """Sections and groups of the runs by the given config keys; without keys, by those in which the runs differ.

    Raises ConfigError for a key that no run has.
    """
    keys = _checked(by, runs) if by else differing(runs)
    if TESTED not in keys and any(mark_of(run.result) for run in runs):
        keys = [*keys, TESTED]
    notes: list[str] = []
    kept = _once(runs, notes)
    places: dict[str, list[Run]] = {}
    for run in kept:
        places.setdefault(_test_of(run), []).append(run)
    sections = [_section(members, keys, notes) for members in places.values()]
    titles = [section.title for section in sections]
    for place, section in enumerate(sections):
        if titles.count(section.title) > 1:  # equal settings but different numbers, e.g. another precision
            sections[place] = section._replace(title=f"{section.title}, query sets {str(section.queries)[:8]}")
    if len(sections) > 1:
        notes.append("runs that were tested differently are in tables of their own and are not compared")
    return Compared(keys, sorted(sections, key=lambda section: section.title), notes)


def differing(runs: Sequence[Run]) -> list[str]:
    """The keys in which runs differ: choices first, then settings that differ between runs of the same choices.

    Differences that follow from a choice do not count: another algorithm has other settings and another optimiser.
    """
    choices: list[str] = []
    alike: dict[tuple[str, ...], list[Run]] = {(): list(runs)}
    for key in CHOICES:
        if any(len({_text(run, key) for run in members}) > 1 for members in alike.values()):
            choices.append(key)
            alike = {}
            for run in runs:
                alike.setdefault(tuple(_text(run, choice) for choice in choices), []).append(run)
    settings = {TESTED: None} if any(mark_of(run.result) for run in runs) else {}
    settings |= {key: None for members in alike.values() for key in _differences(members)}
    return [*choices, *(key for key in settings if key not in CHOICES)] or ["algo"]


def _differences(runs: Sequence[Run]) -> list[str]:
    # A run that lacks a setting is older than the setting: no difference. A run with unknown settings may differ.
    texts: dict[str, set[str]] = {}
    for run in runs:
        for key in run.config:
            texts.setdefault(key, set()).add(_text(run, key))
    if UNKNOWN in texts and len(runs) > len(texts[UNKNOWN]):
        texts[UNKNOWN].add("-")
    return [key for key, found in texts.items() if key != "device" and len(found) > 1]


def _text(run: Run, key: str) -> str:
    return show(run.config[key]) if key in run.config else "-"


def _checked(by: Sequence[str], runs: Sequence[Run]) -> list[str]:
    known = dict.fromkeys(key for run in runs for key in run.config)
    for key in by:
        if key not in known:
            ends = [name for name in known if name.split(".")[-1] == key]
            hint = f"; did you mean {' or '.join(ends[:3])}?" if ends else nearest(key, known)
            raise ConfigError(f"--by {key}: no run has such a setting{hint}")
    return list(by)


def _once(runs: Sequence[Run], notes: list[str]) -> list[Run]:
    """One run per configuration, seed and test: repeated equal runs add no evidence."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        same = _written([run.config, run.seed, _test_of(run), _weights(run)])
        found.setdefault(same, []).append(run)
    kept = []
    for members in found.values():
        newest = max((run for run in members if not _unchanged(run)), key=lambda r: r.order, default=members[-1])
        twice = [run.folder for run in members if not _unchanged(run)]
        if len(twice) > 1:
            notes.append(f"{len(twice)} equal runs of seed {newest.seed}, the newest counts: {newest.folder}")
        kept.append(newest)
    return kept


def _unchanged(run: Run) -> bool:
    """Whether it is a second test of a run with unchanged settings (except where it was made): only the run counts."""
    again = run.result.get("evaluation")
    return (
        isinstance(again, dict) and not mark_of(run.result) and all(key in HERE for key in again.get("changed") or {})
    )


def _weights(run: Run) -> Any:
    return run.result["weights"].get("kind")


def protocol_of(run: Run) -> str:
    """How a run was tested, whatever the query sets: equal text for equal tests."""
    return _written({key: value for key, value in run.result["protocol"].items() if key not in _OWN})


def _test_of(run: Run) -> str:
    queries = run.result["protocol"].get("query_sha256")
    return _written([run.result.get("task"), protocol_of(run), queries])


def _written(value: Any) -> str:
    """Equal text for equal values, whatever a file from elsewhere holds."""
    try:
        return json.dumps(value, sort_keys=True, default=str)
    except TypeError:  # keys of several kinds
        return repr(value)


def _section(runs: list[Run], keys: list[str], notes: list[str]) -> Section:
    first = runs[0].result
    protocol = {key: value for key, value in first["protocol"].items() if key not in _OWN}
    parts = [f"{protocol[key]} {key}" for key in ("ways", "shots", "queries") if protocol.get(key) is not None]
    tasks = next((value.get("tasks") for value in first["test"].values()), None)
    parts += [f"{tasks:,} test tasks"] if tasks is not None else []
    others = {key: value for key, value in protocol.items() if key not in ("ways", "shots", "queries")}
    parts += [f"{key} {show(value)}" for key, value in others.items() if value not in (None, {}, [])]
    members: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        members.setdefault(tuple(_text(run, key) for key in keys), []).append(run)
    labels = _labels(keys, list(members))
    groups = []
    for values, label in zip(members, labels, strict=True):
        mixed = _differences(members[values])
        if mixed:
            notes.append(f"{label}: its runs also differ in {', '.join(mixed[:4])}; no interval over seeds")
        groups.append(Group(values, label, sorted(members[values], key=lambda run: str(run.seed)), mixed))
    title = f"{first.get('task')}: {', '.join(parts)}"
    return Section(title, str(first.get("task")), protocol, first["protocol"].get("query_sha256"), groups)


def _labels(keys: list[str], values: list[tuple[str, ...]]) -> list[str]:
    """The values of the keys in which these groups differ: `maml`, `maml shots=5`."""
    varied = [i for i in range(len(keys)) if len({value[i] for value in values}) > 1] or [0]
    words = []
    for value in values:
        cells = [value[i] if keys[i] in CHOICES else f"{keys[i].split('.')[-1]}={value[i]}" for i in varied]
        words.append(" ".join(cell for cell in cells if cell != "-" and not cell.endswith("=-")) or "-")
    return words


def scores_of(group: Group, metric: str) -> list[np.ndarray]:
    """The group's scores of a metric after the last inner step, [tasks] per seed, for runs that have them."""
    return [run.scores[metric][:, -1] for run in group.runs if metric in run.scores]
