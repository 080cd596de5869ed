"""The page of scripts/text_table.py: accuracies with intervals, differences on the same episodes, published numbers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SHOTS = (1, 2, 5, 10)
FROZEN, TRAINED = ("prototypes", "logistic"), ("protonet", "r2d2", "maml", "joint")
OTHERS = ("neighbour", "scratch")
ENCODERS = {"sentence": "all-MiniLM-L6-v2 (384 dimensions)", "ngrams": "hashed n-grams (1,024 dimensions)"}
GROUPS = {
    "cross": "From CLINC150 to BANKING77",
    "clinc": "CLINC150, published splits",
    "banking": "BANKING77, published splits",
}
PUBLISHED = """Published on this protocol (Zhang and others 2022, tables 5 and 6; logistic regression on frozen states
of a network of that pretraining; no intervals where none is printed there):

| | 2 shots | 10 shots |
|---|---|---|
| BERT, frozen | 57.10 | 84.30 |
| TOD-BERT | 77.70 | 89.40 |
| CPFT | 72.09 | 89.82 |
| IntentBERT | 82.40 | 91.80 |
| CL + Cor-Reg, BERT | 85.21 ± 0.58 | 94.68 ± 0.01 |
| CL + Cor-Reg, RoBERTa | 87.96 ± 0.31 | 95.85 ± 0.02 |

