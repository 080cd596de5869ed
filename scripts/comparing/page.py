"""A comparison as a page of tables, as JSON, and as a short table for docs/methods.md."""

import fnmatch
import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from comparing.plan import Comparison
from metaexp.evaluation.intervals import difference, holm, over_seeds, over_tasks
from metaexp.report.grouping import compare
from metaexp.report.pictures import draw
from metaexp.report.reading import Run, find
from metaexp.report.tables import blocks, direction, number
from metaexp.report.text import text
from metaexp.system.machine import cores, processor

TITLES = {"tasks": "Equal numbers of training tasks", "time": "Equal training time"}


def claims(spec: dict[str, Any], runs: list[Run], metric: str) -> list[str]:
    """What papers claim about two methods, compared with the paired difference found here."""
    lines, kept = [], []
    for claim in spec.get("claims") or []:
        named = claim.get("than_metric", metric)
        one, two = _scores(runs, claim["better"], metric), _scores(runs, claim["than"], named)
        than = claim["than"] if named == metric else f"the best of {claim['than']}'s {named}"
        name = f"{claim['better']} better than {than} ({claim['source']})"
        tested = {
            run.result["protocol"].get("query_sha256")
            for run in runs
            if run.config["algo"] in (claim["better"], claim["than"])
        }
        if not (one and two):
            lines.append(f"{name}: not measured")
            continue
        if len(tested) > 1:
            lines.append(f"{name}: not comparable, tested on different queries")
            continue
        found = difference(np.stack(one), np.stack(two))
        if found is None or found.half is None:
            lines.append(f"{name}: no finite task in common")
            continue
        kept.append((len(lines), found))
        lines.append(name)
    larger = not kept or _larger(metric, runs)
    # The claims are tested together: p is corrected by Holm, so significance by an interval alone may not survive.
    for (place, found), p in zip(kept, holm([found.p or 0.0 for _, found in kept]), strict=True):
        gain, half = found.mean if larger else -found.mean, found.half or 0.0
        verdict = "not shown" if abs(gain) <= half or p >= 0.05 else "holds" if gain > 0 else "the opposite"
        about = "algorithms" if found.crossed else "checkpoints"
        shown = f"{number(found.mean)} ± {number(half, 2)}, p {'< 0.0001' if p < 1e-4 else f'{p:.2g}'}"
        tasks = f"{found.tasks} tasks" + (f", {found.lost} not finite left out" if found.lost else "")
        lines[place] = f"{lines[place]}: **{verdict}**, difference {shown} ({metric}, {about}, {tasks})"
    return lines


def _larger(metric: str, runs: list[Run]) -> bool:
    """Whether larger values of a metric are better (for a coverage, too little is worse)."""
    known, larger = direction(metric, runs)
    if not known:
        raise SystemExit(f"{metric}: the results do not say whether a larger value is better; test the runs again")
    return larger is not False


def _scores(runs: list[Run], method: str, pattern: str) -> list[np.ndarray]:
    """A method's scores after the last step, [tasks] per seed; if several metrics match, each seed's best."""
    found = []
    for run in runs:
        if run.config["algo"] == method:
            kept = [values[:, -1] for name, values in run.scores.items() if fnmatch.fnmatchcase(name, pattern)]
            sign = -1.0 if any(_larger(n, [run]) for n in run.scores if fnmatch.fnmatchcase(n, pattern)) else 1.0
            found += sorted(kept, key=lambda values: float(np.nan_to_num(sign * values, nan=np.inf).mean()))[:1]
    return found


def said(c: Comparison, round_: str) -> str:
    """The budget of a round in words."""
    if round_ == "time":
        return f"{c.spec['seconds']:,} s each"
    return f"{budget(c.spec)} each"


def budget(given: dict[str, Any]) -> str:
    """Outer steps, or training tasks."""
    return f"{given['steps']:,} outer steps" if "steps" in given else f"{given['tasks']:,} training tasks"


