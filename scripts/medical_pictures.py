"""python scripts/medical_pictures.py --medmnist FOLDER --omniglot FOLDER --runs FOLDER: from characters to radiographs.

A demonstration of testing across domains: methods that were meta-trained on characters alone (Omniglot, 2-way) learn
to tell the two classes of PneumoniaMNIST and of BreastMNIST from 1, 5, 10 and 20 pictures of each, without any training
on medical pictures. Beside them stand what needs no meta-training: logistic regression, nearest neighbour and nearest
class mean on the raw pixels, and logistic regression on the features of the network that was trained on the characters.

Test episodes are those of `task=medmnist`: support pictures from the authors' training pictures, queries from their
test pictures, equally many of both classes, the same episodes for every row. The strength of logistic regression is
chosen on episodes with queries from the authors' validation pictures. Not for clinical use.

It writes scripts/results/tables/medical_pictures.json and docs/medical_pictures.md. Runs that exist are not made again.
--methods none leaves the methods out; --budget scales their outer steps.
"""

import argparse
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "scripts" / "results" / "tables" / "medical_pictures.json"


def main(words: list[str] | None = None) -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--medmnist", type=Path, help="folder with pneumoniamnist.npz and breastmnist.npz")
    p.add_argument("--omniglot", type=Path, help="folder of the Omniglot data; not needed with --methods none")
    p.add_argument("--runs", type=Path, help="folder for the runs")
    p.add_argument("--methods", help="only these methods, separated by commas")
    p.add_argument("--episodes", type=int, default=200, help="test episodes of each set and number of shots")
    p.add_argument("--budget", type=float, default=1.0, help="factor on the outer steps")
    p.add_argument("--out", type=Path, default=OUT)
    p.add_argument("--page", type=Path, default=ROOT / "docs" / "medical_pictures.md")
    p.add_argument("--render", action="store_true", help="make nothing, only write the page")
    a = p.parse_args(words)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for folder in (str(ROOT), str(ROOT / "scripts")):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    from tabling import transfer

    from metaexp.errors import MetaexpError

    only = a.methods.split(",") if a.methods else list(transfer.METHODS)
    if not a.render:
        needs = {"medmnist": a.medmnist} | ({"omniglot": a.omniglot, "runs": a.runs} if set(only) != {"none"} else {})
        if missing := [name for name, value in needs.items() if value is None]:
            p.error(f"--{missing[0]} is needed")
        a.out.parent.mkdir(parents=True, exist_ok=True)
        try:
            for found in transfer.compare(a.medmnist, a.omniglot, a.runs, only, a.episodes, a.budget):
                a.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        except MetaexpError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
    a.page.write_text(transfer.page(json.loads(a.out.read_text(encoding="utf-8"))), encoding="utf-8")
    print(f"written: {a.out}, {a.page}")


if __name__ == "__main__":
    main()
