"""Runs of learned methods in the tables of worlds: a row over the seeds of a method, and what is told of them."""

import json
import statistics
from pathlib import Path
from typing import Any

LEAST = 2000


def finished(folders: list[Path], task: str) -> list[dict[str, Any]]:
    """The results of all runs of a task in folders, except those that another run of them started from.

    Runs tested on fewer than LEAST tasks are no rows either: beginnings whose second run is not finished. Each has
    `folder`, `day`, `minutes` with those of the runs before it, and `steps` with those before its first weights.
    """
    files = sorted(path for folder in folders for path in folder.rglob("result.json"))
    results = {file.parent.resolve(): json.loads(file.read_text()) for file in files}
    before = {folder: _parent(result) for folder, result in results.items()}
    found = []
    for folder, result in results.items():
        if result.get("task") != task or result.get("debug") or folder in before.values() or not result.get("test"):
            continue
        if result["test"]["return"]["tasks"] < LEAST:
            continue
        chain = [folder]
        while (parent := before.get(chain[-1])) is not None:
            chain.append(parent)
        seconds = sum(results[f]["speed"]["seconds"] for f in chain if f in results)
        steps = result["steps"] + sum(results[f]["parent"]["step"] for f in chain[:-1] if f in results)
        found.append(result | {"minutes": seconds / 60, "steps": steps, "day": folder.name[:10], "folder": str(folder)})
    return found


def _parent(result: dict[str, Any]) -> Path | None:
    parent = result.get("parent")
    return Path(parent["folder"]).resolve() if parent else None


def over_seeds(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of a method over its seeds.

    Seeds are tested on the same tasks: the mean over seeds is at most as uncertain as one of them. How much they differ
    is a matter of its own: `seed_means` and `seed_deviation`.
    """
    row: dict[str, Any] = {"seeds": len(results), "tasks": min(r["test"]["return"]["tasks"] for r in results)}
    for metric in ("return", "regret"):
        means = [r["test"][metric]["mean"] for r in results]
        row[metric] = {
            "mean": statistics.fmean(means),
            "ci95": statistics.fmean(r["test"][metric]["ci95"] for r in results),
            "seed_means": means,
            "seed_deviation": statistics.stdev(means) if len(means) > 1 else None,
        }
    for name in ("steps", "minutes", "day"):
        row[name] = max(r[name] for r in results)
    return row | {name: results[0][name] for name in ("versions", "machine")}


def notes(rows: list[dict[str, Any]], names: dict[str, str], digits: int) -> list[str]:
    """Lines of a section on how the learned rows were made and how much training seeds differ.

    Args:
        names: the columns that tell rows apart: title -> key.
    """
    if not rows:
        return []
    lines = [f"| {' | '.join(names)} | method | return of each seed | deviation | test tasks | outer steps | minutes |"]
    lines.append(f"|{'---|' * (len(names) + 6)}")
    for row in rows:
        told = row["return"]
        seeds = ", ".join(f"{mean:.{digits}f}" for mean in told["seed_means"])
        spread = "" if told["seed_deviation"] is None else f"{told['seed_deviation']:.{digits}f}"
        cells = [*(str(row[key]) for key in names.values()), row["method"], seeds, spread]
        cells += [f"{row['tasks']:,}", f"{row['steps']:,}"]
        lines.append(f"| {' | '.join(cells)} | {row['minutes']:.0f} |")
    versions = sorted({f"torch {row['versions']['torch']}" for row in rows})
    machines = sorted({"{cpu}, {cores} cores".format(**row["machine"]) for row in rows})
    return [
        "## Training", "",
        "The learned rows are means over training seeds; their intervals are those over test tasks, which are the "
        "first of those that the other rows met. How much seeds "
        "differ stands here, with the time of the slowest seed on one thread, test included, of a machine that did "
        "other work as well. Long trials are learned in runs one after the other, each from the best weights of the "
        "one before; the outer steps are those of the last run and those before the weights it started from. "
        f"{', '.join(sorted({row['day'] for row in rows}))}; {', '.join(versions)}; {', '.join(machines)}; "
        "`python scripts/rl2.py FOLDER`.", "",
        *lines, "",
    ]  # fmt: skip
