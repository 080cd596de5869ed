"""Digests of a fixed set of short runs: two versions of the code that print the same lines compute the same bits.

    python scripts/digests.py                                  # the whole set; Omniglot is left out without its data
    python scripts/digests.py --omniglot FOLDER --out A.txt    # with it; then: diff A.txt B.txt

Each line is a run and three digests: of the weights and optimiser states of its last checkpoint, of the test scores,
and of the rows of metrics.jsonl without times. Runs are real processes of one thread on the CPU. Compiled runs are made
twice, with an empty and with a filled compiler cache; the resumed run is stopped half-way and continued in its folder.
Compare digests of one machine, one version of torch and one number of threads only. About six minutes of a core.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten_with_path

ROOT = Path(__file__).resolve().parent.parent
COMMON = ["device=cpu", "device.threads=1", "val.tasks=40", "test.tasks=100", "test.curve_tasks=20"]
SHORT = ["steps=60", "val.every=20", "log.every=10", "checkpoint.every=20"]
SINE = ["maml", "fomaml", "reptile", "anil", "metasgd", "cavia", "imaml", "r2d2", "cnp", "hypernet", "incontext"]
COMPILED = ["maml", "reptile", "r2d2", "cnp"]
TIMES = ("seconds", "meta_steps_per_s", "outer_steps_per_s")  # parts of keys whose values are times


def runs(omniglot: Path | None) -> dict[str, list[str]]:
    """The command line of each eager run, by the run's name."""
    made = {f"sine {algo}": [f"algo={algo}", "task=sine", *SHORT, "compile=false"] for algo in SINE}
    small = ["steps=6", "val.every=3", "log.every=2", "checkpoint.every=3", "meta_batch=4", "compile=false"]
    made["sine l2l"] = ["algo=l2l", "task=sine", "val.tasks=5", "test.tasks=10", "test.curve_tasks=5", *small]
    made["sine mother"] = ["algo=mother", "task=sine", *SHORT, "compile=false"]
    made["sine joint"] = ["algo=joint", "task=sine", *SHORT, "compile=false"]
    made["clusters protonet"] = ["algo=protonet", "task=clusters", *SHORT, "compile=false"]
    if omniglot is not None:
        tests = ["val.tasks=5", "test.tasks=10", "test.curve_tasks=5", "algo.inner_steps=5", f"task.root={omniglot}"]
        made["omniglot maml 5"] = ["algo=maml", "task=omniglot", *tests, *small]
    return made


def train(arguments: list[str], out: Path, stop_at: int | None = None, **env: str) -> Path:
    """Run one command in `out`; returns the run's folder. SIGTERM stops it once its metrics reach step `stop_at`."""
    before = set(out.glob("*/config.yaml"))
    process = subprocess.Popen(
        [sys.executable, "-m", "metaexp.train", *arguments, f"out={out}"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if stop_at is not None:
        while process.poll() is None and not any(_rows(path) >= stop_at for path in out.glob("*/metrics.jsonl")):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
    text, _ = process.communicate()
    if process.returncode not in ((0,) if stop_at is None else (0, 143)):
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}:\n{text[-3000:]}")
    made = set(out.glob("*/config.yaml")) - before or before
    return max(made, key=lambda path: path.stat().st_mtime).parent


def _rows(path: Path) -> int:
    """The largest step in a metrics.jsonl."""
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines() if line.endswith("}")]
    return max(steps, default=0)


def digest(value: Any) -> str:
    """The first 16 hex digits of a SHA-256 over a tree of tensors, arrays and plain values, by sorted paths."""
    leaves = {"".join(map(str, path)): leaf for path, leaf in tree_flatten_with_path(value)[0]}
    total = hashlib.sha256()
    for path in sorted(leaves):
        leaf = leaves[path]
        if isinstance(leaf, torch.Tensor):
            leaf = leaf.detach().cpu().contiguous().numpy()
        if isinstance(leaf, np.ndarray):
            total.update(f"{path} {leaf.dtype} {leaf.shape}".encode() + leaf.tobytes())
        else:
            total.update(f"{path} {leaf!r}".encode())
    return total.hexdigest()[:16]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if not any(word in key for word in TIMES)}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def digests(folder: Path) -> str:
    """The three digests of a finished run."""
    last = max((folder / "checkpoints").glob("step=*.ckpt"), key=lambda path: path.name)
    checkpoint = torch.load(last, weights_only=True)
    states = [state["state"] for state in checkpoint["optimizer_states"]]
    with np.load(folder / "test_scores.npz") as arrays:
        scores = {name: arrays[name] for name in arrays.files}
    rows = [_timeless(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    weights = digest({"weights": dict(checkpoint["state_dict"]), "optimiser": states})
    return f"weights {weights}  scores {digest(scores)}  metrics {digest(rows)}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--omniglot", type=Path, help="folder of the Omniglot data")
    parser.add_argument("--only", default="", help="names that contain this word")
    parser.add_argument("--out", type=Path, help="also write the lines to this file")
    given = parser.parse_args()
    lines: list[str] = []

    def tell(name: str, folder: Path) -> None:
        lines.append(f"{name:24s} {digests(folder)}")
        print(lines[-1], flush=True)

    with tempfile.TemporaryDirectory() as place:
        cache = {"TORCHINDUCTOR_CACHE_DIR": str(Path(place) / "cache")}
        for number, (name, arguments) in enumerate(runs(given.omniglot and given.omniglot.resolve()).items()):
            if given.only in name:
                tell(name, train([*arguments, *COMMON], Path(place) / str(number)))
        for algo in COMPILED:
            arguments = [f"algo={algo}", "task=sine", *SHORT, "compile=true", *COMMON]
            for state in ("cold", "warm"):
                name = f"sine {algo} compiled {state}"
                if given.only in name:
                    tell(name, train(arguments, Path(place) / f"{algo}_{state}", **cache))
        for compiled in ("false", "true"):
            name = f"sine maml resumed{' compiled' if compiled == 'true' else ''}"
            if given.only not in name:
                continue
            arguments = ["algo=maml", "task=sine", "steps=2000", "val.every=500", "log.every=100", *COMMON]
            out = Path(place) / f"resumed_{compiled}"
            first = train([*arguments, f"compile={compiled}"], out, 300, **cache)
            tell(name, train([f"resume={first}"], out, **cache))
    if given.out:
        given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
