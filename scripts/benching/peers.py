"""The peers: their own scripts in fresh processes, and learn2learn by ratio where it is not installed."""

import re
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from benching.processes import run
from benching.works import WORKS

SMALL, CONVOLUTIONS, ALL = ("sine", "reptile"), ("omni", "anil"), ("sine", "reptile", "omni", "anil", "proto")
LEARN2LEARN = "learn2learn"
NOTES = {"GRAD_WRONG": "wrong gradient", "DIFFERENT_OBJECTIVE": "other objective"}


class Peer(NamedTuple):
    """A script with its options, the kinds of work that it supports, and those on which it is timed by default."""

    script: str
    options: tuple[str, ...]
    kinds: tuple[str, ...]
    default: tuple[str, ...] = ()
    jax: bool = False


def _variant(name: str, *more: str) -> tuple[str, ...]:
    return ("--variant", name, *more)


PEERS = {
    "plain-loop": Peer("bench_plain.py", _variant("loop"), ALL, ALL),
    "plain-vmap": Peer("bench_plain.py", _variant("vmap"), SMALL + CONVOLUTIONS, SMALL),
    "plain-vmap-manualbn": Peer("bench_plain.py", _variant("vmap", "--bn", "manual"), ("omni",)),
    "higher": Peer("bench_higher.py", (), SMALL + CONVOLUTIONS),
    "torchopt-metasgd": Peer("bench_torchopt.py", _variant("metasgd"), ("sine", *CONVOLUTIONS), CONVOLUTIONS),
    "torchopt-func": Peer("bench_torchopt.py", _variant("func"), SMALL + CONVOLUTIONS),
    LEARN2LEARN: Peer("bench_l2l.py", (), ALL, ALL),
    "easyfsl": Peer("bench_easyfsl.py", (), ("proto",), ("proto",)),
    "jax-vmap": Peer("bench_jax.py", _variant("vmap"), (*SMALL, "anil", "proto"), (*SMALL, "proto"), True),
    "jax-scan": Peer("bench_jax.py", _variant("scan"), SMALL, SMALL, True),
    "jax-loop": Peer("bench_jax.py", _variant("loop"), CONVOLUTIONS, (), True),
    "jax-looppatches": Peer("bench_jax.py", _variant("looppatches"), CONVOLUTIONS, CONVOLUTIONS, True),
    "jax-patches": Peer("bench_jax.py", _variant("patches"), (*CONVOLUTIONS, "proto"), (), True),
}


class Pythons(NamedTuple):
    """The Python interpreters of the peers' environments; None if there is none."""

    torch: str | None
    jax: str | None
    learn2learn: bool

    def of(self, peer: Peer) -> str | None:
        """The interpreter for a peer."""
        return self.jax if peer.jax else self.torch


def find(torch: str | None, jax: str | None) -> Pythons:
    """Checks whether learn2learn is installed in the environment of the PyTorch peers."""
    code = "import importlib.util as u, sys; sys.exit(u.find_spec('learn2learn') is None)"
    there = torch is not None and subprocess.run([torch, "-c", code], capture_output=True).returncode == 0
    return Pythons(torch, jax, there)


def versions(pythons: Pythons) -> dict[str, str]:
    """Versions of the packages that the peers use, without importing them."""
    found: dict[str, str] = {}
    for python, names in ((pythons.torch, "torch torchopt higher easyfsl learn2learn"), (pythons.jax, "jax")):
        if python is not None:
            out = subprocess.run([python, "-c", _VERSIONS, *names.split()], capture_output=True, text=True).stdout
            found |= dict(line.split() for line in out.splitlines())
    return found


_VERSIONS = """
import importlib.metadata as m, sys
for name in sys.argv[1:]:
    try:
        print(name, m.version(name))
    except m.PackageNotFoundError:
        pass
"""


def own_torch() -> str:
    """The version of torch that our command uses."""
    return metadata.version("torch")


def chosen(work: str, pythons: Pythons, everything: bool) -> list[str]:
    """Names of the peers that run a work; includes learn2learn only if it is installed."""
    kind = WORKS[work].kind
    names = [name for name, peer in PEERS.items() if kind in (peer.kinds if everything else peer.default)]
    return [n for n in names if pythons.of(PEERS[n]) and (n != LEARN2LEARN or pythons.learn2learn)]


def amounts(work: str, name: str, quick: bool) -> tuple[int, int]:
    """(timed steps, warm-up steps) of a peer."""
    kind, steps, warm = WORKS[work].kind, WORKS[work].peer_steps, 10 if WORKS[work].kind in SMALL else 2
    if kind in SMALL and PEERS[name].jax:
        steps, warm = {"jax-vmap": (5000, 50), "jax-scan": (20_000, 1)}[name]
    return (max(3, steps // 10), min(warm, 5)) if quick else (steps, warm)


def measure(work: str, name: str, folder: Path, pythons: Pythons, threads: int, quick: bool) -> dict[str, Any]:
    """One process of a peer: ms, mb, load and notes, or `failed`."""
    peer, (steps, warm) = PEERS[name], amounts(work, name, quick)
    words = [pythons.of(peer), "-W", "ignore", folder / peer.script, "--work", work, *peer.options]
    words += ["--steps", str(steps), "--warmup", str(warm), "--threads", str(threads)]
    done = run([w for w in words if w is not None] + ["--max-seconds", "5" if quick else "30"], threads, timeout=400)
    return read(done.answer() if done.code == 0 else None, done.reason(), done.load)


def read(answer: dict[str, Any] | None, reason: str, load: float) -> dict[str, Any]:
    """A peer's line of JSON as a measurement: the median over its steps, in ms, and its peak MB."""
    if answer is None or "unsupported" in answer:
        return {"failed": answer["unsupported"] if answer else reason, "load": load}
    notes = [note for key, note in NOTES.items() if key in answer]
    return {
        "ms": answer["ms_median"],
        "ms_mean": answer["ms_per_meta_step"],
        "mb": answer["rss_mb"],
        "steps": answer["steps"],
        "load": load,
        "note": ", ".join(notes),
        "script": answer["peer"],
    }


# -- published figures -------------------------------------------------------------------------------------------------


def published(text: str) -> dict[tuple[int, str, str], tuple[float, float]]:
    """results.md -> (threads, work, peer) -> (median ms, MB); it names peers by their scripts, with version."""
    threads, found = 0, {}
    for line in text.splitlines():
        heading = re.match(r"## (\d+) threads?", line)
        threads = int(heading[1]) if heading else threads
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if threads and len(cells) >= 4 and cells[0] in WORKS:
            found[threads, cells[0], cells[1]] = (float(cells[2].split()[0]), float(cells[3]))
    return found


def estimate(
    table: dict[tuple[int, str, str], tuple[float, float]], work: str, threads: int, plain: dict[str, Any]
) -> dict[str, Any] | None:
    """learn2learn if it is not installed: the plain loop measured here times the published ratio (time and MB)."""
    named = {peer: value for (t, w, peer), value in table.items() if (t, w) == (threads, work)}
    theirs = next((value for peer, value in named.items() if peer.startswith(LEARN2LEARN)), None)
    base = named.get("plain-torch-loop")
    if theirs is None or base is None or "ms" not in plain:
        return None
    scaled = {"ms": plain["ms"] * theirs[0] / base[0], "mb": plain["mb"] * theirs[1] / base[1]}
    return {**scaled, "load": plain["load"], "note": "estimated", "estimated": True}


def unknown(names: Iterable[str]) -> list[str]:
    """The names that are not works."""
    return [name for name in names if name not in WORKS]
