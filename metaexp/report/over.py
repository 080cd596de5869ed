"""Means over the values of one setting, published folds above all: the folds are the units, tasks lie inside them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from metaexp.checks import nearest, show
from metaexp.errors import ConfigError
from metaexp.evaluation.intervals import holm, over_seeds, t_quantile, t_tails
from metaexp.report.grouping import differing
from metaexp.report.parts import Part, Table
from metaexp.report.reading import TESTED, Run, mark_of
from metaexp.report.tables import UNSHOWN, direction, number, p_words

_ALIKE = ("ways", "shots", "queries", "rotation", "resize", "eval_seed")  # of the protocol: the same in every fold


class Unit(NamedTuple):
    """The runs of one group in one fold, which differ in the seed."""

    queries: str | None
    mean: float  # over the seeds' means
    mixed: bool  # a seed is there twice: the runs differ in more than the seed
    scores: np.ndarray | None  # [seeds, tasks]; None: not all runs have them


class Line(NamedTuple):
    """One group over all its folds."""

    names: tuple[str, ...]
    units: dict[str, Unit]  # by the value of the setting

    @property
    def label(self) -> str:
        """Its settings in one word."""
        return " ".join(name for name in self.names if name != "-") or "-"

    @property
    def means(self) -> list[float]:
        """One mean for each fold."""
        return [unit.mean for unit in self.units.values()]


class Apart(NamedTuple):
    """The mean difference of two groups over the folds in which both were tested on the same query sets."""

    one: str
    two: str
    mean: float
    half: float | None
    p: float | None
    units: int


def over_parts(runs: Sequence[Run], key: str, by: Sequence[str] = (), metrics: Sequence[str] = ()) -> list[Part]:
    """Tables of the means over `key`, with Student's t over its values, and of paired differences.

    Raises ConfigError for a setting that no run has.
    """
    known = dict.fromkeys(name for run in runs for name in run.config)
    if key != "seed" and key not in known:
        ends = [name for name in known if name.split(".")[-1] == key]
        hint = f"; did you mean {' or '.join(ends[:3])}?" if ends else nearest(key, known)
        raise ConfigError(f"--over {key}: no run has such a setting{hint}")
    keys = [name for name in (by or differing(runs)) if name != key] or ["algo"]
    if TESTED not in keys and any(mark_of(run.result) for run in runs):
        keys.append(TESTED)
    places: dict[str, list[Run]] = {}
    for run in runs:
        protocol = {name: run.result["protocol"].get(name) for name in _ALIKE}
        sizes = [f"{value} {name}" for name, value in protocol.items() if value is not None and name != "eval_seed"]
        places.setdefault(f"{run.result.get('task')}: {', '.join(sizes)}", []).append(run)
    made = []
    for title, members in sorted(places.items()):
        found = dict.fromkeys(name for run in members for name in run.result["test"])
        for metric in [name for name in found if not metrics or name in metrics]:
            made.append(_part(title, members, key, keys, metric))
    if not made:
        return made
    word = key.split(".")[-1]
    said = (
        f"± {word}s: 95 % of Student's t over the means of the {word}s, seeds averaged first. Tasks are nested in each "
        f"{word}, so what the test tasks of one add to its mean is in the interval."
    )
    said += " Folds share training classes: it may be too narrow." if word == "fold" else ""
    return [*made[:-1], made[-1]._replace(notes=[said])]


def lines_of(runs: Sequence[Run], key: str, keys: Sequence[str], metric: str) -> list[Line]:
    """The groups with their folds; a run without a finite mean is left out."""
    groups: dict[tuple[str, ...], dict[str, list[Run]]] = {}
    for run in runs:
        if (run.result["test"].get(metric) or {}).get("mean") is None:
            continue
        names = tuple(_text(run, name) for name in keys)
        groups.setdefault(names, {}).setdefault(_text(run, key), []).append(run)
    return [Line(names, {value: _unit(found, metric) for value, found in sorted(folds.items())})
            for names, folds in groups.items()]  # fmt: skip


def _unit(runs: Sequence[Run], metric: str) -> Unit:
    mean = float(np.mean([float(run.result["test"][metric]["mean"]) for run in runs]))
    queries = {run.result["protocol"].get("query_sha256") for run in runs}
    columns = [run.scores[metric][:, -1] for run in runs if metric in run.scores]
    whole = len(columns) == len(runs) and len({len(column) for column in columns}) == 1
    mixed = len({str(run.seed) for run in runs}) < len(runs)
    return Unit(queries.pop() if len(queries) == 1 else None, mean, mixed, np.stack(columns) if whole else None)


def apart(one: Line, two: Line) -> Apart | None:
    """The mean over folds of paired differences, with Student's t over the folds; None without a fold in common."""
    found = []
    for value in one.units.keys() & two.units.keys():
        a, b = one.units[value], two.units[value]
        if a.queries is None or a.queries != b.queries or a.scores is None or b.scores is None:
            continue
        if a.scores.shape[1] != b.scores.shape[1]:
            continue
        kept = np.isfinite(a.scores).all(0) & np.isfinite(b.scores).all(0)
        if kept.any():
            found.append(float((a.scores.mean(0) - b.scores.mean(0))[kept].mean()))
    if not found:
        return None
    mean = float(np.mean(found))
    if len(found) == 1:
        return Apart(one.label, two.label, mean, None, None, 1)
    error = float(np.std(found, ddof=1)) / math.sqrt(len(found))
    p = t_tails(mean / error, len(found) - 1) if error > 0 else float(mean == 0)
    return Apart(one.label, two.label, mean, t_quantile(len(found) - 1) * error, p, len(found))


