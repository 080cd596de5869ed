"""python scripts/results.py FOLDER... [--out FOLDER] [--readme PAGE] [--replace]: run folders -> committed tables.

Reads every finished run under the folders and writes
    results.json  every run and every group of runs that differ in the seed alone
    runs.md       one table per run's numbers: each seed by itself, with the interval over its test tasks
    summary.md    groups beside the papers; several seeds give a mean with an interval over seeds
With --readme docs/results.md the summary also replaces the text between `<!-- results -->` and
`<!-- end of results -->` on that page.

Two intervals, never mixed: over tasks 1.96 s / sqrt(tasks), how well one trained learner is measured; over seeds
Student's t with seeds - 1 degrees of freedom, how much a new training would differ.
"""

import argparse
import json
import math
import shlex
import socket
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metaexp.checks import show
from metaexp.config.settings import load
from metaexp.evaluation.intervals import finite_tasks, over_seeds, summary
from metaexp.metric_names import SUFFIXES, metric_name, recorded_direction
from metaexp.storage.saved_config import NOT_SET, differences, read_config
from metaexp.system.files import plain
from metaexp.system.machine import processor

START, END = "<!-- results -->", "<!-- end of results -->"
HERE_ONLY = ("task.root", "task.download")  # where data lie: says nothing about a result
COLUMNS = {SUFFIXES["queries"]: "transductive", SUFFIXES["single"]: "single", SUFFIXES["support"]: "support"}


class Paper(NamedTuple):
    """Published numbers of an experiment: metric -> inner steps (-1: the last) -> what is printed in the paper."""

    source: str
    values: dict[str, dict[int, str]]


_MAML, _REPTILE = "Finn, Abbeel, Levine 2017", "Nichol, Achiam, Schulman 2018"
_SINE = {"mse": {1: "0.67", 5: "0.38", 10: "0.35"}}
PAPERS = {
    "maml_sine": Paper(f"{_MAML}, Table 2", _SINE),
    "maml_sine_lr0001": Paper(f"{_MAML}, Table 2", _SINE),
    "joint_sine": Paper(f"{_MAML}, Table 2", {"mse": {1: "2.41", 5: "2.23", 10: "2.19"}}),
    "reptile_sine": Paper(f"{_REPTILE}, figure 1 (no number)", {"mse": {0: "", 1: "", 8: "", 32: ""}}),
    "omniglot_maml": Paper(f"{_MAML}, Table 1", {"accuracy_transductive": {-1: "98.7 ± 0.4"}}),
    "omniglot_fomaml": Paper(f"{_REPTILE}, Omniglot table", {"accuracy_transductive": {-1: "98.3 ± 0.5"}}),
    "omniglot_reptile": Paper(
        f"{_REPTILE}, Omniglot table",
        {"accuracy_transductive": {-1: "97.68 ± 0.04"}, "accuracy": {-1: "95.39 ± 0.09"}},
    ),
    "gp_cnp": Paper("NeuralProcesses.jl, README, interpolation, `eq`", {"log_likelihood": {-1: "-1.09"}}),
    "gp_acnp": Paper("NeuralProcesses.jl, README, interpolation, `eq`", {"log_likelihood": {-1: "-0.83"}}),
}


# --- one run


def numbers(values: np.ndarray, step: int, larger_is_better: bool | None) -> dict[str, Any]:
    """What is reported of scores [tasks, steps + 1] after one number of inner steps: `evaluation.intervals.summary`.

    Tasks that are not finite at any step are counted in `diverged` and left out of the rest; `worse` counts those that
    are worse after adaptation than before.
    """
    step, kept = step % values.shape[1], values[finite_tasks(values)]
    found = summary(np.where(finite_tasks(values)[:, None], values, np.nan)[:, : step + 1], larger_is_better)
    sign = -1.0 if larger_is_better is False else 1.0
    reported = {key: found[key] for key in ("mean", "ci95", "median", "worst")}
    worse = int((sign * kept[:, step] < sign * kept[:, 0]).sum())
    return {"step": step, **reported, "worse": worse, "diverged": found["diverged"], "tasks": found["tasks"]}


def shown_steps(experiment: str | None, metric: str, last: int) -> list[int]:
    """The inner steps for which a metric is reported: those of the paper, else 0, 1 and the last."""
    paper = PAPERS.get(str(experiment))
    found = paper.values.get(metric, {-1: ""}) if paper else {0: "", 1: "", -1: ""}
    return sorted({last if step < 0 else min(step, last) for step in found})


