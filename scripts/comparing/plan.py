"""What a comparison consists of: methods, candidates, budgets, and the runs that they need."""

import concurrent.futures
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from metaexp.errors import ConfigError, NonFiniteError
from metaexp.metric_names import near, recorded_direction
from metaexp.report.reading import Run, find

ROOT = Path(__file__).resolve().parent.parent.parent
TRAINED = ("tasks", "time")  # rounds whose runs are compared


class Job(NamedTuple):
    """One run: its folder, its command line, and the changes for a second test of it."""

    folder: Path
    words: list[str]
    again: tuple[str, ...] = ()

    @property
    def result(self) -> dict[str, Any] | None:
        """Its result, if it is finished."""
        files = sorted(self.folder.glob("*/result.json"))
        return json.loads(files[-1].read_text(encoding="utf-8")) if files else None

    @property
    def done(self) -> bool:
        """Whether nothing is left to do: it failed, or its result and that of a requested second test exist."""
        tested = not self.again or any(self.folder.glob("*/evaluations/*/result.json"))
        return bool(self.failure) or (self.result is not None and tested)

    def check(self) -> None:
        """Exits with a line if the folder holds a run made with another command line: the file has changed since."""
        for name, words in (("asked.json", self.words), ("again.json", self.again)):
            if (file := self.folder / name).exists():
                before, now = set(json.loads(file.read_text(encoding="utf-8"))), set(words)
                changed = sorted(word for word in before ^ now if not word.startswith("task.root="))
                if changed:
                    raise SystemExit(f"{self.folder}: made with other settings ({' '.join(changed)}); move it away")

    @property
    def failure(self) -> str:
        """Why there is no result, in one line."""
        file = self.folder / "failed.txt"
        return file.read_text(encoding="utf-8").strip() if file.exists() else ""


