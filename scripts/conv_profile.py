"""python scripts/conv_profile.py --omniglot FOLDER: where the time of an outer step on Omniglot goes.

Each work of scripts/bench.py runs as in training, compiled, in a fresh process on one core. Its step is a list of
operations per task (for ProtoNet: per meta-batch) that is the same every time, so the time of each operation is the
smallest over all tasks of --steps steps: what other processes take on a busy machine does not count. Beside the
GFLOP/s of each convolution stands what a lone call of the same shape reaches in the same process, both over multiply-
and-adds of the definition (zero padding included). Writes scripts/results/conv_profile.json and .md. Linux only.

Options: --works, --steps, --out, and --set KEY=VALUE (any setting of metaexp.train).
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benching import ours
from benching.processes import ROOT, run, stamp
from benching.works import WORKS, overrides

FORWARD, BY_INPUT, BY_WEIGHTS = "convolution: forward", "convolution: gradient by input", "convolution: by weights"
PRODUCTS, NORM, NORM_GRADIENT = "products", "norm, ReLU, pooling: forward", "norm, ReLU, pooling: gradients"
COPIES, CALLS, OUTSIDE = "copies and other kernels", "calls, allocation", "outside the tasks' graphs"
KINDS = (FORWARD, BY_INPUT, BY_WEIGHTS, PRODUCTS, NORM, NORM_GRADIENT, COPIES, CALLS, OUTSIDE)
CONVOLUTIONS = ("aten::mkldnn_convolution", "aten::_convolution", "aten::convolution_backward")
LIBRARY = (*CONVOLUTIONS, "aten::mm", "aten::addmm", "aten::bmm")
Row = dict[str, Any]


def profile(settings: list[str], steps: int) -> Iterator[Row]:
    """The operations of one task in order of time: kind, what, ms of one outer step, and GFLOP of convolutions."""
    import torch._inductor.config
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    from metaexp.config.settings import load
    from metaexp.training.build import Experiment

    torch.set_num_threads(1)
    torch._inductor.config.cpp.enable_kernel_profile = True
    step = Experiment(load(settings)).training.step
    for index in range(2):
        step(index)
    whole = min(_timed(partial(step, i)) for i in range(2, 2 + steps))
    with profiler(activities=[ProfilerActivity.CPU], record_shapes=True) as made:
        for index in range(2 + steps, 2 + 2 * steps):
            step(index)
    tasks = _per_task(made.events())
    per_step = len(tasks) / steps
    inside = 0.0
    for place in zip(*(operations for _, operations in tasks), strict=True):
        ms = min(_ms(event) for event in place) * per_step
        inside += ms
        yield {"ms": ms, "calls": per_step, **_described(place[0])}
    graph = min(total for total, _ in tasks) * per_step
    yield {"kind": CALLS, "what": "", "ms": max(graph - inside, 0.0), "calls": per_step}
    yield {"kind": OUTSIDE, "what": "draws, optimiser", "ms": max(whole - max(graph, inside), 0.0), "calls": 1}


def _ms(event: Any) -> float:
    return float(event.time_range.elapsed_us()) / 1e3


def _per_task(events: Any) -> list[tuple[float, list[Any]]]:
    """(ms, operations) of each call of the graph."""
    calls = sorted((e for e in events if "CompiledFxGraph" in e.name), key=lambda e: e.time_range.start)
    kept = (e for e in events if (e.name in LIBRARY and not _wraps(e)) or "_cpp_fused" in e.name)
    wanted = sorted(kept, key=lambda e: e.time_range.start)
    if not calls:
        sys.exit("conv_profile: the step made no call of a compiled graph")
    found, at = [], 0
    for call in calls:
        inside, end = [], 0.0
        while at < len(wanted) and wanted[at].time_range.start < call.time_range.end:
            event = wanted[at]
            if call.time_range.start <= event.time_range.start and event.time_range.start >= end:  # not nested
                inside.append(event)
                end = event.time_range.end
            at += 1
        found.append((_ms(call), inside))
    return found


def _wraps(event: Any) -> bool:
    """Whether it only hands on to the kernel; without one, `_convolution` is a transposed one."""
    return any(child.name == "aten::mkldnn_convolution" for child in event.cpu_children)


def _described(event: Any) -> Row:
    """Kind and short description of an operation."""
    name, shapes = event.name, event.input_shapes
    if "_cpp_fused" in name:
        parts = name.split("_cpp_fused_")[1].split("_")
        if "backward" not in parts and {"exp", "log"} <= set(parts):  # the root of the variance
            kind = NORM
        else:
            kind = NORM_GRADIENT if {"backward", "ge", "sum"} & set(parts) else COPIES
        return {"kind": kind, "what": ""}
    if name not in CONVOLUTIONS:
        a, b = shapes[-6:][1:3] if name == "aten::addmm" else shapes[:2]
        return {"kind": PRODUCTS, "what": f"{_x(a)} by {_x(b)}"}
    if name == "aten::convolution_backward":
        (_, _, height, _), x, w = shapes[:3]
        return {"kind": "both", "what": f"{_x(x)}, {x[2] // height}", "shape": [x, w, max(1, round(x[2] / height))]}
    x, w = shapes[:2]
    if name == "aten::_convolution":
        return {"kind": BY_INPUT, "what": f"{_x(x)}, transposed"}
    kind = FORWARD if w[2] == w[3] == 3 else BY_WEIGHTS
    return {"kind": kind, "what": f"{_x(x)} with {_x(w)}", "shape": [x, w, None]}


def _x(shape: list[int]) -> str:
    return "x".join(map(str, shape))


def _timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


def lone(kind: str, shape: list[Any], repeats: int = 7) -> tuple[float, float]:
    """(GFLOP, ms) of one convolution alone, channels-last, warm: the smallest of several times.

    Args:
        kind: FORWARD, BY_INPUT or BY_WEIGHTS.
        shape: [shape of x, of the weights, stride].
    """
    import torch

    x_shape, w_shape, stride = shape
    last = torch.channels_last
    x, w = (torch.randn(s).contiguous(memory_format=last) for s in (x_shape, w_shape))
    with torch.no_grad():
        y = torch.nn.functional.conv2d(x, w, None, stride, 1)
        flop = 2 * y.numel() * math.prod(w_shape[1:])
        mask = [kind == BY_INPUT, kind == BY_WEIGHTS, False]
        strides = [[stride] * 2, [1, 1], [1, 1], False, [0, 0], 1]

        def call() -> Any:
            if kind == FORWARD:
                return torch.nn.functional.conv2d(x, w, None, stride, 1)
            return torch.ops.aten.convolution_backward(y, x, w, None, *strides, mask)

        times = min(_timed(lambda: [call() for _ in range(3)]) for _ in range(repeats + 1))
    return flop / 1e9, times / 3


def with_lone(rows: list[Row], stride: int) -> list[Row]:
    """Rows with both gradients split in the ratio of their lone times, and GFLOP/s here and alone."""
    found: dict[str, Any] = {}
    made = []
    for row in rows:
        if "shape" not in row:
            made.append(row)
            continue
        x, w, own = row.pop("shape")
        if row["kind"] == BY_WEIGHTS or w[2] != 3:  # a second derivative, written as a convolution over the batch
            made.append(row | {"kind": BY_WEIGHTS})
            continue
        shape = [x, w, own or (stride if x[2] > 1 else 1)]
        kinds = (BY_INPUT, BY_WEIGHTS) if row["kind"] == "both" else (row["kind"],)
        alone = {kind: found.setdefault(f"{kind}{shape}", lone(kind, shape)) for kind in kinds}
        total = sum(ms for _, ms in alone.values())
        for kind, (gflop, ms) in alone.items():
            part = {"kind": kind, "ms": row["ms"] * ms / total, "gflop": gflop * row["calls"]}
            made.append(row | part | {"alone_ms": ms * row["calls"], "what": f"{_x(x)}, stride {shape[2]}"})
    return made


def summed(rows: list[Row]) -> list[Row]:
    """Rows of one kind and description as one."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["kind"], row["what"]].append(row)
    keys = ("ms", "calls", "gflop", "alone_ms")
    total = [
        {"kind": kind, "what": what} | {key: sum(r.get(key, 0.0) for r in part) for key in keys}
        for (kind, what), part in groups.items()
    ]
    return sorted(total, key=lambda r: (KINDS.index(r["kind"]), -r["ms"]))