def where(c: Comparison, command: str) -> str:
    """Date, machine, versions and commits of the runs."""
    runs = [run.result for round_ in TITLES for run in c.runs(round_)]
    versions = dict.fromkeys(f"torch {r['versions']['torch']}, Python {r['versions']['python']}" for r in runs)
    commits = dict.fromkeys(str(r.get("commit"))[:10] for r in runs)
    here = {"cpu": processor(), "cores": cores()}  # for runs that do not record it
    machines = dict.fromkeys("{cpu}, {cores} cores".format(**here | r.get("machine", {})) for r in runs)
    machine = f"{'; '.join(machines)}, a thread per run"
    return f"{date.today()}, commit {', '.join(commits)}, {machine}, {'; '.join(versions)}; `{command}`"


def page(c: Comparison, out: Path, command: str) -> None:
    """Writes NAME.md, NAME.json and the pictures to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    lines = [f"# {c.spec['title']}", "", c.spec["about"].strip(), "", where(c, command), ""]
    record: dict[str, Any] = {"title": c.spec["title"], "command": command, "date": str(date.today())}
    for round_, title in TITLES.items():
        if not (runs := c.runs(round_)):
            continue
        every = c.runs(round_, again=True)
        compared = compare(every, ["algo"])
        tables = blocks(compared, False, c.spec["metrics"])
        places = [job.folder for jobs in c.trained(round_).values() for job in jobs if job.folder.exists()]
        report = text(tables, compared, find(places), markdown=True).replace(f"{c.folder}/", "").replace("## ", "### ")
        title = "Equal numbers of outer steps" if round_ == "tasks" and "steps" in c.spec else title
        lines += [f"## {title}: {said(c, round_)}", "", *(_spent(c) if round_ == "time" else []), report.strip(), ""]
        if told := claims(c.spec, runs, c.spec["metrics"][0]):
            lines += ["Claims:", "", *(f"- {line}" for line in told), ""]
        record[round_] = [_entry(run) for run in every]
        for one in draw(tables):
            picture = f"{c.name}_{round_}_{one.name}"
            (out / picture).write_bytes(one.png)
            lines += [f"![{picture}]({picture})", ""]
    lines += _search(c)
    record["search"] = {
        method: {"scores": c.found(method), "chosen": c.chosen(method), "settings": own["settings"]}
        for method, own in c.methods.items()
    }
    (out / f"{c.name}.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    (out / f"{c.name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _spent(c: Comparison) -> list[str]:
    """The actual time of the outer steps at equal time: the budget was set from the speed of other runs."""
    wanted, told = c.spec["seconds"], []
    for method in c.methods:
        if seconds := c.stepping(method):
            mean = sum(seconds) / len(seconds)
            off = "" if abs(mean / wanted - 1) <= 0.1 else f" ({mean / wanted - 1:+.0%})"
            told.append(f"{method} {mean:.3g}{off}")
    return [f"Seconds that the outer steps took in these runs (the mean): {', '.join(told)}.", ""]


def _search(c: Comparison) -> list[str]:
    """The candidates with their scores, and all failures."""
    given, jobs = c.spec["search"], c.search()
    lines = ["## Settings", ""]
    if any(jobs.values()):
        told = f"Searched on {budget(given)}, seed {given['seed']}; the figure is the best score on "
        lines += [f"{told}validation tasks. Bold: taken.", ""]
    lines += ["| method | settings | judged by | searched |", "| --- | --- | --- | --- |"]
    for method, own in c.methods.items():
        best, cells = c.chosen(method), []
        for chosen, score, job in zip(c.candidates(method), c.found(method), jobs[method], strict=bool(jobs[method])):
            told = "failed" if job.failure else number(score)
            cell = f"{' '.join(chosen)}: {told}"
            cells.append(f"**{cell}**" if chosen == best else cell)
        lines.append(f"| {method} | `{' '.join(own['settings'])}` | {c.judged(method)} | {'; '.join(cells) or '-'} |")
    bad = [job for given in jobs.values() for job in given if job.failure]
    trained = [job for round_ in TITLES for given in c.trained(round_).values() for job in given]
    bad += [job for job in trained if job.failure and job.result]  # second tests only; failed runs are in the report
    told = [f"- failed: {'/'.join(job.folder.parts[-3:])}: {job.failure}" for job in bad]
    return [*lines, "", *(line.replace(f"{c.folder}/", "") for line in told)]


def short(c: Comparison, command: str, link: str) -> str:
    """The short table: a line per method, best first, with each round's mean over seeds and its interval over seeds.

    `short` in the comparison's file names the metrics, by default the first; second tests have their own columns.
    `link` leads from the page with this table to the full one.
    """
    shown, first = c.spec.get("short", c.spec["metrics"][:1]), c.spec["metrics"][0]
    rounds = {round_: runs for round_ in TITLES if (runs := c.runs(round_, again=True))}
    head, cells, order = ["method"], {method: [] for method in c.methods}, {}  # type: ignore[var-annotated]
    for round_, runs in rounds.items():
        tests = dict.fromkeys(_changed(run) for run in runs)  # the run's own comes first
        for test in sorted(tests):
            columns = [metric for metric in shown if any(metric in run.result["test"] for run in runs)]
            columns = columns if not test else columns[:1]
            head += [f"{metric}, {test or said(c, round_)}" for metric in columns]
            for method in c.methods:
                own = [run for run in runs if run.config["algo"] == method and _changed(run) == test]
                for metric in columns:
                    mean, value = _value(own, metric, len(c.spec["seeds"]))
                    cells[method].append(value)
                    if metric == first and mean is not None:
                        order.setdefault(method, -mean if _larger(metric, own) else mean)
        head.append("steps")
        for method in c.methods:
            steps = dict.fromkeys(f"{run.result['steps']:,}" for run in runs if run.config["algo"] == method)
            cells[method].append("/".join(steps) or "-")
    seeds, any_run = len(c.spec["seeds"]), next((run for runs in rounds.values() for run in runs), None)
    about = "over seeds" if seeds > 1 else "over test tasks"
    rows = [[f"`{method}`", *cells[method]] for method in sorted(order, key=lambda name: order[name])]
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    count = any_run.result["test"][first]["tasks"] if any_run and first in any_run.result["test"] else "-"
    lines += ["", f"{seeds} seed(s), {count} test tasks, ± is the 95 % interval {about}."]
    lines[-1] += f" [All results]({link}): {where(c, command)}"
    return "\n".join(lines) + "\n"


def _changed(run: Run) -> str:
    """What a second test changed, in words; nothing for the run's own test."""
    changed = run.result.get("evaluation", {}).get("changed", {})
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in changed.items())


