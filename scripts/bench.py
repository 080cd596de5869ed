"""python scripts/bench.py --peers DIR [--peers-torch PYTHON] [--peers-jax PYTHON] ...: speed and memory beside peers.

DIR holds the peers' scripts (common.py, bench_plain.py, ...). First, each work is checked to be the same for all (same
weights and batch, same meta-gradient). Then our command and the peers run in turn, each in a fresh process on the same
cores. Single measurements go to a JSON file, tables and plots beside it. Run it with PYTHONPATH=. from the checkout.

--check only compares the meta-gradients. --scaling, --sampling, --framework, --start, --precision and --gpu measure
these instead of the works (with --works: in addition). --render makes tables and plots from the JSON file without
measuring. A measurement replaces earlier ones of the same work and number of threads; the rest stays.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benching import ours, peers, tables
from benching.processes import ROOT, busy, stamp
from benching.sections import AXES, SECTIONS, Options
from benching.works import WORKS

Data = dict[str, Any]


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peers", type=Path, help="folder of the peers' scripts")
    p.add_argument(
        "--peers-torch", default=os.environ.get("PEERS_TORCH"), help="its Python with PyTorch ($PEERS_TORCH)"
    )
    p.add_argument("--peers-jax", default=os.environ.get("PEERS_JAX"), help="its Python with JAX ($PEERS_JAX)")
    p.add_argument("--all-peers", action="store_true", help="every peer, not only the best ones of each work")
    p.add_argument("--works", help=f"comma-separated, of {', '.join(WORKS)}")
    p.add_argument("--threads", default="1", help="1,2: numbers of threads and cores")
    p.add_argument("--repeats", type=int, default=3, help="rounds of ours, peer, peer, ...")
    p.add_argument("--omniglot", type=Path, help="folder of the Omniglot data; without it those works are left out")
    p.add_argument("--compile", default="true", choices=("true", "false", "auto"), help="of our runs")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a further setting of our runs")
    p.add_argument(
        "--out", type=Path, help="JSON file; default scripts/results/bench.json, with --quick a temporary one"
    )
    p.add_argument(
        "--readme",
        metavar="PAGE",
        type=Path,
        help=f"page to paste the table into, between {tables.START} and {tables.END}: docs/speed.md",
    )
    p.add_argument(
        "--quick", action="store_true", help="one round of a few steps, to see that it works; no real figures"
    )
    p.add_argument("--force", action="store_true", help="also on a busy machine")
    p.add_argument("--check", action="store_true", help="only compare the meta-gradients")
    p.add_argument("--render", action="store_true", help="only make tables and plots")
    for name in SECTIONS:
        p.add_argument(f"--{name}", action="store_true", help=f"measure {name}: see benching/sections.py")
    p.add_argument("--axes", default=",".join(AXES), help="axes of --scaling; the file keeps the other ones")
    a = p.parse_args(argv)
    a.axes = tuple(a.axes.split(","))
    if unknown := set(a.axes) - set(AXES):
        p.error(f"--axes {','.join(unknown)}: not among {', '.join(AXES)}")
    a.works = a.works.split(",") if a.works else None
    if unknown := peers.unknown(a.works or ()):
        p.error(f"--works {','.join(unknown)}: not among {', '.join(WORKS)}")
    a.sections = [name for name in SECTIONS if getattr(a, name)]
    a.timed = not (a.check or a.render) and (a.works is not None or not a.sections)
    if (a.timed or a.check) and not (a.peers and a.peers_torch):
        p.error("--peers DIR and --peers-torch PYTHON: needed to compare with")
    if a.peers and not (a.peers / "common.py").is_file():
        p.error(f"--peers {a.peers}: no common.py there")
    try:
        a.threads = [int(part) for part in a.threads.split(",")]
        a.set = dict(part.split("=", 1) for part in a.set)
    except ValueError:
        p.error("--threads takes numbers (1,2) and --set KEY=VALUE")
    kept = ROOT / "scripts" / "results" / "bench.json"
    a.out = a.out or (Path(tempfile.gettempdir(), "bench-quick.json") if a.quick else kept)
    a.repeats = 1 if a.quick else a.repeats
    a.peers, a.omniglot = (path.resolve() if path else None for path in (a.peers, a.omniglot))
    return a


def command(a: argparse.Namespace) -> str:
    """The command line with placeholders instead of this machine's folders."""
    words = ["PYTHONPATH=. python scripts/bench.py"]
    for option, name in (("peers", "DIR"), ("peers_torch", "PYTHON"), ("peers_jax", "PYTHON"), ("omniglot", "FOLDER")):
        words += [f"--{option.replace('_', '-')} {name}"] if getattr(a, option) else []
    words += [f"--works {','.join(a.works)}"] if a.works else []
    words += [f"--threads {','.join(map(str, a.threads))}", f"--repeats {a.repeats}"]
    words += [f"--compile {a.compile}"] if a.compile != "true" else []
    words += [f"--set {key}={value}" for key, value in a.set.items()]
    words += [f"--axes '{','.join(a.axes)}'"] if a.axes != AXES and "scaling" in a.sections else []
    flags = [*a.sections, *(name for name in ("all_peers", "quick", "force") if getattr(a, name))]
    return " ".join(words + [f"--{flag.replace('_', '-')}" for flag in flags])