def table(data: Row) -> str:
    """The measurements as Markdown."""
    lines = ["# Where the time of an outer step with convolutions goes", "", *_legend(data), ""]
    lines += ["| work | ms | " + " | ".join(KINDS) + " | convolutions alone, ms |"]
    lines += ["| --- |" + " --- |" * (len(KINDS) + 2)]
    for work, rows in data["works"].items():
        total = sum(row["ms"] for row in rows)
        shares = [sum(r["ms"] for r in rows if r["kind"] == kind) / total for kind in KINDS]
        cells = [f"{100 * share:.0f} %" for share in shares]
        lines.append(f"| {work} | {total:.0f} | " + " | ".join(cells) + f" | {sum(r['alone_ms'] for r in rows):.0f} |")
    for work, rows in data["works"].items():
        total = sum(row["ms"] for row in rows)
        lines += ["", f"## {work}", "", "| operation | of | calls | ms | share | GFLOP/s | alone |"]
        lines.append("| --- |" + " --- |" * 6)
        for row in rows:
            if row["ms"] < total / 200:
                continue
            rate = [f"{1e3 * row['gflop'] / row[key]:.0f}" if row["gflop"] else "" for key in ("ms", "alone_ms")]
            cells = [row["kind"], row["what"], f"{row['calls']:.0f}", f"{row['ms']:.1f}", f"{row['ms'] / total:.1%}"]
            lines.append("| " + " | ".join(cells + rate) + " |")
    return "\n".join(lines) + "\n"


