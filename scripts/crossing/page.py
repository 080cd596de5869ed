"""The page docs/matrix.md: what each cell learns within its budget; cells at chance first."""

# ruff: noqa: E501
import math
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

FLOORS = ("mean", "scratch", "untrained")  # what a cell must beat to learn; the neighbour stands beside
ORDER = ("at chance", "below scratch", "failed", "cannot", "learns")


def verdict(name: str, row: dict[str, Any], reasons: dict[str, str]) -> tuple[str, str]:
    """(one of ORDER, the reason) of a cell's row."""
    if "failed" in row:
        return "failed", row["failed"]
    missed = [floor for floor in FLOORS if not beats(row, floor)]
    if not missed:
        return "learns", "" if beats(row, "neighbour") else "not better than its nearest neighbour"
    for pattern, reason in reasons.items():
        if name == pattern or (fnmatchcase(name, pattern) and missed == ["scratch"]):
            return "cannot", reason
    if "mean" in missed or "untrained" in missed:
        return "at chance", f"not better than {', '.join(missed)}"
    return "below scratch", "better than mean and the untrained network; " + cause(row)


def beats(row: dict[str, Any], floor: str) -> bool:
    """Whether the 95 % interval of the paired difference to a floor lies above 0; a floor that is not there counts."""
    if floor not in row["floors"]:
        return True
    found = row["better_by"].get(floor)
    return bool(found) and found[0] is not None and found[0] - found[1] > 0


def runs_away(row: dict[str, Any]) -> bool:
    """Whether a step before the last is better than the last by more than a twentieth: the later ones hurt."""
    path = [v if v is not None else math.nan for v in row.get("per_step", [])]
    if len(path) < 2:
        return False
    sign = 1 if row["larger_is_better"] else -1
    best = max((sign * v for v in path[:-1] if not math.isnan(v)), default=-math.inf)
    return math.isnan(path[-1]) or best - sign * path[-1] > 0.05 * abs(path[-1])


def cause(row: dict[str, Any]) -> str:
    """Why a cell that learns is still below training from scratch."""
    if runs_away(row):
        return "the last inner steps hurt"
    return f"after {row['steps']} outer steps, which the budget allows"


def page(plan: dict[str, Any], found: dict[str, Any]) -> str:
    """The whole page."""
    reasons = plan.get("reasons") or {}
    judged = {name: verdict(name, row, reasons) for name, row in found.items()}
    lines = [
        "# Every method on every family, as typed",
        "",
        "Each cell is `algo=METHOD task=FAMILY` with nothing else typed but what the family needs: default settings, a",
        "small budget of one core, the best of four validations, tested on new tasks. A cell **learns** if the 95 %",
        "intervals of its paired differences to `mean`, `scratch` (100 Adam steps on the support set, 50 on pictures, at",
        "the best of its rates on validation tasks) and the untrained network of the same method exclude 0, on test tasks",
        "that played no part in the choice of the settings. Made by `python scripts/matrix.py --omniglot FOLDER`, which",
        "can be interrupted and called again, with other budgets by `--budget FACTOR`; numbers in",
        "[scripts/results/matrix.json](../scripts/results/matrix.json).",
        "",
        *about(plan, found),
        "",
        "`task=glyphs` is `task=dataset` with made-up characters, by the recipe of [your own data](own_data.md); `arrays`",
        "are 400 made functions. The budgets are short: a cell that is below `scratch` here may need more steps.",
        "",
        *plan.get("notes", []),
        "",
        "## Overview",
        "",
        *overview(plan, judged),
        "",
    ]
    for kind in ORDER:
        names = sorted(name for name, (word, _) in judged.items() if word == kind)
        if names:
            lines += [f"## {kind.capitalize()}: {len(names)}", "", *table(names, found, judged), ""]
    return "\n".join([*lines, *hurting(found), *rules()]) + "\n"