def command(config: dict[str, Any]) -> str:
    """The command line that composes this configuration, without its seed."""
    choices = config["choices"]
    words = [f"experiment={choices['experiment']}"] if choices.get("experiment") else []
    words = words or [f"{group}={choices[group]}" for group in ("algo", "task")]
    for group, choice in load(words)["choices"].items():
        if choice != choices.get(group) and group != "device":
            words.append(f"{group}={choices[group]}")
    if load(words)["steps"] != config["steps"]:  # first, since a schedule may depend on the number of steps
        words.append(f"steps={config['steps']}")
    base = load([*words, f"seed={config['seed']}"])
    changed = [
        (key, now)
        for key, _, now in differences(base, config)
        if not key.startswith(("choices.", "seed")) and now != NOT_SET  # a setting younger than the run
    ]
    words += [f"{key}={show(value)}" for key, value in changed if key not in HERE_ONLY]
    return shlex.join(["scripts/run.sh", *words])


def cpu(result: dict[str, Any], host: str | None) -> str:
    """The processor's name; a run that does not record it (an older one) must have been made on this machine."""
    told = result.get("machine", {}).get("cpu")
    return told or (processor() if host == socket.gethostname() else f"unknown (host {host})")


def direction(name: str, summary: dict[str, Any]) -> bool | None:
    """Whether a metric of a result grows with quality; raises ValueError where the result does not say."""
    known, larger = recorded_direction(name, [summary])
    if not known:
        raise ValueError(f"{name}: the result does not say whether a larger value is better; test it again")
    return larger


def read_run(folder: Path) -> dict[str, Any]:
    """One finished run as a row; raises ValueError where its files contradict each other or a direction is missing."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    status = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    config = read_config(folder)
    experiment, classification = result.get("experiment"), config["task"]["gives"]["kind"] == "classification"
    metrics, directions = {}, {}
    with np.load(folder / "test_scores.npz", allow_pickle=False) as scores:
        for name, told in result["test"].items():
            last = scores[name].shape[1] - 1
            larger = direction(name, told)
            directions[name] = larger
            rows = [numbers(scores[name], step, larger) for step in shown_steps(experiment, name, last)]
            final = numbers(scores[name], last, larger)
            if not (final["mean"] is None or math.isclose(final["mean"], told["mean"], rel_tol=1e-9, abs_tol=1e-12)):
                raise ValueError(f"{folder}: {name} is {told['mean']} in result.json, {final['mean']} in the scores")
            metrics[name] = rows
    return {
        "label": experiment or f"{result['algo']} {result['task']}",
        "experiment": experiment,
        "seed": result["seed"],
        "command": command(config),
        "classification": classification,
        "metrics": metrics,
        "larger_is_better": directions,
        "outer_steps": result["steps"],
        "stopped": result.get("stopped"),
        "weights": result["weights"],
        "finish": result.get("finish"),
        "protocol": result["protocol"],
        "seconds": result["speed"]["seconds"],
        "meta_steps_per_s": result["speed"]["meta_steps_per_s"],
        "peak_mb": result["memory"]["peak_mb"],
        "device": result["device"],
        "cpu": cpu(result, status.get("host")),
        "threads": result["threads"],
        "precision": str(config["device"]["precision"]),
        "versions": result["versions"],
        "date": str(status.get("started"))[:10],
        "commit": result["commit"],
        "config_sha256": result["config_sha256"],
    }


def find_runs(folders: list[Path]) -> list[dict[str, Any]]:
    """All finished runs under the folders, by label and seed; of two with the same command and seed, the newer one."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for file in sorted({file for folder in folders for file in folder.rglob("status.json")}):
        if not (file.parent / "result.json").exists():
            print(f"{file.parent}: not finished, left out", file=sys.stderr)
            continue
        run = read_run(file.parent)
        key = (run["command"], run["seed"])
        if key in found:
            print(f"{file.parent}: {run['label']} with seed {run['seed']} is there twice", file=sys.stderr)
        if key not in found or run["date"] >= found[key]["date"]:
            found[key] = run
    return sorted(found.values(), key=lambda run: (run["classification"], run["label"], run["command"], run["seed"]))


