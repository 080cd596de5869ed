"""Turns single measurements into rows, Markdown and the page docs/speed.md."""

import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

START, END = "<!-- bench -->", "<!-- /bench -->"
OURS = "metaexp"
Row = dict[str, Any]


def ratio(ours: list[Row], peer: list[Row]) -> dict[str, float] | None:
    """Peer's ms over ours in the same round: median, smallest and largest over the rounds that have both."""
    mine = {run["round"]: run["ms"] for run in ours if "ms" in run}
    found = [run["ms"] / mine[run["round"]] for run in peer if "ms" in run and run["round"] in mine]
    return {"median": statistics.median(found), "min": min(found), "max": max(found)} if found else None


def median(runs: list[Row], key: str) -> float | None:
    """Median over the runs that have it."""
    values = [run[key] for run in runs if run.get(key) is not None]
    return statistics.median(values) if values else None


def rows(runs: Iterable[Row]) -> list[Row]:
    """One row per work, number of threads and peer, fastest peer first; a work without peers has a single row."""
    groups: dict[tuple[str, int], dict[str, list[Row]]] = {}
    for run in runs:
        groups.setdefault((run["work"], run["threads"]), {}).setdefault(run["who"], []).append(run)
    table = []
    for (work, threads), by_name in groups.items():
        mine = by_name.get(OURS, [])
        part = [_row(work, threads, mine, name, found) for name, found in by_name.items() if name != OURS]
        part.sort(key=lambda row: row["peer_ms"] if row["peer_ms"] is not None else float("inf"))
        table += part or [_row(work, threads, mine, None, [])]
    return table


def _row(work: str, threads: int, mine: list[Row], name: str | None, found: list[Row]) -> Row:
    failed = [run["failed"] for run in found if "failed" in run]
    notes = [run["note"] for run in found if run.get("note")] + ([f"failed: {failed[0]}"] if failed else [])
    ours = [run.get("note") or run.get("failed", "") for run in mine]
    return {
        "work": work,
        "threads": threads,
        "peer": name,
        "ours_ms": median(mine, "ms"),
        "peer_ms": median(found, "ms"),
        "ratio": ratio(mine, found),
        "rounds": len(mine),
        "ours_mb": median(mine, "mb"),
        "peer_mb": median(found, "mb"),
        "note": ", ".join(dict.fromkeys(notes)),
        "ours_note": ", ".join(dict.fromkeys(note for note in ours if note)),
        "estimated": any(run.get("estimated") for run in found),
    }


def counts(row: Row) -> bool:
    """Whether a peer can count as the best: measured, with the correct gradient of the same objective."""
    return row["peer_ms"] is not None and not row["note"]


def best(table: list[Row]) -> list[Row]:
    """For each work and number of threads: the fastest JAX peer, the fastest PyTorch peer, and learn2learn."""
    kept: list[Row] = []
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in table:
        groups.setdefault((row["work"], row["threads"]), []).append(row)
    for part in groups.values():
        named = [row for row in part if row["peer"]]
        found = [
            next((row for row in named if counts(row) and row["peer"].startswith("jax")), None),
            next((row for row in named if counts(row) and not row["peer"].startswith("jax")), None),
            next((row for row in named if row["peer"] == "learn2learn"), None),
        ]
        unique = [row for i, row in enumerate(found) if row is not None and row not in found[:i]]
        kept += unique or part[:1]
    return kept


def number(value: float | None) -> str:
    """Three significant digits."""
    if value is None:
        return "-"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def spread(found: dict[str, float] | None) -> str:
    """1.52 (1.48-1.60)."""
    return f"{found['median']:.2f} ({found['min']:.2f}-{found['max']:.2f})" if found else "-"


def markdown(head: list[str], body: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *body]) + "\n"


def works_table(table: list[Row], checks: dict[str, Any]) -> str:
    """work | threads | ours ms | peer | peer ms | ratio | MB, with the rejected works listed below."""
    head = ["work", "threads", "ours ms", "peer", "peer ms", "peer / ours", "MB ours / peer", "note"]
    body, last = [], None
    for row in table:
        key = (row["work"], row["threads"])
        first = [row["work"], str(row["threads"]), number(row["ours_ms"])] if key != last else ["", "", ""]
        last = key
        note = ", ".join(part for part in (row["note"], row["ours_note"] and f"ours: {row['ours_note']}") if part)
        memory = f"{number(row['ours_mb'])} / {number(row['peer_mb'])}"
        body.append([*first, row["peer"] or "-", number(row["peer_ms"]), spread(row["ratio"]), memory, note])
    refused = [f"- {work}: not timed, {found['why']}" for work, found in checks.items() if not found["equal"]]
    return markdown(head, body) + ("\n" + "\n".join(refused) + "\n" if refused else "")