def _value(own: list[Run], metric: str, seeds: int) -> tuple[float | None, str]:
    """The mean over seeds, and a cell with the mean, its interval and failures."""
    told = [one for run in own if (one := run.result["test"].get(metric)) and one["mean"] is not None]
    if not told:
        return None, "-"
    found = over_seeds([float(one["mean"]) for one in told])
    half = number(found.half, 2) if len(told) > 1 else number(told[0]["ci95"], 2)
    lost = sum(one["diverged"] for one in told)
    value = f"{number(found.mean)} ± {half}" + (f", {lost} tasks not finite" if lost else "")
    fewer = f", {len(told)} of {seeds} seeds" + (" (± over tasks)" if len(told) == 1 else "")
    return found.mean, value + (fewer if len(told) < seeds else "")


def _entry(run: Run) -> dict[str, Any]:
    kept = {
        key: run.result.get(key)
        for key in ("seed", "steps", "skipped_steps", "parameters", "adapted_parameters", "commit")
    }
    kept |= {"method": run.config["algo"], "seconds": run.result["speed"].get("seconds")}
    kept |= {"weights": run.result["weights"], "peak_mb": run.result["memory"].get("peak_mb")}
    kept |= {name: run.result["protocol"].get(name) for name in ("ways", "shots", "query_sha256")}
    for metric, values in run.scores.items():
        if not metric.startswith("floor_"):
            kept[metric] = over_tasks(values[:, -1])._asdict()
    return kept
