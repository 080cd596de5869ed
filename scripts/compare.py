"""python scripts/compare.py scripts/comparisons/NAME.yaml FOLDER [--jobs 2] [--omniglot FOLDER]: a fair comparison.

Runs `python -m metaexp.train` in three rounds, every method with the same budget:
    search  every combination of a method's own settings (as many for each method), short, one seed that is used for
            nothing else; the best on VALIDATION tasks is taken. Test tasks play no part.
    tasks   the method with its best settings, every seed, the same number of training tasks for all
    time    the same with as many outer steps as fit into the same number of seconds, by the speed seen in `tasks`
            (training with logging and validation; neither the compiler nor the test)
Then it writes NAME.md (both tables with intervals, paired differences, the claims of papers), NAME.json and pictures.
Runs that are there already are not made again, so it may be interrupted. --render only writes from what is there;
--rounds search,tasks leaves out the last one.
"""

import argparse
import concurrent.futures
import fnmatch
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from metaexp.losses import larger
from metaexp.reporting.grouping import compare
from metaexp.reporting.pictures import draw
from metaexp.reporting.reading import Run, find
from metaexp.reporting.statistics import difference, over_tasks
from metaexp.reporting.tables import blocks, number
from metaexp.reporting.text import text

ROUNDS = ("search", "tasks", "time")
HERE = Path(__file__).resolve().parent
TITLES = {"tasks": "Equal numbers of training tasks", "time": "Equal training time"}


class Job(NamedTuple):
    """One run: where, what is typed, and what is changed in a second test of it."""

    folder: Path
    words: list[str]
    again: tuple[str, ...] = ()

    @property
    def result(self) -> dict[str, Any] | None:
        """What it found, if it is finished."""
        files = sorted(self.folder.glob("*/result.json"))
        return json.loads(files[-1].read_text(encoding="utf-8")) if files else None

    @property
    def failure(self) -> str:
        """Why there is no result, in a line."""
        file = self.folder / "failed.txt"
        return file.read_text(encoding="utf-8").strip() if file.exists() else ""