def provenance(data: Row) -> str:
    """Where and when, from the stamps of the runs."""
    lines = []
    for part in data["stamps"].values():
        peers = ", ".join(f"{name} {version}" for name, version in part.get("versions", {}).items())
        lines.append(
            f"- {part['date']}, commit {part['commit']}, {part['cpu']}, {part['cores']} cores, "
            f"Python {part['python']}, ours torch {part.get('torch', '-')}, peers {peers or '-'}; `{part['command']}`"
        )
    return "\n".join(dict.fromkeys(lines)) + "\n"


LEGEND = (
    "Milliseconds per outer step, the median over rounds; in a round each program runs once, in a fresh process. "
    "'Ours' is metaexp with Lightning, logging and the progress display on. 'peer / ours' is the ratio within a round, "
    "with the smallest and the largest in brackets; above 1, metaexp is faster. 'MB' is the peak memory of the "
    "process. 'Estimated': not installed here; the time of the plain loop times the ratio published with the peers' "
    "scripts. 'Wrong gradient' and 'other objective': not the same work, so never counted as the best. On Omniglot "
    "metaexp draws real episodes inside the step; the peers cycle through four batches made before timing starts.\n"
)


START_LEGEND = (
    "From the command to its end, start-up, compiler, validations and test included (`--start`): medians over rounds. "
    "CPU seconds are those of the command and of what it starts, such as a compiler; on a busy machine (see the load) "
    "they say more than the clock.\n"
)


def summary(data: Row, link: str) -> str:
    """The content of docs/speed.md: the best peers. `link` leads from there to the page with all of them."""
    table = rows(data.get("runs", []))
    every = f"All peers, and the date, commit, machine, versions and command of each measurement: [bench.md]({link}).\n"
    start = [START_LEGEND, start_table(data["start"])] if data.get("start") else []
    return "\n".join([LEGEND, works_table(best(table), data.get("checks", {})), *start, every])


def start_table(points: list[Row]) -> str:
    """Medians over rounds of what `--start` measured, and the load under which it did."""
    body = []
    for what in dict.fromkeys(point["what"] for point in points):
        own = [point for point in points if point["what"] == what]
        values = [median(own, key) for key in ("seconds", "cpu_seconds", "load")]
        body.append([what, *("-" if value is None else number(value) for value in values), str(len(own))])
    return markdown(["what", "seconds", "CPU seconds", "load", "rounds"], body)


def exponents(points: list[Row]) -> str:
    """How time and memory grow at the upper end of each axis: the exponent between its two largest values."""
    body = []
    for axis, how in dict.fromkeys((point["axis"], point["how"]) for point in points):
        own = [p for p in points if (p["axis"], p["how"]) == (axis, how) and p.get("ms") and p.get("mb") and p["value"]]
        own = sorted(own, key=lambda point: point["value"])[-2:]
        if len(own) < 2:
            continue
        low, high = own
        growth = math.log(high["value"] / low["value"])
        grown = [f"{math.log(high[key] / low[key]) / growth:.2f}" for key in ("ms", "mb")]
        body.append([axis, how, f"{low['value']} to {high['value']}", *grown])
    return markdown(["axis", "how", "values", "exponent of ms", "exponent of MB"], body)


def details(data: Row) -> str:
    """bench.md: every peer, and the other measurements."""
    text = ["# Speed\n", "Made by `scripts/bench.py`; `bench.json` holds every single measurement.\n", LEGEND]
    text.append(works_table(rows(data.get("runs", [])), data.get("checks", {})))
    for section in ("scaling", "sampling", "framework", "start", "precision", "gpu"):
        found = data.get(section)
        if found:
            names = list(dict.fromkeys(key for point in found for key in point if key not in ("load", "round")))
            body = [[_cell(point.get(name)) for name in names] for point in found]
            text += [f"## {section}\n", markdown(names, body)]
            text += [exponents(found)] if section == "scaling" else []
    return "\n".join([*text, "## Where and when\n", provenance(data)])


def _cell(value: object) -> str:
    return number(value) if isinstance(value, float) else "-" if value is None else str(value)


def paste(path: Path, text: str, start: str = START, end: str = END) -> None:
    """Replace the text between two marks in a file. Raises ValueError unless each mark occurs exactly once."""
    whole = path.read_text(encoding="utf-8")
    if whole.count(start) != 1 or whole.count(end) != 1 or whole.index(start) > whole.index(end):
        raise ValueError(f"{path}: needs one {start} and after it one {end}")
    head, tail = whole.split(start)[0], whole.split(end)[1]
    path.write_text(f"{head}{start}\n\n{text}\n{end}{tail}", encoding="utf-8")
