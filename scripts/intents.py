"""CLINC150 and BANKING77 as one file of sentences with the published class splits, for comparisons of few-shot methods.

    python scripts/intents.py DATA FOLDER

DATA holds the authors' files: clinc150/data_full.json and domains.json (github.com/clinc/oos-eval), banking77/train.csv
and test.csv (github.com/PolyAI-LDN/task-specific-datasets), and for both fewshot_class_splits.json, the class lists of
github.com/tdopierre/ProtAugment put together as {"01": {"train": [...], "valid": [...], "test": [...]}, ...}.

FOLDER gets `intents.jsonl`, 35,583 sentences whose labels name their data set (both have an intent exchange_rate), and
`folds.json`: clinc-01 ... clinc-05, banking-01 ... banking-05, and cross: six domains of CLINC150 for training, Travel
and Kitchen & dining for validation, all of BANKING77 for testing, no sentence from Banking and Credit cards
("Fine-tuning Pre-trained Language Models for Few-shot Intent Detection", Zhang and others, 2022, section 5).
"""

import csv
import json
import sys
from pathlib import Path
from typing import Any

VALIDATION, LEFT_OUT = ("travel", "kitchen_and_dining"), ("banking", "credit_cards")
SPLITS = ("train", "val", "test")


def prepare(data: Path, folder: Path) -> None:
    """Writes both files. Raises OSError for a missing file, ValueError where numbers differ from the papers'."""
    clinc, banking = data / "clinc150", data / "banking77"
    full = _json(clinc / "data_full.json")
    rows = [(text, f"clinc/{label}") for part in ("train", "val", "test") for text, label in full[part]]
    for name in ("train.csv", "test.csv"):
        with open(banking / name, encoding="utf-8", newline="") as file:
            rows += [(row["text"], f"banking/{row['category']}") for row in csv.DictReader(file)]
    labels = sorted({label for _, label in rows})
    if (len(rows), len(labels)) != (35_583, 227):
        raise ValueError(f"{len(rows)} sentences of {len(labels)} intents; the papers have 35,583 of 227")
    folds = {f"clinc-{name}": split for name, split in _folds(clinc, "clinc").items()}
    folds |= {f"banking-{name}": split for name, split in _folds(banking, "banking").items()}
    domains = {
        name.lower().replace(" & ", "_and_").replace(" ", "_"): [f"clinc/{label}" for label in members]
        for name, members in _json(clinc / "domains.json").items()
    }
    if missing := set(VALIDATION + LEFT_OUT) - set(domains):
        raise ValueError(f"domains.json has no {', '.join(sorted(missing))}; it has {', '.join(domains)}")
    training = [name for name in domains if name not in VALIDATION + LEFT_OUT]
    folds["cross"] = {
        "train": [label for name in training for label in domains[name]],
        "val": [label for name in VALIDATION for label in domains[name]],
        "test": [label for label in labels if label.startswith("banking/")],
    }
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n" for text, label in rows]
    (folder / "intents.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "folds.json").write_text(json.dumps(folds, indent=1), encoding="utf-8")


def _folds(folder: Path, name: str) -> dict[str, dict[str, list[str]]]:
    folds = _json(folder / "fewshot_class_splits.json")
    return {
        fold: {split: [f"{name}/{label}" for label in lists["valid" if split == "val" else split]] for split in SPLITS}
        for fold, lists in folds.items()
    }


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python scripts/intents.py DATA FOLDER")
    prepare(Path(sys.argv[1]), Path(sys.argv[2]))
