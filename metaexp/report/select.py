"""Which runs stand in a report, and in which order its rows."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from metaexp.checks import nearest, show
from metaexp.errors import ConfigError
from metaexp.report.parts import Part
from metaexp.report.reading import Run
from metaexp.report.tables import Block, Row

ORDERS: dict[str, Callable[[Row], Any]] = {
    "mean": lambda row: row.mean,
    "median": lambda row: row.median,
    "seconds": lambda row: row.seconds,
    "MB": lambda row: row.peak_mb,
    "steps": lambda row: row.steps,
    "name": lambda row: row.names,
}


def where(runs: Sequence[Run], conditions: Sequence[str]) -> list[Run]:
    """The runs whose settings have these values, `key=value` or `key=value,value`; `seed` is one of the keys.

    Raises:
        ConfigError: a condition without "=", a key that no run has, or a value that no run has.
    """
    kept = list(runs)
    for condition in conditions:
        key, equals, values = condition.partition("=")
        known = dict.fromkeys(["seed", *(name for run in runs for name in run.config)])
        if not equals or not values:
            raise ConfigError(f"--where {condition}: must be KEY=VALUE")
        if key not in known:
            ends = [name for name in known if name.split(".")[-1] == key]
            hint = f"; did you mean {' or '.join(ends[:3])}?" if ends else nearest(key, known)
            raise ConfigError(f"--where {condition}: no run has such a setting{hint}")
        wanted = values.split(",")
        there = dict.fromkeys(text(run, key) for run in runs)
        if missing := [value for value in wanted if value not in there]:
            raise ConfigError(f"--where {condition}: no run has {key}={missing[0]}; there are {', '.join(there)}")
        kept = [run for run in kept if text(run, key) in wanted]
    if not kept:
        raise ConfigError(f"--where {' --where '.join(conditions)}: no run meets all of these")
    return kept


def text(run: Run, key: str) -> str:
    """A run's value of a setting, as it is typed; "-" for none."""
    return show(run.seed) if key == "seed" else show(run.config[key]) if key in run.config else "-"


def ordered(block: Block, by: str) -> Block:
    """The block with its rows in another order, smallest first; baselines stay below.

    Raises:
        ConfigError: no such order.
    """
    if by not in ORDERS:
        raise ConfigError(f"--sort {by}: must be {', '.join(ORDERS)}{nearest(by, ORDERS)}")
    value = ORDERS[by]
    own, floors = ([row for row in block.rows if row.floor is floor] for floor in (False, True))
    own.sort(key=lambda row: (value(row) is None, value(row) if value(row) is not None else 0))
    return block._replace(rows=[*own, *floors])


def rows_of(made: Sequence[Block], keys: Sequence[str], parts: Sequence[Part] = ()) -> str:
    """Everything as JSON: a list of tables, each with its test, metric, rows and differences, numbers in full.

    Parts beside them are in a list `parts`, which is absent without any.
    """
    tables = []
    for block in made:
        rows = []
        for row in block.rows:
            named = {"baseline": row.names[0]} if row.floor else {"settings": dict(zip(keys, row.names, strict=True))}
            rest = {name: value for name, value in row._asdict().items() if name not in ("names", "floor")}
            rows.append({**named, **rest})
        tables.append(
            {
                "test": block.section.title,
                "task": block.section.task,
                "query_sha256": block.section.queries,
                "metric": block.metric,
                "larger_is_better": block.larger,
                "rows": rows,
                "differences": [pair._asdict() for pair in block.pairs],
                "note": block.pairs_note,
            }
        )
    beside = {"parts": [{"title": part.title, **part.data} for part in parts]} if parts else {}
    return json.dumps({"format": 1, "tables": tables, **beside}, indent=2, allow_nan=False, default=str) + "\n"
