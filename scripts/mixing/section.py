"""The part of the page that only the mixture has: regret, kinds, the published table, the mother's agreement."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparing.plan import Comparison

from metaexp.evaluation.intervals import over_seeds, over_tasks
from metaexp.report.reading import Run
from metaexp.report.tables import number
from metaexp.tasks.mixture import NAMES, Mixture
from mixing.bayes import bayes, told
from mixing.picture import draw

PUBLISHED = {  # Yao and others 2020, table of section 5.2: mse and 95 % interval
    "MAML": (2.292, 0.163),
    "Meta-SGD": (2.908, 0.229),
    "MT-Net": (1.757, 0.120),
    "MUMOMAML": (0.523, 0.036),
    "HSML": (0.494, 0.038),
    "ARML": (0.438, 0.029),
}
DIFFERENCES = """\
Published: Yao and others 2020, section 5.2, 10 shots, 1,000 test tasks with 10 queries each, one training of 70,000
iterations of 25 tasks (1,750,000 tasks), 5 inner steps of rate 0.001. Here: the same functions, noise and shots,
{tasks} training tasks, 100 queries per test task. The paper writes that inputs are from [0, 5] (mixture.md); the code
its authors published (commit 280150a, `data_generator.py`) draws them from [-5, 5], where the same functions are larger
(mixture_wide.md). Which of the two made the printed numbers is not known to us, so they stand beside ours, with inputs
from [{low:g}, {high:g}], as an orientation and not as a paired comparison."""


def add(c: Comparison, out: Path) -> None:
    """Writes the part into NAME.md behind the introduction, and its numbers into NAME.json."""
    runs = c.runs("tasks")
    record = json.loads((out / f"{c.name}.json").read_text(encoding="utf-8"))
    family = Mixture(test={"queries": 100}, x_range=tuple(c.spec.get("x_range", (0.0, 5.0))))
    tasks = next((len(next(iter(run.scores.values()))) for run in runs), 1000)
    known = bayes(family, tasks, c.folder / "bayes.npz")
    rows = {method: _row([run for run in runs if run.config["algo"] == method], known) for method in c.methods}
    rows = dict(sorted(((m, row) for m, row in rows.items() if row), key=lambda pair: pair[1]["mse"]))
    lines = ["## Regret to the Bayes prediction", "", *_table(rows, known, c), "", *_published(rows, c, family), ""]
    lines += ["### The Bayes prediction", "", _about(family), "", *told(known, family), ""]
    mothers = [run for run in runs if run.config["algo"] == "mother"]
    if mothers:
        agreement = [_agreement(run.folder) for run in mothers]
        record["mother_agreement"] = agreement
        lines += ["### The mother's children and the kinds", "", *_told_agreement(agreement), ""]
    if rows:
        best = next(iter(rows))
        picture = f"{c.name}_episodes.png"
        run = next(run for run in runs if run.config["algo"] == best)
        draw(run.folder, best, family).savefig(out / picture)
        lines += [f"One test task of each kind, `{best}` (seed {run.result['seed']}) and the Bayes prediction:", ""]
        lines += [f"![{picture}]({picture})", ""]
    page = out / f"{c.name}.md"
    text = page.read_text(encoding="utf-8")
    for timed in out.glob(f"{c.name}_tasks_seconds_*.png"):  # runs of a busy machine: their times compare nothing
        timed.unlink()
        text = text.replace(f"![{timed.name}]({timed.name})\n\n", "")
    place = text.find("\n## ")
    page.write_text(text[: place + 1] + "\n".join(lines) + "\n" + text[place + 1 :], encoding="utf-8")
    record["regret"] = rows
    record["bayes"] = {name: float(values.mean()) for name, values in known.items() if name != "kind"}
    (out / f"{c.name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _row(runs: list[Run], known: dict[str, np.ndarray]) -> dict[str, Any]:
    """A method's numbers: means over its seeds; intervals over tasks of the mean over seeds, and over seeds."""
    if not runs:
        return {}
    scores = np.stack([run.scores["mse"][:, -1] for run in runs])  # [seeds, tasks]
    finite = np.isfinite(scores).all(0)
    mean = np.where(finite, scores.mean(0), np.nan)
    regret = over_tasks(mean - known["mse"])
    error, seeds = over_tasks(mean), over_seeds([float(s[finite].mean()) for s in scores])
    by_kind = {n: over_tasks(mean[known["kind"] == i]).mean for i, n in enumerate(NAMES)}
    return {
        "seeds": len(runs),
        "mse": error.mean,
        "ci95_tasks": error.half,
        "ci95_seeds": seeds.half,
        "median": float(np.nanmedian(mean)),
        "regret": regret.mean,
        "regret_ci95_tasks": regret.half,
        "not_finite": int((~finite).sum()),
        "by_kind": by_kind,
    }


