"""Measurements besides the works: scaling, sampling, framework share, start, precision, GPU; lists of flat points."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benching import ours
from benching.processes import Done, environment, metaexp, run
from benching.works import WORKS, Settings

Point = dict[str, Any]
AXES = ("tasks", "inner steps", "width")
TASKS, INNER, WIDTH = (1, 4, 16, 64, 256, 1024), (1, 5, 20, 100), (40, 128, 512)
COMPILED_INNER = 20  # largest number of inner steps that compiles within minutes
CHUNK = 16
ACCURACY_STEPS = 300
LONG = 1800  # seconds that one process may take


class Options(NamedTuple):
    """The options of the command line."""

    works: list[str]
    compile: str
    threads: int
    repeats: int
    omniglot: Path | None
    quick: bool
    extra: Settings
    peers: Path | None
    jax: str | None
    axes: tuple[str, ...] = AXES  # of scaling

    def settings(self, work: str, compile: str, device: str = "cpu", **more: str) -> Settings:
        """The command of a work; in the names of further settings, dots are written as __."""
        given = ours.settings(work, compile, self.threads, self.omniglot, self.quick, self.extra, device)
        return given | {key.replace("__", "."): value for key, value in more.items()}


def worker(kind: str, given: Settings, threads: int, **more: Any) -> tuple[Point, Done]:
    """One process of `benching.workers`; the point has `failed` if it gave no answer."""
    words = [sys.executable, "-W", "ignore", "-m", "benching.workers", kind, json.dumps({"settings": given, **more})]
    done = run(words, threads, LONG)
    answer = done.answer() if done.code == 0 else None
    return answer if answer is not None else {"failed": done.reason()}, done


def scaling(o: Options) -> Iterator[Point]:
    """Sine MAML: ms and MB against tasks per meta-batch, inner steps and width."""
    idle, _ = worker("bare", o.settings("sine-maml", "false", steps="0"), o.threads)
    yield {"axis": "idle", "value": 0, "how": "no step", **idle}
    for axis, value, how in _grid(o):
        changed = {"tasks": {"meta_batch": value}, "inner steps": {"algo__inner_steps": value}}
        width = {"model__hidden": f"[{value},{value}]"}
        more = {key: str(v) for key, v in changed.get(axis, width).items()}
        large = (axis == "tasks" and value >= 256) or (axis == "inner steps" and value >= 20)
        every = 2 if o.quick else 20 if large else 100  # a row itself costs a few ms
        more |= {"steps": str(10 * every), "log__every": str(every)}
        more |= {"mapping": str(CHUNK)} if how.startswith("chunks") else {}
        given = o.settings("sine-maml", str(how == "compiled").lower(), **more)
        yield {"axis": axis, "value": value, "how": how, **_kept(ours.measure(given, o.threads, LONG))}


def _grid(o: Options) -> Iterator[tuple[str, int, str]]:
    ways = ["eager"] + ["compiled"] * (o.compile != "false")
    for axis, values in zip(AXES, (TASKS, INNER, WIDTH), strict=True):
        for value in () if axis not in o.axes else values[:2] if o.quick else values:
            for how in ways:
                if how == "eager" or axis != "inner steps" or value <= COMPILED_INNER:
                    yield axis, value, how
            if axis == "tasks" and value >= CHUNK:
                yield axis, value, f"chunks of {CHUNK}"


def _kept(found: Point) -> Point:
    return {key: found[key] for key in ("ms", "mb", "load", "failed", "note") if found.get(key) not in (None, "")}


def _two(o: Options) -> list[str]:
    return [work for work in ("sine-maml", "omniglot-maml") if o.omniglot or not WORKS[work].omniglot]


def sampling(o: Options) -> Iterator[Point]:
    """Episodes drawn per second, and the share of drawing in a step.

    `share_percent` is the time to draw a meta-batch, measured alone, over that of the step; `by_difference_percent`
    compares the step with one on a meta-batch drawn beforehand.
    """
    for work in _two(o):
        drawn, _ = worker("sampling", o.settings(work, "false"), o.threads)
        for compile in dict.fromkeys(("false", o.compile)):
            given = o.settings(work, compile)
            step, _ = worker("bare", given, o.threads)
            constant, _ = worker("bare", given, o.threads, constant=True)
            again, done = worker("bare", given, o.threads)  # the machine's speed drifts: measure before and after
            point = {"work": work, "compile": compile, "load": done.load}
            if "failed" in drawn | step | constant | again:
                yield point | {"failed": (drawn | step | constant | again)["failed"]}
                continue
            ms = (step["ms"] + again["ms"]) / 2
            point |= {"episodes_per_s": drawn["episodes_per_s"], "draw_ms": drawn["ms"], "step_ms": ms}
            point |= {"step_ms_before": step["ms"], "step_ms_after": again["ms"]}
            difference = 100 * (1 - constant["ms"] / ms)
            shares = {"share_percent": 100 * drawn["ms"] / ms, "by_difference_percent": difference}
            yield point | {"step_on_constant_batch_ms": constant["ms"]} | shares


def framework(o: Options) -> Iterator[Point]:
    """A step of the whole command against the same step in a bare loop, alternating."""
    for work in _two(o):
        for round_ in range(o.repeats):
            given = o.settings(work, o.compile)
            product = ours.measure(given, o.threads)
            bare, _ = worker("bare", given, o.threads)
            point = {"work": work, "compile": o.compile, "threads": o.threads, "round": round_, "load": product["load"]}
            if "failed" in product | bare:
                yield point | {"failed": (product | bare)["failed"]}
                continue
            share = 100 * (product["ms"] / bare["ms"] - 1)
            yield point | {"product_ms": product["ms"], "bare_ms": bare["ms"], "framework_percent_of_bare": share}


def start(o: Options) -> Iterator[Point]:
    """Seconds from the command to the first outer step, to a configuration error, and to the result; also of JAX.

    `cpu_seconds` counts the processor's time, compilers included: on a shared machine it says more than the clock.
    """
    for _ in range(o.repeats):
        yield {"what": "command to first outer step, eager", "seconds": first_step()}
        error = run(metaexp("algo.iner_lr=1"))
        yield {"what": "configuration error", "seconds": error.seconds, "cpu_seconds": error.cpu, "code": error.code}
    if o.quick:
        return
    with tempfile.TemporaryDirectory(prefix="metaexp-bench-") as folder:
        cold, *warm = ["cold"] + ["warm"] * o.repeats
        for cache in (cold, *warm):  # JAX beside each: the machine's speed drifts
            words = metaexp("algo=maml", "task=sine", "compile=true", f'out="{folder}/runs"')
            done = run(words, o.threads, LONG, pinned=False, TORCHINDUCTOR_CACHE_DIR=f"{folder}/inductor")
            yield _whole(f"whole command algo=maml task=sine compile=true, {cache} compile cache", done)
            if o.jax:
                script = Path(__file__).with_name("plain_jax.py")
                one = "--xla_cpu_multi_thread_eigen=false"
                done = run([o.jax, script], o.threads, LONG, pinned=False, XLA_FLAGS=one if o.threads == 1 else "")
                yield _whole("plain JAX script of the same steps, validations and test", done)
        words = metaexp(
            "algo=maml", "task=sine", "compile=true", "algo.inner_lr=0.02", "seed=1", f'out="{folder}/runs"'
        )
        done = run(words, o.threads, LONG, pinned=False, TORCHINDUCTOR_CACHE_DIR=f"{folder}/inductor")
        yield _whole("the same with another inner rate and seed, warm compile cache", done)


def _whole(what: str, done: Done) -> Point:
    return {"what": what, "seconds": done.seconds, "cpu_seconds": done.cpu, "code": done.code, "load": done.load}


def first_step(timeout: float = 120) -> float | None:
    """Wall-clock seconds from starting the command until its row of the first outer step can be read."""
    with tempfile.TemporaryDirectory(prefix="metaexp-bench-") as folder:
        words = metaexp("algo=maml", "task=sine", "compile=false", "steps=1", "log.every=1", f'out="{folder}"')
        begun = time.monotonic()
        null = subprocess.DEVNULL
        process = subprocess.Popen(words, env=environment(None), stdin=null, stdout=null, stderr=null)
        try:
            while time.monotonic() - begun < timeout and process.poll() is None:
                for file in Path(folder).glob("*/metrics.jsonl"):
                    if '"train"' in file.read_text(encoding="utf-8"):
                        return time.monotonic() - begun
                time.sleep(0.01)
            return None
        finally:
            process.terminate()
            process.wait()


def precision(o: Options) -> Iterator[Point]:
    """Omniglot MAML in float32 and bfloat16, alternating: ms of a step, then the accuracy of the same training.

    The second part trains like `algo=maml task=omniglot` for ACCURACY_STEPS outer steps and tests both on the same
    tasks; the interval is over test tasks.
    """
    work, kinds = "omniglot-maml", ("32", "bf16-mixed")
    for round_ in range(o.repeats if o.omniglot else 0):
        for kind in kinds:
            found = ours.measure(o.settings(work, o.compile, device__precision=kind), o.threads)
            yield {"work": work, "precision": kind, "threads": o.threads, "round": round_, **_kept(found)}
    for kind in kinds if o.omniglot else ():
        given = {"algo": "maml", "task": "omniglot", "task.root": f'"{o.omniglot}"', "device.precision": kind}
        given |= {"steps": str(10 if o.quick else ACCURACY_STEPS), "test.tasks": "1000", "compile": o.compile}
        yield {"work": "algo=maml task=omniglot", "precision": kind, **ours.trained(given, o.threads, LONG)}


def gpu(o: Options) -> Iterator[Point]:
    """Absolute times on one GPU: the whole command, and the bare loop, where a host synchronisation is an error."""
    for work in o.works:
        if WORKS[work].omniglot and not o.omniglot:
            continue
        given = o.settings(work, o.compile, device="gpu")
        product = ours.measure(given, o.threads)
        bare, _ = worker("gpu", given, o.threads)
        point = {"work": work, "compile": o.compile, "product_ms": product.get("ms"), "load": product["load"]}
        yield point | {"failed": product.get("failed")} | {f"bare_{key}": value for key, value in bare.items()}


SECTIONS: dict[str, Callable[[Options], Iterator[Point]]] = {
    "scaling": scaling,
    "sampling": sampling,
    "framework": framework,
    "start": start,
    "precision": precision,
    "gpu": gpu,
}
