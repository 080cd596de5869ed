"""Whether a mother is worth her size on sinusoids and lines: python scripts/mother_comparison.py FOLDER [steps=10000]

Trains, with as many parameters each (6,297 to 6,903), on the same tasks and with seeds 0, 1, 2: the mother of three
children, MAML with one larger network, and an ensemble of three MAMLs with equal weights; rates and numbers of steps
are the best on validation tasks. Prints the mean mse over test tasks with its 95 % interval (of the means over seeds),
every seed's, and the paired difference to the mother. "her best child" is, for each seed, that child of the mother
that does best alone on the test tasks. Runs that are there already are not made again.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

SEEDS = (0, 1, 2)
COMMON = ["task=sine_line", "clip.norm=10", "compile=true", "device=cpu", "val.every=2500", "test.tasks=1000"]
COMMON += ["algo.test_lr=0.005", "algo.test_steps=50"]
MAML = ["algo.inner_lr=0.005", "algo.inner_steps=5"]
METHODS = {
    "mother": ["algo=mother", "model.hidden=[40,40]"],
    "MAML": ["algo=maml", "model.hidden=[80,80]", *MAML],
    "3 MAMLs, equal weights": [
        "algo=mother",
        "model.hidden=[46,46]",
        "algo.weights=uniform",
        "algo.competition=1",
        *MAML,
    ],
}


def run(folder: Path, settings: list[str]) -> Path:
    """The folder of the run with these settings, made if it is not there."""
    if not list(folder.glob("*/result.json")):
        command = [sys.executable, "-m", "metaexp.train", *COMMON, *settings, f"out={folder}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*/result.json")).parent


def interval(values: np.ndarray) -> str:
    return f"{values.mean():.3f} +- {1.96 * values.std(ddof=1) / np.sqrt(len(values)):.3f}"


def main(out: str, *settings: str) -> None:
    """Runs, then the table."""
    scores: dict[str, list[np.ndarray]] = {}
    sizes: dict[str, int] = {}
    for name, own in METHODS.items():
        for seed in SEEDS:
            made = run(
                Path(out) / name.replace(" ", "_").replace(",", "") / str(seed), [*own, *settings, f"seed={seed}"]
            )
            result = json.loads((made / "result.json").read_text())
            arrays = np.load(made / "test_scores.npz")
            sizes[name] = result["parameters"]
            scores.setdefault(name, []).append(arrays["mse"][:, -1])
            if name == "mother":
                children = [arrays[key][:, -1] for key in arrays if key.startswith("child_")]
                scores.setdefault("mother, top1", []).append(arrays["top1_mse"][:, -1])
                scores.setdefault("her best child", []).append(min(children, key=lambda values: float(values.mean())))
                scores.setdefault("her children, equal weights", []).append(arrays["uniform_mse"][:, -1])
    mother = np.mean(scores["mother"], 0)
    for name, found in scores.items():
        mean = np.mean(found, 0)  # [tasks]
        seeds = ", ".join(f"{values.mean():.3f}" for values in found)
        difference = "" if name == "mother" else f"; minus mother {interval(mean - mother)}"
        print(f"{name} ({sizes.get(name, '-')} parameters): {interval(mean)} (seeds {seeds}){difference}")


if __name__ == "__main__":
    main(*sys.argv[1:])