Those networks are pretrained on other data than the sentence encoder here, which has seen a billion pairs of sentences.
A row above that is better than theirs owes it to the encoder: it is no win of meta-learning.
"""


class Cell:
    """Accuracies of one method on one group: per fold, [shots, tasks]."""

    def __init__(self, folds: Sequence[np.ndarray]):
        self.folds = [np.asarray(fold, np.float64) for fold in folds]

    def mean(self) -> np.ndarray:
        """[shots], the mean over folds of the means over tasks."""
        return np.mean([fold.mean(1) for fold in self.folds], axis=0)

    def half(self) -> np.ndarray:
        """[shots], 1.96 standard errors of that mean over the tasks of all folds."""
        parts = [fold.var(1, ddof=1) / fold.shape[1] for fold in self.folds]
        return 1.96 * np.sqrt(np.sum(parts, axis=0)) / len(parts)

    def __sub__(self, other: "Cell") -> "Cell":
        return Cell([one - two for one, two in zip(self.folds, other.folds, strict=True)])


def write(scores: Path, out: Path) -> None:
    """Writes text.md and text.json from the parts that are there."""
    found = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(scores.glob("*.json"))}
    summary: dict[str, Any] = {"groups": {}}
    sections, heads = [], []
    for group, title in GROUPS.items():
        for encoder, name in ENCODERS.items():
            cells, folds = _cells(found, group, encoder)
            if not all(method in cells for method in FROZEN):
                continue
            text, head, numbers = _section(cells, folds, f"{title}: {name}", found, group, encoder)
            sections.append(text)
            summary["groups"][f"{group}:{encoder}"] = numbers
            if head:
                heads.append(f"- {title}, {name}: {head}")
        if group == "cross" and sections:
            sections.append(PUBLISHED)
    about = next(iter(found.values()))["about"] if found else {}
    dates = sorted({part["about"]["date"] for part in found.values()})
    summary |= {"about": about, "dates": dates, "parts": sorted(found)}
    summary["doubts"] = {name: part["doubt"] for name, part in found.items() if part.get("doubt")}
    out.mkdir(parents=True, exist_ok=True)
    (out / "text.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    (out / "text.md").write_text(_page(heads, sections, summary), encoding="utf-8")
    print(f"written: {out / 'text.md'}, text.json, from {len(found)} parts")


def _cells(found: dict[str, Any], group: str, encoder: str) -> tuple[dict[str, Cell], list[str]]:
    """Method -> its accuracies, on the folds that all methods have that have any."""
    folds = sorted({name.split("_")[0] for name in found if name.split("_")[0].split("-")[0] == group})
    folds = [fold for fold in folds if all(f"{fold}_{encoder}_{method}" in found for method in FROZEN)]
    cells = {}
    for method in (*FROZEN, *TRAINED, "scratch"):
        names = [f"{fold}_{encoder}_{method}" for fold in folds]
        if names and all(name in found for name in names):
            cells[method] = Cell([found[name]["accuracy"] for name in names])
    runs = [next((f"{fold}_{encoder}_{m}" for m in TRAINED if f"{fold}_{encoder}_{m}" in found), "") for fold in folds]
    if runs and all(runs):
        cells["neighbour"] = Cell([found[name]["neighbour"] for name in runs])
    return cells, folds


def _section(
    cells: dict[str, Cell], folds: list[str], title: str, found: dict[str, Any], group: str, encoder: str
) -> tuple[str, str, dict[str, Any]]:
    """The text, the headline and the numbers of one group with one encoder."""
    shown = [method for method in (*FROZEN, *OTHERS, *TRAINED) if method in cells]
    lines = [f"## {title}", "", f"Folds: {', '.join(folds)}.", "", _row("", [_shots(k) for k in SHOTS])]
    lines.append("|---" * (len(SHOTS) + 1) + "|")
    numbers: dict[str, Any] = {"folds": folds, "accuracy": {}, "difference": {}}
    for method in shown:
        mean, half = 100 * cells[method].mean(), 100 * cells[method].half()
        lines.append(_row(f"`{method}`", [f"{m:.2f} ± {h:.2f}" for m, h in zip(mean, half, strict=True)]))
        numbers["accuracy"][method] = [
            [round(float(m), 3), round(float(h), 3)] for m, h in zip(mean, half, strict=True)
        ]
    trained = [method for method in TRAINED if method in cells]
    if not trained:
        return "\n".join(lines) + "\n", "", numbers
    best = [max(FROZEN, key=lambda method, k=k: cells[method].mean()[k]) for k in range(len(SHOTS))]
    lines += ["", "Difference to the better of `prototypes` and `logistic`, on the same episodes:", ""]
    lines += [_row("", [f"{_shots(k)} (`{name}`)" for k, name in zip(SHOTS, best, strict=True)])]
    lines.append("|---" * (len(SHOTS) + 1) + "|")
    zero = [m for m in trained if any(found[f"{fold}_{encoder}_{m}"]["weights"]["step"] == 0 for fold in folds)]
    wins: dict[int, list[str]] = {k: [] for k in SHOTS}
    losses: dict[int, list[str]] = {k: [] for k in SHOTS}
    for method in trained:
        row = []
        for place, k in enumerate(SHOTS):
            gap = cells[method] - cells[best[place]]
            mean, half = 100 * float(gap.mean()[place]), 100 * float(gap.half()[place])
            row.append([round(mean, 3), round(half, 3)])
            if mean - half > 0 and method not in zero:  # with the weights of step 0 nothing was meta-trained
                wins[k].append(method)
            if mean + half < 0:
                losses[k].append(method)
        numbers["difference"][method] = row
        lines.append(_row(f"`{method}`", [f"{m:+.2f} ± {h:.2f}" for m, h in row]))
    if zero:
        lines += ["", f"The weights of step 0 were the best on validation classes in runs of: {', '.join(zero)}."]
    return "\n".join(lines) + "\n", _headline(wins, losses), numbers


def _headline(wins: dict[int, list[str]], losses: dict[int, list[str]]) -> str:
    parts = []
    for k in SHOTS:
        if wins[k]:
            parts.append(f"helps at {_shots(k)} ({', '.join(wins[k])})")
        else:
            worse = f"; worse: {', '.join(losses[k])}" if losses[k] else ""
            parts.append(f"does not help at {_shots(k)}{worse}")
    return "meta-training " + ", ".join(parts) + "."


def _shots(k: int) -> str:
    return f"{k} shot{'s' * (k > 1)}"


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def _page(heads: list[str], sections: list[str], summary: dict[str, Any]) -> str:
    about = summary["about"]
    versions = ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items())
    machine = about.get("machine", {})
    return "\n".join(
        [
            "# Few-shot intents: frozen vectors and meta-training on them",
            "",
            "Accuracy in percent, 5-way, 600 test episodes with 5 queries per class, the same for every row; ± is a "
            "95 % interval over episodes. One seed. Helps means: better than the better of nearest class means and "
            "logistic regression on the frozen vectors, by the paired interval, with weights of another step than 0. "
            "The intervals are those of single comparisons: with four methods at four numbers of shots, one of them "
            "may lie above zero by chance.",
            "",
            *heads,
            "",
            "Rates and steps were found on the validation classes of the first protocol alone (Travel, Kitchen & "
            "dining). Protonet, r2d2 and maml train on episodes, joint on pooled examples; each was trained once and "
            "tested at all shots. The C of `logistic` is the best of 1, 10, 100 on validation episodes.",
            "",
            *sections,
            f"Made by `python scripts/text_table.py DATA FOLDER` ({', '.join(summary['dates'])}; {versions}; "
            f"{machine.get('cpu') or machine}; one thread). Numbers with the settings of every run: text.json.",
            "",
        ]
    )