def _table(rows: dict[str, dict[str, Any]], known: dict[str, np.ndarray], c: Comparison) -> list[str]:
    lines = ["| method | seeds | mse | ± tasks | ± seeds | median | regret | ± tasks | " + " | ".join(NAMES) + " |"]
    lines.append("| --- |" + " ---: |" * (7 + len(NAMES)))
    for method, row in rows.items():
        cells = [f"`{method}`", str(row["seeds"]), number(row["mse"]), number(row["ci95_tasks"], 2)]
        cells += [number(row["ci95_seeds"], 2) if row["ci95_seeds"] is not None else "-", number(row["median"])]
        cells += [number(row["regret"]), number(row["regret_ci95_tasks"], 2)]
        lines.append("| " + " | ".join(cells + [number(row["by_kind"][n]) for n in NAMES]) + " |")
    own = over_tasks(known["mse"])
    each = [number(float(known["mse"][known["kind"] == i].mean())) for i in range(len(NAMES))]
    cells = ["Bayes", "", number(own.mean), number(own.half, 2), "", number(float(np.median(known["mse"]))), "0", ""]
    lines += ["| " + " | ".join(cells + each) + " |", ""]
    lines.append(
        "± tasks: 1.96 s / sqrt(tasks) of each task's mean over seeds; ± seeds: Student's t over the seeds' means."
    )
    lines.append("Regret: the error above that of the Bayes prediction on the same queries, paired task by task.")
    none = [f"`{method}`" for method in c.methods if method not in rows]
    fewer = [f"`{method}` ({row['seeds']})" for method, row in rows.items() if row["seeds"] < len(c.spec["seeds"])]
    lines += ["", f"Not run yet: {', '.join(none)}."] if none else []
    lines += ["", f"Run with fewer than {len(c.spec['seeds'])} seeds: {', '.join(fewer)}."] if fewer else []
    return lines


def _published(rows: dict[str, dict[str, Any]], c: Comparison, family: Mixture) -> list[str]:
    lines = ["### Beside the published table", "", "| method | mse | ± |", "| --- | ---: | ---: |"]
    lines += [f"| {name} (published) | {mse} | {half} |" for name, (mse, half) in PUBLISHED.items()]
    for method in [m for m in (next(iter(rows), ""), "maml", "metasgd", "mother") if m in rows]:
        lines.append(f"| `{method}` (here) | {number(rows[method]['mse'])} | {number(rows[method]['ci95_tasks'], 2)} |")
    low, high = family.x_range
    return [*lines, "", DIFFERENCES.format(tasks=f"{c.spec['tasks']:,}", low=low, high=high)]


def _about(family: Mixture) -> str:
    return (
        f"The posterior mean by importance sampling with {family.oracle_samples:,} samples of each of the six kinds "
        "(see `metaexp/tasks/mixture_posterior.py`). The second sample is independent of the first; their "
        "mean squared distance is given as a share of the excess over the noise floor "
        f"{family.noise**2:.2f}. Effective samples: (sum w)² / sum w² over all kinds."
    )


def _agreement(folder: Path) -> dict[str, float]:
    """The adjusted Rand indices of a trained mother's view on the first 600 test tasks."""
    from metaexp.algos.mother_views import agreement
    from metaexp.estimator import load
    from metaexp.mapping import map_tasks

    learner = load(folder)._source.learner
    episode = learner.family.sample("test", torch.arange(600))
    with torch.no_grad():
        seen = map_tasks(learner._seen, episode._replace(info={}), 100)
    return agreement(seen, episode.info["kind"])


def _told_agreement(found: list[dict[str, float]]) -> list[str]:
    lines = [
        "The adjusted Rand index of the kinds and the child that each feedback prefers, on the first 600 test tasks "
        "(1: equal partitions, 0: independent ones; three groups of two whole kinds each would reach 0.57); `best` is "
        "the child with the least query loss.",
        "",
        "| seed | " + " | ".join(found[0]) + " |",
        "| --- |" + " ---: |" * len(found[0]),
    ]
    return lines + [f"| {i} | " + " | ".join(f"{v:.2f}" for v in one.values()) + " |" for i, one in enumerate(found)]