class Comparison:
    """The comparison that a YAML file describes, and its runs under `folder`."""

    def __init__(self, file: Path, folder: Path, data: Path | None):
        self.spec = yaml.safe_load(file.read_text(encoding="utf-8"))
        self.name, self.folder = file.stem, folder.resolve()
        self.data = [f'task.root="{data.resolve()}"'] if data else []
        self.methods: dict[str, dict[str, Any]] = self.spec["methods"]
        self._read: dict[tuple[str, bool], list[Run]] = {}
        sizes = {name: len(list(self.candidates(name))) for name in self.methods}
        uneven = {name: size for name, size in sizes.items() if size not in (1, self.spec["search"]["size"])}
        if uneven:
            raise SystemExit(f"{file}: every method has search.size candidates (or one, without a choice): {uneven}")

    def candidates(self, method: str) -> Iterator[list[str]]:
        """All combinations of the method's `search` settings."""
        grid = self.methods[method].get("search") or {}
        for values in itertools.product(*grid.values()):
            yield [f"{key}={_typed(value)}" for key, value in zip(grid, values, strict=True)]

    def steps(self, method: str, budget: dict[str, Any]) -> int:
        """Number of outer steps: that of `budget`, or the number that uses up its training tasks."""
        return int(budget["steps"]) if "steps" in budget else max(1, budget["tasks"] // self.batch(method))

    def batch(self, method: str) -> int:
        """Tasks per outer step."""
        own = self.methods[method].get("meta_batch")
        return int(self.spec["meta_batch"] if own is None else own)

    def otherwise(self, round_: str) -> dict[str, Any]:
        """Settings that differ in the round at equal time: `time: {validations: 2, again: false}`."""
        return self.spec.get("time") or {} if round_ == "time" else {}

    def words(self, method: str, steps: int, seed: int, chosen: list[str], round_: str = "") -> list[str]:
        batch = self.batch(method)
        own = self.otherwise(round_)
        every = max(1, steps // own.get("validations", self.spec.get("validations", 20)))
        rows = [f"steps={steps}", f"meta_batch={batch}", f"seed={seed}", f"val.every={every}", f"log.every={every}"]
        rows += [f"checkpoint.every={every}", "device=cpu", "device.threads=1"]
        return [*self.spec["common"], *self.data, *self.methods[method]["settings"], *chosen, *rows]

    def search(self) -> dict[str, list[Job]]:
        """The candidates' runs."""
        given = self.spec["search"]
        made: dict[str, list[Job]] = {}
        for method in self.methods:
            steps = self.steps(method, given)
            options = list(self.candidates(method))
            made[method] = []
            for i, chosen in enumerate(options if len(options) > 1 else []):
                words = [*self.words(method, steps, given["seed"], chosen), *given["settings"]]
                made[method].append(Job(self.folder / "search" / method / str(i), words))
        return made

    def found(self, method: str) -> list[float | None]:
        """Validation score of each candidate; None: not run, or failed."""
        jobs = self.search()[method]
        for job in jobs:  # otherwise scores of an older grid would appear under the names of this one
            job.check()
        results = [job.result for job in jobs]
        return [None if r is None or r["val"]["best"] is None else float(r["val"]["best"]) for r in results]

    def judged(self, method: str) -> str:
        """The metric by which a method's candidates are judged: the one that selects its best weights."""
        return next((str(result["val"]["metric"]) for job in self.search()[method] if (result := job.result)), "")

    def direction(self, method: str) -> bool | None:
        """Whether larger values of the metric that judges candidates are better, according to their results."""
        name, results = self.judged(method), [result for job in self.search()[method] if (result := job.result)]
        known, larger = recorded_direction(name, [found for r in results if (found := near(r["test"], name))])
        if results and not known:
            raise SystemExit(f"{name}: the results do not say whether a larger value is better")
        return larger

    def chosen(self, method: str) -> list[str] | None:
        """The settings of the best candidate on validation tasks; None: the search is not complete yet."""
        options = list(self.candidates(method))
        if len(options) == 1:
            return options[0]
        jobs = self.search()[method]
        if not all(job.result or job.failure for job in jobs):
            return None
        sign = -1.0 if self.direction(method) is False else 1.0
        scores = [-np.inf if score is None else sign * score for score in self.found(method)]
        return options[int(np.argmax(scores))] if max(scores) > -np.inf else None

    def trained(self, round_: str) -> dict[str, list[Job]]:
        """Every method's runs of a round, one per seed; none while something that they need is unknown."""
        made: dict[str, list[Job]] = {}
        for method in self.methods:
            chosen = self.chosen(method)
            steps = self.steps(method, self.spec) if round_ == "tasks" else self._in_time(method)
            made[method] = []
            for seed in self.spec["seeds"] if chosen is not None and steps else []:
                folder = self.folder / round_ / method / str(seed)
                tested = self.otherwise(round_).get("again", True)
                again = tuple(self.methods[method].get("again", ())) if tested else ()
                words = self.words(method, steps, seed, chosen, round_)
                if round_ == "time" and self._compiled(method):
                    words.append("compile=true")  # the budget assumes compiled speed, however few the steps
                made[method].append(Job(folder, words, again))
        return made

    def stepping(self, method: str) -> list[float]:
        """Seconds that the outer steps of the method's runs at equal time took, from the speed measured in them."""
        results = [result for job in self.trained("time")[method] if (result := job.result)]
        return [r["steps"] / r["speed"]["meta_steps_per_s"] for r in results if r["speed"]["meta_steps_per_s"]]

    def _found(self, method: str) -> list[dict[str, Any]]:
        return [result for job in self.trained("tasks")[method] if (result := job.result)]

    def _compiled(self, method: str) -> bool:
        return all(result["compiled"] for result in self._found(method))

    def _in_time(self, method: str) -> int:
        results = self._found(method)
        if len(results) < len(self.spec["seeds"]) or not self.spec.get("seconds"):
            return 0
        if not all(result["steps"] for result in results):  # nothing is trained
            return 0
        speed = statistics.median(result["speed"]["meta_steps_per_s"] for result in results)
        steps = int(speed * self.spec["seconds"])
        return max(20, steps - steps % 20)

    def runs(self, round_: str, again: bool = False) -> list[Run]:
        """Finished runs of a round under the methods' names; with `again`, also their second tests.

        They are read once, for the page, after all runs are made.
        """
        if (round_, again) not in self._read:
            self._read[round_, again] = self._find(round_, again)
        return self._read[round_, again]

    def _find(self, round_: str, again: bool) -> list[Run]:
        kept = []
        for method, jobs in self.trained(round_).items():
            for job in jobs:
                job.check()
                for run in find([job.folder]).runs if job.folder.exists() else []:
                    if again or "evaluation" not in run.result:
                        kept.append(run._replace(config=run.config | {"algo": method}))
        return kept


def _typed(value: Any) -> str:
    return json.dumps(value).replace(" ", "").replace('"', "") if value is not None else "null"


def work(jobs: list[Job], at_once: int, label: str) -> None:
    """Runs the missing jobs, several at a time, with a line for each."""
    for job in jobs:
        job.check()
    todo = [job for job in jobs if not job.done]
    begun, done = time.monotonic(), 0
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        for job in (f.result() for f in concurrent.futures.as_completed([pool.submit(_run, j) for j in todo])):
            done += 1
            left = (time.monotonic() - begun) / done * (len(todo) - done)
            result = job.result
            told = job.failure or (f"{result['speed']['seconds']:.0f} s" if result else "interrupted")
            place = "/".join(job.folder.parts[-2:])
            print(f"{label} {done}/{len(todo)} {place}: {told}; about {left / 60:.0f} min left", flush=True)


def _run(job: Job) -> Job:
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "asked.json").write_text(json.dumps(job.words, indent=1) + "\n", encoding="utf-8")
    if job.again:
        (job.folder / "again.json").write_text(json.dumps(job.again, indent=1) + "\n", encoding="utf-8")
    if job.result is None:
        _command(job, ["metaexp.train", *job.words, f'out="{job.folder}"', "resume=auto"])
    if job.result is not None and not job.done:
        run = next(file.parent for file in job.folder.glob("*/result.json"))
        _command(job, ["metaexp.evaluate", f"run={run}", *job.again])
    return job


def _command(job: Job, words: list[str]) -> None:
    """Runs a module. If the method refused its settings or became non-finite, that is a failure of the method, and its
    last line is kept.

    Any other failure, such as a full disk or missing data, is no result of a method and ends everything with the line.
    A run that was interrupted is left unchanged.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-m", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if not done.returncode or done.returncode in (-2, -9, -15, 130, 137, 143):
        return
    line = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    if done.returncode not in (ConfigError.exit_code, NonFiniteError.exit_code):
        raise SystemExit(f"{job.folder}: {line}")
    (job.folder / "failed.txt").write_text(line + "\n", encoding="utf-8")