def _part(title: str, runs: Sequence[Run], key: str, keys: Sequence[str], metric: str) -> Part:
    known, larger = direction(metric, runs)
    lines = lines_of(runs, key, keys, metric)
    lines.sort(key=lambda line: float(np.mean(line.means)) * (-1 if larger else 1))
    word, every = key.split(".")[-1], sorted({value for line in lines for value in line.units})
    head = [*keys, metric, f"± {word}s", f"{word}s", "smallest", "largest", ""]
    rows, told = [], []
    for line in lines:
        mean, note = over_seeds(line.means), _note(line, every)
        ends = [number(min(line.means)), number(max(line.means))]
        rows.append([*line.names, number(mean.mean), number(mean.half, 2), str(len(line.units)), *ends, note])
        units = {value: unit.mean for value, unit in line.units.items()}
        told.append({"settings": dict(zip(keys, line.names, strict=True)), "mean": mean.mean, "half": mean.half,
                     "units": units, "note": note})  # fmt: skip
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    tables, differences = [Table(head, rows, len(keys))], []
    if key != "seed":  # trainings with one seed are no pair: the report's own differences are over seeds and tasks
        pairs = [pair for i, one in enumerate(lines) for two in lines[i + 1 :] if (pair := apart(one, two)) is not None]
        tested = [pair for pair in pairs if pair.p is not None]
        adjusted = dict(zip(map(id, tested), holm([pair.p or 0.0 for pair in tested]), strict=True))
        body = [_pair_row(pair, adjusted.get(id(pair)), larger if known else None) for pair in pairs]
        differences = [pair._asdict() | {"p": adjusted.get(id(pair))} for pair in pairs]
        tables += [Table(["difference", metric, "± 95 %", "p", f"{word}s", ""], body, 1)] if body else []
    data = {"over": key, "metric": metric, "larger_is_better": larger, "rows": told, "differences": differences}
    return Part(f"{title}, over {key} ({', '.join(every)})", tables, [], data)


def _note(line: Line, every: Sequence[str]) -> str:
    lost = [value for value in every if value not in line.units]
    notes = [f"not in {', '.join(lost)}"] if lost else []
    notes += ["also averaged over other settings"] if any(unit.mixed for unit in line.units.values()) else []
    return "; ".join(notes)


def _pair_row(pair: Apart, p: float | None, larger: bool | None) -> list[str]:
    if p is None or p >= 0.05:
        verdict = UNSHOWN
    elif larger is None:
        verdict = "different"
    else:
        verdict = f"{pair.one if (pair.mean > 0) == larger else pair.two} better"
    return [f"{pair.one} - {pair.two}", number(pair.mean), number(pair.half, 2), p_words(p), str(pair.units), verdict]


def _text(run: Run, key: str) -> str:
    if key == "seed":
        return str(run.seed)
    value: Any = run.config.get(key)
    return "-" if key not in run.config else show(value)