# --- several seeds


def group(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs that differ in the seed alone, with the mean over seeds of each mean and median, and the worst of all."""
    by_command: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        by_command.setdefault(run["command"], []).append(run)
    groups = []
    for line, members in by_command.items():
        metrics = {}
        for name, rows in members[0]["metrics"].items():
            metrics[name] = [
                _merged([run["metrics"][name][place] for run in members], members[0]["larger_is_better"][name])
                for place in range(len(rows))
            ]
        shared = {key: members[0][key] for key in ("label", "experiment", "classification", "outer_steps")}
        groups.append({**shared, "command": line, "seeds": [run["seed"] for run in members], "metrics": metrics})
    return groups


def _merged(rows: list[dict[str, Any]], larger_is_better: bool | None) -> dict[str, Any]:
    finite = [row for row in rows if row["mean"] is not None]
    worst = [row["worst"] for row in finite]
    seeds = over_seeds([row["mean"] for row in finite])
    return {
        "step": rows[0]["step"],
        "mean": seeds.mean,
        "ci95_over_seeds": seeds.half,
        "ci95_over_tasks": rows[0]["ci95"] if len(rows) == 1 else None,
        "median": float(np.mean([row["median"] for row in finite])) if finite else None,
        "worst": (max(worst) if larger_is_better is False else min(worst)) if finite else None,
        **{key: sum(row[key] for row in rows) for key in ("worse", "diverged", "tasks")},
    }


# --- tables


def value(number: float | None, percent: bool, digits: int = 3) -> str:
    """0.4123 -> 0.412, or 98.76 in percent; three significant digits from a thousand on."""
    if number is None:
        return "not finite"
    if percent:
        return f"{100 * number:.2f}"
    return f"{number:.{digits}f}" if abs(number) < 1000 else f"{number:.3g}"


def interval(mean: float | None, half: float | None, percent: bool) -> str:
    """mean ± half."""
    return value(mean, percent) + ("" if mean is None or half is None else f" ± {value(half, percent)}")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]) + "\n"


def _published(experiment: str | None, metric: str, step: int, last: bool) -> str:
    paper = PAPERS.get(str(experiment))
    found = paper.values.get(metric, {}) if paper else {}
    return found.get(step) or (found.get(-1) if last else None) or "-"


def _of_group(row: dict[str, Any], percent: bool) -> str:
    if row["ci95_over_seeds"] is not None:
        return interval(row["mean"], row["ci95_over_seeds"], percent) + " over seeds"
    return interval(row["mean"], row["ci95_over_tasks"], percent) + " over tasks"


def summary_page(groups: list[dict[str, Any]]) -> str:
    """The groups beside the papers, as Markdown."""
    text = []
    regression = [g for g in groups if not g["classification"]]
    if regression:
        head = "experiment|outer steps|seeds|inner steps|paper|mean|median|worst task|worse than before|not finite"
        rows = []
        for g in regression:
            for metric, found in g["metrics"].items():
                for row in found:
                    paper = _published(g["experiment"], metric, row["step"], row is found[-1])
                    label = f"`{g['label']}`" + ("" if metric == "mse" else f" {metric}")
                    start = [label, f"{g['outer_steps']:,}", str(len(g["seeds"])), str(row["step"]), paper]
                    numbers = [_of_group(row, False), value(row["median"], False), value(row["worst"], False)]
                    rows.append([*start, *numbers, *(f"{row[key]} of {row['tasks']}" for key in ("worse", "diverged"))])
        text += ["Regression, mean squared error:\n", table(head.split("|"), rows)]
    classification = [g for g in groups if g["classification"]]
    if classification:
        names = list(COLUMNS.values())
        head = ["experiment", "outer steps", "seeds", *(f"{n}: {w}" for n in names for w in ("paper", "here"))]
        rows = [_accuracies(g) for g in classification]
        text += ["Classification, accuracy in percent after the last inner step:\n", table(head, rows)]
    text += ["The commands, and the sources of the published numbers:\n"]
    for g in groups:
        paper = PAPERS.get(str(g["experiment"]))
        line = g["command"] + (f" seed={g['seeds'][0]}" if len(g["seeds"]) == 1 else "")
        if len(g["seeds"]) > 1:
            line = line.replace("run.sh ", "run.sh -m ", 1) + f" seed={','.join(map(str, g['seeds']))}"
        text.append(f"- `{line}`" + (f": {paper.source}" if paper else ""))
    return "\n".join(text) + "\n"


def _accuracies(g: dict[str, Any]) -> list[str]:
    cells = [f"`{g['label']}`", f"{g['outer_steps']:,}", str(len(g["seeds"]))]
    for suffix in COLUMNS:
        name = metric_name("accuracy", suffix)
        if name in g["metrics"]:
            row = g["metrics"][name][-1]
            cells += [_published(g["experiment"], name, row["step"], True), _of_group(row, True)]
        else:
            cells += ["-", "-"]
    return cells


def details(runs: list[dict[str, Any]], groups: list[dict[str, Any]]) -> str:
    """Every run with its seed, as Markdown."""
    text = ["# Runs\n", "Made by `scripts/results.py` from run folders; `results.json` beside it holds the same.\n"]
    text.append(
        "`±` is 1.96 s / sqrt(tasks), over the test tasks of one run. Tasks that are not finite are left out.\n"
    )
    for g in groups:
        members = [run for run in runs if run["command"] == g["command"]]
        text += [f"## {g['label']}\n", f"`{g['command']}`\n"]
        for metric in g["metrics"]:
            percent = g["classification"]
            head = ["seed", "inner steps", metric, "median", "worst", "worse than before", "not finite", "tasks"]
            rows = [
                [str(run["seed"]), str(row["step"]), interval(row["mean"], row["ci95"], percent)]
                + [value(row[key], percent) for key in ("median", "worst")]
                + [str(row[key]) for key in ("worse", "diverged", "tasks")]
                for run in members
                for row in run["metrics"][metric]
            ]
            text.append(table(head, rows))
        head = ["seed", "outer steps", "weights", "seconds", "steps/s", "hardware", "versions", "date", "commit"]
        text.append(table(head, [_provenance(run) for run in members]))
    return "\n".join(text)


def _provenance(run: dict[str, Any]) -> list[str]:
    rate = run["meta_steps_per_s"]
    hardware = f"{run['device']}, {run['cpu']}, {run['threads']} threads, precision {run['precision']}"
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    weights = f"{run['weights']['kind']} (step {run['weights']['step']})"
    speed = [f"{run['seconds']:.0f}", "-" if rate is None else f"{rate:.3g}"]
    commit = str(run["commit"] or "-")
    short = commit[:10] + ("+" if commit.endswith("+") else "")
    return [str(run["seed"]), f"{run['outer_steps']:,}", weights, *speed, hardware, versions, run["date"], short]


def _lost(file: Path, runs: list[dict[str, Any]]) -> list[str]:
    """Labels that the existing tables report and these runs lack."""
    if not file.exists():
        return []
    there = json.loads(file.read_text(encoding="utf-8"))["runs"]
    return sorted({run["label"] for run in there} - {run["label"] for run in runs})


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, or folders of them")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="where the tables go")
    parser.add_argument("--readme", metavar="PAGE", type=Path, help="page to paste the summary into: docs/results.md")
    parser.add_argument("--replace", action="store_true", help="drop what is in the tables and not in the folders")
    arguments = parser.parse_args()
    runs = find_runs(arguments.folders)
    if not runs:
        parser.error("no finished run there")
    groups = group(runs)
    if not arguments.replace and (lost := _lost(arguments.out / "results.json", runs)):
        told = f"{arguments.out}: its tables have {', '.join(lost)}, of which there is no run here"
        parser.error(f"{told}; write elsewhere with --out FOLDER, or drop them with --replace")
    arguments.out.mkdir(parents=True, exist_ok=True)
    data = json.dumps(plain({"format": 1, "runs": runs, "groups": groups}), indent=1, allow_nan=False)
    shown = summary_page(groups)
    for name, text in (("results.json", data + "\n"), ("runs.md", details(runs, groups)), ("summary.md", shown)):
        (arguments.out / name).write_text(text, encoding="utf-8")
    if arguments.readme:
        text = arguments.readme.read_text(encoding="utf-8")
        head, tail = text.split(START)[0], text.split(END)[1]
        arguments.readme.write_text(f"{head}{START}\n\n{shown}\n{END}{tail}", encoding="utf-8")
    print(f"{len(runs)} runs in {len(groups)} groups: {arguments.out}")


if __name__ == "__main__":
    main()