def about(plan: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Dates, versions, machine and budgets."""
    dates = sorted({row["date"] for row in found.values()})
    some = next(iter(found.values()))
    budgets = ", ".join(f"{task} {family['budget']}" for task, family in plan["families"].items())
    versions = ", ".join(f"{name} {version}" for name, version in some["versions"].items())
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return [
        f"Run {span} on one core of {some['machine']['cpu']}, beside other work ({versions}). Seconds of processor time",
        f"for the outer steps of a cell, eager: {budgets}.",
    ]


def overview(plan: dict[str, Any], judged: dict[str, tuple[str, str]]) -> list[str]:
    """One row per method, one column per family."""
    short = {
        "learns": "learns",
        "at chance": "**chance**",
        "below scratch": "below scratch",
        "failed": "refused",
        "not run": "*not run*",
    }
    tasks = list(plan["families"])
    refused = {("protonet", task) for task in tasks if task not in ("clusters", "glyphs", "omniglot")}
    lines = ["| | " + " | ".join(f"`{task}`" for task in tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    for algo in plan["methods"]:
        missing = ["-" if (algo, task) in refused else "not run" for task in tasks]
        words = [judged.get(f"{algo}:{task}", (none, ""))[0] for task, none in zip(tasks, missing, strict=True)]
        lines.append(f"| `{algo}` | " + " | ".join(short.get(word, word) for word in words) + " |")
    count = len(plan["methods"]) * len(tasks) - len(refused)
    told = f"{len(judged)} of {count} cells were run; of those marked *not run* nothing is claimed."
    return [*lines, "", f"{told} `protonet` needs classes (-)."]


def table(names: Iterable[str], found: dict[str, Any], judged: dict[str, tuple[str, str]]) -> list[str]:
    """The rows of some cells."""
    floors = ("mean", "neighbour", "scratch", "untrained")
    head = ["cell", "steps", "metric", "test", "median", *floors, *(f"better than {floor} by" for floor in FLOORS), ""]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in names:
        row = found[name]
        if "failed" in row:
            lines.append(f"| `{name}` | " + " | " * (len(head) - 2) + f"{judged[name][1]} |".replace("\n", " "))
            continue
        cells = [f"`{name}`", f"{row['steps']:,}", row["metric"], number(row["mean"]), number(row["median"])]
        cells += [number(row["floors"].get(floor)) for floor in floors]
        cells += [paired(row["better_by"].get(floor)) for floor in FLOORS]
        lines.append("| " + " | ".join([*cells, judged[name][1]]) + " |")
    return lines


def number(value: float | None) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else f"{value:.3g}"


def paired(found: list[Any] | None) -> str:
    """A paired difference with its interval."""
    return "-" if not found or found[0] is None else f"{found[0]:.3g} ± {found[1]:.2g}"


def hurting(found: dict[str, Any]) -> list[str]:
    """The cells whose later inner steps at test hurt."""
    names = sorted(name for name, row in found.items() if runs_away(row))
    lines = ["## More test steps that hurt", ""]
    if not names:
        return [*lines, "In no cell is the mean after the last inner step at test worse than after an earlier one.", ""]
    lines += ["Cells whose mean after the last inner step at test is over 5 % worse than after an earlier one:", ""]
    for name in names:
        path = found[name]["per_step"]
        some = sorted({0, 1, 2, 5, 10, 20, 50, len(path) - 1} & set(range(len(path))))
        lines.append(f"- `{name}`: " + ", ".join(f"{number(path[i])} after {i}" for i in some))
    return [*lines, ""]


def rules() -> list[str]:
    """How the defaults are chosen."""
    return [
        "## How the defaults were chosen",
        "",
        "By `scripts/matrix.py --cells CELL --search SETTINGS ...`, which trains with each of the settings and prints",
        "the score on validation tasks; test tasks played no part. `scratch` and `joint` choose their rates on validation",
        "tasks in every run. The rules:",
        "",
        "- **Inner rate: below the stable limit.** A gradient step is stable at rates below 2 / (largest eigenvalue of the",
        "  support loss's Hessian). For the last layer under squared error that is 1 / (largest eigenvalue of the mean of",
        "  z zᵀ), so inputs of size 5 need rates of 0.01, and logits on points around the origin take 0.2 to 1.",
        "- **As many test steps as are stable.** More inner steps at test than in training help only at rates that are",
        "  stable for every task: training with a single step does not keep the curvature down. Where the mean after the",
        "  last test step was worse than before, training takes as many steps as the test.",
        "- **Steps enough to move.** From 0.02 x 5 steps, Reptile's outer loop hardly moves where gradients are small",
        "  (cross-entropy on points): rate times steps is about 1 or more there.",
        "- **A context needs room and a rate.** CAVIA's context must be able to name the task: 5 classes in the plane",
        "  are 10 numbers.",
        "- **Neural processes see x itself,** as in the papers, beside the features of a network (`algo.skip`).",
        "- **A learned rule keeps a state per weight:** `l2l` takes few tasks at a time.",
    ]