def usable(a: argparse.Namespace) -> list[str]:
    """The works that can run here; prints which cannot."""
    names = []
    for name in a.works or WORKS:
        work = WORKS[name]
        if not (ROOT / "conf" / "algo" / f"{work.algo}.yaml").exists():
            print(f"{name}: left out, conf/algo has no {work.algo}")
        elif work.omniglot and a.omniglot is None:
            print(f"{name}: left out, it needs --omniglot FOLDER")
        else:
            names.append(name)
    return names


def read(path: Path) -> Data:
    """The content of the file."""
    empty: Data = {"format": 1, "stamps": {}, "checks": {}, "runs": []}
    return empty | (json.loads(path.read_text(encoding="utf-8")) if path.exists() else {})


def write(path: Path, data: Data) -> None:
    """Replaces the file as a whole: a measurement may be interrupted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def check(a: argparse.Namespace, works: list[str]) -> dict[str, Any]:
    """Compares the works in this process, which has torch in memory from then on."""
    from benching import checks

    found = {}
    for work in works:
        found[work] = checks.check(work, a.peers, a.peers_torch, a.omniglot, a.compile != "false")
        print(checks.shown(work, found[work]), flush=True)
    finite = lambda e: {p: {k: min(v, 1e300) for k, v in paths.items()} for p, paths in e.items()}  # noqa: E731
    return {work: result | {"errors": finite(result["errors"])} for work, result in found.items()}


def checked(a: argparse.Namespace, works: list[str], data: Data) -> list[str]:
    """The works that are the same for all, checked in another process so that this one stays small."""
    if not works:
        return []
    with tempfile.TemporaryDirectory(prefix="metaexp-bench-") as folder:
        out = Path(folder, "checks.json")
        words = [sys.executable, __file__, "--check", "--works", ",".join(works), "--out", out, "--compile", a.compile]
        words += ["--peers", a.peers, "--peers-torch", a.peers_torch]
        words += ["--omniglot", a.omniglot] if a.omniglot else []
        subprocess.run([str(word) for word in words])
        found = read(out)["checks"]
    missing = {"equal": False, "errors": {}, "why": "the comparison itself failed"}
    data["checks"] |= {work: found.get(work, missing) for work in works}
    for work in works:
        if not data["checks"][work]["equal"]:
            print(f"{work}: refused, {data['checks'][work]['why']}")
    return [work for work in works if data["checks"][work]["equal"]]


def measure(a: argparse.Namespace, works: list[str], data: Data, mark: Data, pythons: peers.Pythons) -> None:
    """Measures all works in turn; writes the file after each."""
    table = peers.published(_text(a.peers / "results.md"))
    for threads in a.threads:
        for work in works:
            names = peers.chosen(work, pythons, a.all_peers)
            runs: list[Data] = []
            for round_ in range(a.repeats):
                for name in [tables.OURS, *names]:
                    found = _one(a, work, name, threads, pythons)
                    runs.append({"work": work, "threads": threads, "round": round_, "who": name, **found})
                    _tell(runs[-1], a.repeats)
                    guess = peers.estimate(table, work, threads, found) if name == "plain-loop" else None
                    if guess and not pythons.learn2learn:
                        runs.append({**runs[-1], "who": peers.LEARN2LEARN, **guess})
            kept = [run for run in data["runs"] if (run["work"], run["threads"]) != (work, threads)]
            order = list(WORKS)
            data["runs"] = sorted(kept + runs, key=lambda run: (run["threads"], order.index(run["work"])))
            data["stamps"][f"{work}/{threads}"] = mark
            write(a.out, data)


def _one(a: argparse.Namespace, work: str, name: str, threads: int, pythons: peers.Pythons) -> Data:
    if name != tables.OURS:
        return peers.measure(work, name, a.peers, pythons, threads, a.quick)
    return ours.measure(ours.settings(work, a.compile, threads, a.omniglot, a.quick, a.set), threads)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _tell(run: Data, rounds: int) -> None:
    head = f"{run['work']}, {run['threads']} thread(s), round {run['round'] + 1}/{rounds}, {run['who']}: "
    tail = f"{tables.number(run['ms'])} ms, {run['mb']:.0f} MB" if "ms" in run else run["failed"]
    print(f"{head}{tail} (load {run['load']}) {run.get('note', '')}".rstrip(), flush=True)


def render(a: argparse.Namespace, data: Data) -> None:
    """Table on the terminal; bench.md and plots beside the JSON file; the table of docs/speed.md."""
    from benching import plots

    if data["runs"]:
        print("\n" + tables.works_table(tables.rows(data["runs"]), data["checks"]))
        plots.works(data["runs"], a.out.with_name(f"{a.out.stem}_works.png"))
    if data.get("scaling"):
        plots.scaling(data["scaling"], a.out.with_name(f"{a.out.stem}_scaling.png"))
    a.out.with_suffix(".md").write_text(tables.details(data), encoding="utf-8")
    if a.readme:
        link = Path(os.path.relpath(a.out.with_suffix(".md"), a.readme.parent)).as_posix()
        tables.paste(a.readme, tables.summary(data, link))
    print(f"{a.out}, and .md and plots beside it")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 0, 1 if --check refused a work, or 2 if it cannot start."""
    a = arguments(sys.argv[1:] if argv is None else argv)
    data = read(a.out)
    if a.render:
        render(a, data)
        return 0
    if a.check:
        found = check(a, usable(a))
        data["checks"] |= found
        write(a.out, data)
        return 0 if all(result["equal"] for result in found.values()) else 1
    if not a.force and (line := busy()):
        print(f"bench: {line}", file=sys.stderr)
        return 2
    pythons = peers.find(a.peers_torch, a.peers_jax)
    mark = stamp(command(a)) | {"versions": peers.versions(pythons), "torch": peers.own_torch()}
    works = usable(a)
    if a.timed:
        if pythons.jax is None:
            print("no --peers-jax: JAX is left out")
        measure(a, checked(a, works, data), data, mark, pythons)
    for name in a.sections:
        o = Options(works, a.compile, a.threads[0], a.repeats, a.omniglot, a.quick, a.set, a.peers, a.peers_jax, a.axes)
        kept = [point for point in data.get(name, ()) if point.get("axis") not in {None, "idle", *a.axes}]
        data[name] = kept
        for point in SECTIONS[name](o):
            data[name].append(point)
            print(f"{name}: " + ", ".join(f"{k} {tables._cell(v)}" for k, v in point.items()), flush=True)
            data["stamps"][name] = mark
            write(a.out, data)
    render(a, data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