class Comparison:
    """What the YAML file asks for, and the runs of it under `folder`."""

    def __init__(self, file: Path, folder: Path, data: Path | None):
        self.spec = yaml.safe_load(file.read_text(encoding="utf-8"))
        self.name, self.folder = file.stem, folder.resolve()
        self.data = [f'task.root="{data.resolve()}"'] if data else []
        self.methods: dict[str, dict[str, Any]] = self.spec["methods"]
        sizes = {name: len(list(self.candidates(name))) for name in self.methods}
        uneven = {name: size for name, size in sizes.items() if size not in (1, self.spec["search"]["size"])}
        if uneven:
            raise SystemExit(f"{file}: every method has search.size candidates (or one, without a choice): {uneven}")

    def candidates(self, method: str) -> Iterator[list[str]]:
        """All combinations of the method's `search` settings."""
        grid = self.methods[method].get("search") or {}
        for values in itertools.product(*grid.values()):
            yield [f"{key}={_typed(value)}" for key, value in zip(grid, values, strict=True)]

    def steps(self, method: str, tasks: int | None) -> int:
        """Outer steps in which so many training tasks are seen; as many as the file says, where it says steps."""
        if "steps" in self.spec and tasks == self.spec.get("tasks"):
            return int(self.spec["steps"])
        assert tasks is not None
        return max(1, tasks // self.batch(method))

    def batch(self, method: str) -> int:
        """Tasks per outer step."""
        own = self.methods[method].get("meta_batch")
        return int(self.spec["meta_batch"] if own is None else own)

    def words(self, method: str, steps: int, seed: int, chosen: list[str]) -> list[str]:
        batch = self.batch(method)
        every = max(1, steps // self.spec.get("validations", 20))
        rows = [f"steps={steps}", f"meta_batch={batch}", f"seed={seed}", f"val.every={every}", f"log.every={every}"]
        rows += [f"checkpoint.every={every}", "device=cpu", "device.threads=1"]
        return [*self.spec["common"], *self.data, *self.methods[method]["settings"], *chosen, *rows]

    def search(self) -> dict[str, list[Job]]:
        """The candidates' runs."""
        given = self.spec["search"]
        made: dict[str, list[Job]] = {}
        for method in self.methods:
            steps = self.steps(method, given["tasks"])
            options = list(self.candidates(method))
            made[method] = []
            for i, chosen in enumerate(options if len(options) > 1 else []):
                words = [*self.words(method, steps, given["seed"], chosen), *given["settings"]]
                made[method].append(Job(self.folder / "search" / method / str(i), words))
        return made

    def found(self, method: str) -> list[float | None]:
        """Validation score of each candidate; None: not run, or failed."""
        results = [job.result for job in self.search()[method]]
        return [None if r is None or r["val"]["best"] is None else float(r["val"]["best"]) for r in results]

    def chosen(self, method: str) -> list[str] | None:
        """The settings of the best candidate on validation tasks; None: not searched to the end yet."""
        options = list(self.candidates(method))
        if len(options) == 1:
            return options[0]
        jobs = self.search()[method]
        if not all(job.result or job.failure for job in jobs):
            return None
        sign = 1.0 if larger(self.spec["validation"]) else -1.0
        scores = [-np.inf if score is None else sign * score for score in self.found(method)]
        return options[int(np.argmax(scores))] if max(scores) > -np.inf else None

    def trained(self, round_: str) -> dict[str, list[Job]]:
        """Every method's runs of a round, one per seed; none where what they need is not known yet."""
        made: dict[str, list[Job]] = {}
        for method in self.methods:
            chosen = self.chosen(method)
            steps = self.steps(method, self.spec.get("tasks")) if round_ == "tasks" else self._in_time(method)
            made[method] = []
            for seed in self.spec["seeds"] if chosen is not None and steps else []:
                folder = self.folder / round_ / method / str(seed)
                again = tuple(self.methods[method].get("again", ()))
                made[method].append(Job(folder, self.words(method, steps, seed, chosen), again))
        return made

    def _in_time(self, method: str) -> int:
        results = [result for job in self.trained("tasks")[method] if (result := job.result)]
        if len(results) < len(self.spec["seeds"]) or not self.spec.get("seconds"):
            return 0
        if not all(result["steps"] for result in results):  # nothing is trained
            return 0
        speed = statistics.median(result["speed"]["meta_steps_per_s"] for result in results)
        steps = int(speed * self.spec["seconds"])
        return max(20, steps - steps % 20)

    def runs(self, round_: str) -> list[Run]:
        """Finished runs of a round under the methods' names."""
        kept = []
        for method, jobs in self.trained(round_).items():
            for job in jobs:
                for run in find([job.folder]).runs if job.folder.exists() else []:
                    kept.append(run._replace(config=run.config | {"algo": method}))
        return kept


def _typed(value: Any) -> str:
    return json.dumps(value).replace(" ", "").replace('"', "") if value is not None else "null"


def work(jobs: list[Job], at_once: int, label: str) -> None:
    """Runs what is not there, some at a time, with a line for each."""
    todo = [job for job in jobs if job.result is None and not job.failure]
    begun, done = time.monotonic(), 0
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        for job in (f.result() for f in concurrent.futures.as_completed([pool.submit(_run, j) for j in todo])):
            done += 1
            left = (time.monotonic() - begun) / done * (len(todo) - done)
            result = job.result
            told = f"{result['speed']['seconds']:.0f} s" if result else job.failure
            place = "/".join(job.folder.parts[-2:])
            print(f"{label} {done}/{len(todo)} {place}: {told}; about {left / 60:.0f} min left", flush=True)


def _run(job: Job) -> Job:
    job.folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-W", "ignore", "-m", "metaexp.train", *job.words, f'out="{job.folder}"', "resume=auto"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode and job.result is None and done.returncode not in (-2, -15, 130, 143):
        line = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        (job.folder / "failed.txt").write_text(line + "\n", encoding="utf-8")
    elif job.again and job.result is not None and not list(job.folder.glob("*/evaluations/*/result.json")):
        run = next(file.parent for file in job.folder.glob("*/result.json"))
        words = [sys.executable, "-W", "ignore", "-m", "metaexp.evaluate", f"run={run}", *job.again]
        subprocess.run(words, env=environment, capture_output=True, text=True)
    return job


def claims(spec: dict[str, Any], runs: list[Run], metric: str) -> list[str]:
    """What papers claim of two methods, held against the paired difference here."""
    lines = []
    for claim in spec.get("claims") or []:
        named = claim.get("than_metric", metric)
        one, two = _scores(runs, claim["better"], metric), _scores(runs, claim["than"], named)
        than = claim["than"] if named == metric else f"the best of {claim['than']}'s {named}"
        name = f"{claim['better']} better than {than} ({claim['source']})"
        if not (one and two):
            lines.append(f"{name}: not measured")
            continue
        found = difference(np.stack(one), np.stack(two))
        if found is None or found.half is None:
            lines.append(f"{name}: no finite task in common")
            continue
        gain = found.mean if larger(metric) else -found.mean
        verdict = "holds" if gain > found.half else "the opposite" if gain < -found.half else "not shown"
        about = "algorithms" if found.crossed else "checkpoints"
        shown = f"{number(found.mean)} ± {number(found.half, 2)}"
        lines.append(f"{name}: **{verdict}**, difference {shown} ({metric}, {about}, {found.tasks} tasks)")
    return lines


def _scores(runs: list[Run], method: str, pattern: str) -> list[np.ndarray]:
    """A method's scores after the last step, [tasks] per seed; of several metrics each seed's best."""
    found = []
    for run in runs:
        if run.config["algo"] == method:
            kept = [values[:, -1] for name, values in run.scores.items() if fnmatch.fnmatchcase(name, pattern)]
            sign = -1.0 if larger(pattern) else 1.0
            found += sorted(kept, key=lambda values: sign * float(np.nan_to_num(values, nan=np.inf).mean()))[:1]
    return found


def render(c: Comparison, out: Path, command: str) -> None:
    """NAME.md, NAME.json and the pictures."""
    spec, lines = c.spec, [f"# {c.spec['title']}", ""]
    lines += [f"`{command}`, {date.today()}, two runs at a time with a thread each.", "", spec["about"].strip(), ""]
    record: dict[str, Any] = {"title": spec["title"], "command": command, "date": str(date.today()), "search": {}}
    for round_, title in TITLES.items():
        runs = c.runs(round_)
        if not runs:
            continue
        compared = compare(runs, ["algo"])
        tables = blocks(compared, False, spec["metrics"])
        seen = f"{spec['tasks']:,} tasks each" if "tasks" in spec else f"{spec['steps']:,} outer steps each"
        said = seen if round_ == "tasks" else f"{spec['seconds']:,} s each"
        lines += [f"## {title}: {said}", ""]
        places = [job.folder for jobs in c.trained(round_).values() for job in jobs if job.folder.exists()]
        lines += [
            text(tables, compared, find(places), markdown=True)
            .replace(f"{c.folder}/", "")
            .replace("## ", "### ")
            .strip(),
            "",
        ]
        if told := claims(spec, runs, spec["metrics"][0]):
            lines += ["Claims of the papers:", "", *(f"- {line}" for line in told), ""]
        record[round_] = [_entry(run) for run in runs]
        record["versions"] = runs[0].result["versions"]
        for name, png in draw(tables):
            picture = f"{c.name}_{round_}_{name}"
            (out / picture).write_bytes(png)
            lines += [f"![{picture}]({picture})", ""]
    lines += ["## Search", "", f"{spec['search']['tasks']:,} training tasks, seed {spec['search']['seed']}; "]
    lines[-1] += f"{spec['validation']} on validation tasks (the best validation of the run). Bold: taken."
    lines += ["", "| method | settings | searched |", "| --- | --- | --- |"]
    jobs = c.search()
    for method, own in c.methods.items():
        best, cells = c.chosen(method), []
        scores, made = c.found(method) or [None], jobs[method] or [None]
        for chosen, score, job in zip(c.candidates(method), scores, made, strict=True):
            told = "failed" if job and job.failure else number(score)
            cell = f"{' '.join(chosen) or '-'}: {told}" if job else " ".join(chosen) or "-"
            cells.append(f"**{cell}**" if job and chosen == best else cell)
        lines.append(f"| {method} | `{' '.join(own['settings'])}` | {'; '.join(cells)} |")
        record["search"][method] = {"scores": c.found(method), "chosen": best, "settings": own["settings"]}
    every = [jobs, *map(c.trained, TITLES)]
    bad = [job for part in every for given in part.values() for job in given if job.failure]
    failed = [f"{'/'.join(job.folder.parts[-3:])}: {job.failure}" for job in bad]
    lines += ["", *(f"- failed: {line}" for line in failed)]
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{c.name}.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    (out / f"{c.name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {out / c.name}.md, .json")


def _entry(run: Run) -> dict[str, Any]:
    kept = {key: run.result.get(key) for key in ("seed", "steps", "parameters", "adapted_parameters", "commit")}
    kept |= {"method": run.config["algo"], "seconds": run.result["speed"].get("seconds")}
    kept |= {"weights": run.result["weights"], "peak_mb": run.result["memory"].get("peak_mb")}
    kept["query_sha256"] = run.result["protocol"].get("query_sha256")
    for metric, values in run.scores.items():
        if not metric.startswith("floor_"):
            kept[metric] = over_tasks(values[:, -1])._asdict()
    return kept


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("file", type=Path)
    p.add_argument("folder", type=Path, help="where the runs are, or shall be")
    p.add_argument("--jobs", type=int, default=2, help="runs at a time")
    p.add_argument("--omniglot", type=Path, help="folder of the Omniglot data")
    p.add_argument("--rounds", default=",".join(ROUNDS))
    p.add_argument("--render", action="store_true", help="run nothing, only write from what is there")
    p.add_argument("--out", type=Path, default=HERE / "results")
    a = p.parse_args()
    c = Comparison(a.file, a.folder, a.omniglot)
    rounds = [] if a.render else a.rounds.split(",")
    if "search" in rounds:
        work([job for jobs in c.search().values() for job in jobs], a.jobs, "search")
    for round_ in ("tasks", "time"):
        if round_ in rounds:
            jobs = c.trained(round_)
            work([job for place in zip(*filter(None, jobs.values()), strict=True) for job in place], a.jobs, round_)
    data = " --omniglot FOLDER" if a.omniglot else ""
    render(c, a.out, f"python scripts/compare.py scripts/comparisons/{a.file.name} FOLDER --jobs {a.jobs}{data}")


if __name__ == "__main__":
    main()
