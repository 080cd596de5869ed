"""python scripts/tables.py STUDY... --runs FOLDER [--data FOLDER]: meta-learning on tables beside strong baselines.

Studies (their data, budgets and settings stand in scripts/tables.yaml and scripts/tabling/studies.py):
    openml_random_forest, openml_adaboost, radon, gapminder, gapminder_forecast   from --data, the folder that holds
                                                                                  openml_hpo, radon and gapminder
    movielens   from --movielens, the folder of MovieLens-100k (u.data, or RecBole's ml-100k.inter)
    hospitals   from --medpar, a CSV file of the table `medpar` of the R package COUNT

For each study, and each fold of its tasks, every method has the same number of candidates, which are trained for the
same number of outer steps and judged on validation tasks; the best one is trained with every seed. Baselines choose
their settings on the same validation tasks. Then all of them predict the same queries of the same test tasks from the
same support rows. Test tasks play no part in any choice.

It writes NAME.json into --out (scripts/results/tables) and the page docs/tables_compared.md, made of all studies that
are in --out. Runs that exist are not made again, so it may be interrupted and called again. --render only writes the
page; --budget scales the outer steps.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "scripts" / "results" / "tables"


def main(words: list[str] | None = None) -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("studies", nargs="*", metavar="STUDY")
    p.add_argument("--runs", type=Path, help="folder for the runs")
    p.add_argument("--data", type=Path, help="folder that holds openml_hpo, radon and gapminder")
    p.add_argument("--movielens", type=Path, help="folder of MovieLens-100k")
    p.add_argument("--medpar", type=Path, help="CSV file of medpar")
    p.add_argument("--plan", type=Path, default=ROOT / "scripts" / "tables.yaml")
    p.add_argument("--budget", type=float, default=1.0, help="factor on the outer steps")
    p.add_argument("--methods", help="only these methods, separated by commas")
    p.add_argument("--out", type=Path, default=RESULTS)
    p.add_argument("--page", type=Path, default=ROOT / "docs" / "tables_compared.md")
    p.add_argument("--render", action="store_true", help="make nothing, only write the page from what exists")
    a = p.parse_args(words)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for folder in (str(ROOT), str(ROOT / "scripts")):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    plan = yaml.safe_load(a.plan.read_text(encoding="utf-8"))
    if unknown := [name for name in a.studies if name not in plan["studies"]]:
        p.error(f"{unknown[0]}: no study; there are {', '.join(plan['studies'])}")
    if a.studies and not a.render:
        _make(p, a, plan)
    from tabling.page import page

    found = {name: _read(file) for name in plan["studies"] if (file := a.out / f"{name}.json").exists()}
    a.page.write_text(page(plan, found), encoding="utf-8")
    print(f"written: {a.page}")


def _make(p: argparse.ArgumentParser, a: argparse.Namespace, plan: dict) -> None:
    from tabling.comparing import compare

    from metaexp.errors import MetaexpError

    needs = {name: plan["studies"][name].get("needs", "data") for name in a.studies}
    for name, need in needs.items():
        if a.runs is None or getattr(a, need) is None:
            p.error(f"{name} needs --runs and --{need}")
    places = {need: Path(getattr(a, need)) for need in ("data", "movielens", "medpar") if getattr(a, need)}
    a.out.mkdir(parents=True, exist_ok=True)
    for name in a.studies:
        command = f"python scripts/tables.py {name} --runs FOLDER --{needs[name]} PLACE"
        command += f" --budget {a.budget}" if a.budget != 1 else ""
        only = a.methods.split(",") if a.methods else None
        file = a.out / f"{name}.json"
        try:
            for found in compare(name, plan, places, a.runs.resolve() / name, a.budget, only):
                text = json.dumps(found | {"command": command}, indent=1)
                file.write_text(text + "\n", encoding="utf-8")
        except MetaexpError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        print(f"written: {file}", flush=True)


def _read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