def _legend(data: Row) -> list[str]:
    s = data["stamp"]
    return [
        "Made by `scripts/conv_profile.py`: one core, compiled, float32; every operation's time is the smallest over "
        "all tasks of the measured steps, so the sum lies below a step's time on the clock. The two gradients of a "
        "convolution come from one call of the library and are split in the ratio of their lone times. GFLOP/s count "
        "the multiplications and additions of the definition, zero padding included; 'alone' is one convolution of the "
        "same shape, called again and again. Operations below half a percent are left out of the long tables. On a "
        "busy machine (see the load) the milliseconds are too long, those of memory-bound kernels most.",
        "",
        f"`{s['command']}`; {s['cpu']} ({s['capability']}), {s['date']}, commit {s['commit']}, torch {s['torch']}, "
        f"load {s['load']}.",
    ]


def child(work: str, omniglot: Path, steps: int, extra: dict[str, str]) -> list[Row]:
    """The summed rows of one work."""
    settings = ours.settings(work, "true", 1, omniglot, False, extra)
    stride = 2 if settings["model.down"] == "stride" else 1
    return summed(with_lone(list(profile(overrides(settings), steps)), stride))


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [name for name, work in WORKS.items() if work.omniglot]
    p.add_argument("--omniglot", type=Path, required=True, help="folder of the Omniglot data")
    p.add_argument("--works", default=",".join(names), help=f"of {', '.join(names)}")
    p.add_argument("--steps", type=int, default=6, help="outer steps that are measured")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a further setting of the runs")
    p.add_argument("--out", type=Path, default=ROOT / "scripts" / "results" / "conv_profile.json", help="JSON")
    p.add_argument("--child", help=argparse.SUPPRESS)
    a = p.parse_args()
    extra = dict(part.split("=", 1) for part in a.set)
    if a.child:
        print(json.dumps({"rows": child(a.child, a.omniglot.resolve(), a.steps, extra)}))
        return
    import torch

    words = [f"--works {a.works} --steps {a.steps}", *(f"--set {part}" for part in a.set)]
    mark = stamp(" ".join(["PYTHONPATH=. python scripts/conv_profile.py --omniglot FOLDER", *words]))
    mark |= {"torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability()}
    data: Row = {"stamp": mark, "works": {}}
    loads = []
    for work in a.works.split(","):
        words = [sys.executable, "-W", "ignore", __file__, "--child", work, "--omniglot", str(a.omniglot.resolve())]
        words += ["--steps", str(a.steps), *(part for pair in a.set for part in ("--set", pair))]
        done = run(words, threads=1, timeout=3000)
        answer = done.answer()
        if done.code != 0 or answer is None:
            sys.exit(f"{work}: {done.reason()}")
        loads.append(done.load)
        data["works"][work] = answer["rows"]
        mark["load"] = statistics.median(loads)
        print(f"{work}: {sum(row['ms'] for row in answer['rows']):.0f} ms (load {done.load})", flush=True)
        a.out.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        a.out.with_suffix(".md").write_text(table(data), encoding="utf-8")


if __name__ == "__main__":
    main()
