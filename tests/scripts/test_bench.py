"""scripts/bench.py: settings of the works, parsing, ratios, tables, and the check that two works are equal."""

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from metaexp.config.settings import load

sys.path.insert(0, str(ROOT / "scripts"))
from benching import checks, ours, peers, processes, tables, works

RESULTS = """# Peers
2 cores; median ms per meta-step

## 1 thread

| work | peer | ms | MB | note |
|---|---|---|---|---|
| sine-maml | plain-torch-loop | 10 (9.5) | 300 |  |
| sine-maml | learn2learn-0.2.0 | 15 (13) | 390 |  |
| omniglot-maml | plain-torch-vmap | 1.82e+03 (1.73e+03) | 1556 | wrong second-order gradient |

## 2 threads

| work | peer | ms | MB | note |
|---|---|---|---|---|
| sine-maml | plain-torch-loop | 12.6 (12.3) | 306 |  |
"""


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench", ROOT / "scripts" / "bench.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(who: str, round_: int, ms: float | None, mb: float = 100.0, **more: Any) -> dict[str, Any]:
    measured = {} if ms is None else {"ms": ms, "mb": mb}
    return {"work": "sine-maml", "threads": 1, "round": round_, "who": who, "load": 0.1, **measured, **more}


# -- works -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, w in works.WORKS.items() if (ROOT / f"conf/algo/{w.algo}.yaml").exists()])
def test_the_settings_of_a_work_are_what_the_peers_do(name: str) -> None:
    folder = Path(os.environ.get("METAEXP_DATA") or ROOT.parent / "shared" / "data").parent / "bench"
    if not (folder / "common.py").exists():
        pytest.skip("no folder of the peers' scripts")
    theirs, work = checks.common(folder).WORKS[name], works.WORKS[name]
    config = load(works.overrides(work.settings))
    assert theirs["kind"] == work.kind
    assert config["meta_batch"] == theirs["tasks"]
    assert config["optimizer"]["lr"] == theirs.get("eps", theirs.get("outer_lr"))
    assert config["optimizer"]["schedule"] is None
    assert config["optimizer"]["_target_"] == f"torch.optim.{'SGD' if 'eps' in theirs else 'Adam'}"
    assert config["task"]["shots"] == theirs.get("shots", theirs.get("k", theirs.get("n")))
    assert config["task"].get("ways") == theirs.get("ways")
    if work.kind != "reptile":
        assert config["task"]["queries"] == theirs.get("query", theirs.get("q"))
    if work.kind != "proto":
        assert (config["algo"]["inner_lr"], config["algo"]["inner_steps"]) == (theirs["inner_lr"], theirs["inner"])
    if "pool" in theirs:
        assert (config["model"]["down"], config["model"]["filters"]) == ("pool" if theirs["pool"] else "stride", 64)
    assert work.steps // work.every >= 8


def test_every_setting_of_a_run_is_known() -> None:
    given = ours.settings("sine-maml", "true", 2, None, quick=True, extra={"clip.norm": "1"})
    config = load(works.overrides(given))
    assert (config["device"]["threads"], config["compile"], config["clip"]["norm"]) == (2, True, 1)
    assert (config["steps"], config["log"]["every"]) == (400, 10)
    assert config["val"]["every"] > config["steps"] < config["checkpoint"]["every"]


# -- single measurements -----------------------------------------------------------------------------------------------


def test_ours_is_the_median_wall_clock_between_rows_after_the_first(tmp_path: Path) -> None:
    seconds = [9.0, 9.2, 9.5, 9.7]  # nine seconds of compiling before the first row
    rows: list[dict[str, Any]] = [{"kind": "val", "step": 0, "seconds": 1.0}]
    rows += [{"kind": "train", "step": 100 * (i + 1), "seconds": s} for i, s in enumerate(seconds)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = {"speed": {"meta_steps_per_s": 800.0}, "memory": {"peak_mb": 410}, "steps": 400}
    (tmp_path / "result.json").write_text(json.dumps(result))
    done = processes.Done(0, "compile: not possible here (x); going on without\n", "", 11.0, 0.3)
    found = ours.read(tmp_path, done)
    assert found["ms"] == pytest.approx(2.0)
    assert (found["ms_steps"], found["mb"], found["rows"], found["load"]) == (1.25, 410, 4, 0.3)
    assert found["note"] == "not compiled"


def test_a_peers_line_is_read_with_its_notes() -> None:
    line = {"ms_median": 2.5, "ms_per_meta_step": 2.7, "rss_mb": 300.5, "steps": 200, "peer": "plain-torch-vmap"}
    done = processes.Done(0, "a warning\n" + json.dumps(line | {"GRAD_WRONG": "see README"}) + "\n", "", 3.0, 0.2)
    found = peers.read(done.answer(), done.reason(), done.load)
    assert (found["ms"], found["mb"], found["load"], found["note"]) == (2.5, 300.5, 0.2, "wrong gradient")
    assert peers.read({"unsupported": "conv works only"}, "", 0.0) == {"failed": "conv works only", "load": 0.0}
    died = processes.Done(1, "", "Traceback\nImportError: no higher\n", 1.0, 0.0)
    assert peers.read(died.answer(), died.reason(), 0.0)["failed"] == "exit 1: ImportError: no higher"
    assert processes.Done(None, "", "", 400.0, 0.0).reason() == "time limit (400 s)"


def test_learn2learn_is_estimated_by_the_published_ratio_of_the_same_table() -> None:
    table = peers.published(RESULTS)
    assert table[1, "omniglot-maml", "plain-torch-vmap"] == (1820.0, 1556.0)
    plain = {"ms": 8.0, "mb": 200.0, "load": 0.1}
    found = peers.estimate(table, "sine-maml", 1, plain)
    assert found == {"ms": 12.0, "mb": 260.0, "load": 0.1, "note": "estimated", "estimated": True}
    assert peers.estimate(table, "sine-maml", 2, plain) is None  # the other table does not have it
    assert peers.estimate(table, "sine-maml", 1, {"failed": "x", "load": 0.0}) is None


def test_peers_of_a_work_by_what_is_installed() -> None:
    both = peers.Pythons("torch", "jax", learn2learn=False)
    assert peers.chosen("sine-maml", both, False) == ["plain-loop", "plain-vmap", "jax-vmap", "jax-scan"]
    assert peers.chosen("omniglot-maml", both, False) == ["plain-loop", "torchopt-metasgd", "jax-looppatches"]
    alone = peers.Pythons("torch", None, learn2learn=True)
    assert peers.chosen("omniglot-protonet", alone, False) == ["plain-loop", "learn2learn", "easyfsl"]
    assert "higher" in peers.chosen("omniglot-maml", alone, True)
    assert peers.amounts("sine-maml", "jax-scan", quick=False) == (20_000, 1)
    assert peers.amounts("omniglot-maml-pool", "plain-loop", quick=False) == (6, 2)


# -- ratios and tables -------------------------------------------------------------------------------------------------


def measured() -> list[dict[str, Any]]:
    runs = [run("metaexp", i, ms, mb) for i, (ms, mb) in enumerate([(1.0, 400), (2.0, 410), (4.0, 420)])]
    runs += [run("plain-loop", i, ms) for i, ms in enumerate([10.0, 24.0, 44.0])]
    runs += [run("jax-vmap", 0, 0.5), run("jax-vmap", 1, None, failed="exit 1: killed"), run("jax-vmap", 2, 8.0)]
    runs += [run("plain-vmap", i, 0.1, note="wrong gradient") for i in range(3)]
    return [*runs, run("learn2learn", 0, 15.0, note="estimated", estimated=True)]


def test_a_ratio_is_taken_within_a_round() -> None:
    table = {row["peer"]: row for row in tables.rows(measured())}
    assert table["plain-loop"]["ratio"] == {"median": 11.0, "min": 10.0, "max": 12.0}  # of medians: 12
    assert (table["plain-loop"]["ours_ms"], table["plain-loop"]["peer_ms"]) == (2.0, 24.0)
    assert table["jax-vmap"]["ratio"] == {"median": 1.25, "min": 0.5, "max": 2.0}  # the failed round is left out
    assert table["plain-loop"]["ours_mb"] == 410
    assert tables.ratio([run("metaexp", 0, None, failed="x")], [run("plain-loop", 0, 1.0)]) is None


def test_the_best_peers_have_the_right_gradient() -> None:
    table = tables.rows(measured())
    assert [row["peer"] for row in table] == ["plain-vmap", "jax-vmap", "learn2learn", "plain-loop"]
    assert not tables.counts({"peer_ms": 4.25, "note": "failed: exit 1"})
    clean = tables.rows([r for r in measured() if "failed" not in r])
    assert [row["peer"] for row in tables.best(clean)] == ["jax-vmap", "plain-loop", "learn2learn"]


def test_tables_show_notes_refusals_and_where_it_was_measured(tmp_path: Path) -> None:
    mark = {"date": "2026-01-02", "commit": "0123456789", "cpu": "a CPU", "cores": 2, "python": "3.11.7"}
    mark |= {"command": "python scripts/bench.py --peers DIR", "torch": "2.13.0", "versions": {"jax": "0.10.2"}}
    refused = {"equal": False, "errors": {}, "why": "vmap differs by 1.0e-02 in precision 64-true (allowed 1e-10)"}
    checked = {"sine-maml": {"equal": True}, "omniglot-anil": refused}
    data = {"runs": measured(), "stamps": {"sine-maml/1": mark, "start": mark}, "checks": checked}
    text = tables.details(data | {"start": [{"what": "configuration error", "seconds": 0.51, "load": 0.1}]})
    assert "| sine-maml | 1 | 2 | plain-vmap | 0.1 |" in text
    assert "|  |  |  | plain-loop | 24 | 11.00 (10.00-12.00) | 410 / 100 |  |" in text
    assert "| wrong gradient |" in text
    assert "| estimated |" in text
    assert "| failed: exit 1: killed |" in text
    assert "- omniglot-anil: not timed, vmap differs by 1.0e-02" in text
    assert "| configuration error | 0.51 |" in text
    assert text.count("2026-01-02, commit 0123456789, a CPU, 2 cores") == 1
    page = tmp_path / "speed.md"
    page.write_text("above\n<!-- bench -->\nold\n<!-- /bench -->\nbelow\n")
    shown = tables.summary(data, "../bench.md")
    tables.paste(page, shown)
    tables.paste(page, shown)
    middle = page.read_text().removeprefix("above\n<!-- bench -->\n").removesuffix("<!-- /bench -->\nbelow\n")
    assert middle.strip() == shown.strip()
    assert "plain-loop" in shown
    assert shown.endswith(": [bench.md](../bench.md).\n")
    (tmp_path / "other.md").write_text("nothing")
    with pytest.raises(ValueError, match=r"other.md: needs one <!-- bench -->"):
        tables.paste(tmp_path / "other.md", "text")


def test_the_page_shows_the_committed_measurements() -> None:
    data = json.loads((ROOT / "scripts/results/bench.json").read_text(encoding="utf-8"))
    shown = tables.summary(data, "../scripts/results/bench.md").strip()
    assert shown in (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    assert tables.details(data) == (ROOT / "scripts/results/bench.md").read_text(encoding="utf-8")


# -- equal work --------------------------------------------------------------------------------------------------------

COMMON = """
import numpy as np
WORKS = {"sine-maml": dict(kind="sine", tasks=3, k=4, q=5, inner_lr=0.01, inner=1)}


def init_params(work, seed):
    rng = np.random.default_rng(seed)
    shapes = {"l1": (40, 1), "l2": (40, 40), "l3": (1, 40)}
    return [(f"{n}.{p}", rng.standard_normal(s if p == "weight" else s[:1]).astype("f4") / 6)
            for n, s in shapes.items() for p in ("weight", "bias")]


class Data:
    def __init__(self, work, seed):
        self.rng = np.random.default_rng(seed)

    def batch(self):
        x = self.rng.uniform(-5, 5, (3, 9, 1)).astype("f4")
        y = np.sin(x)
        return x[:, :4], y[:, :4], x[:, 4:], y[:, 4:]
"""
PLAIN = """
import argparse, sys
import numpy as np, torch
import common
p = argparse.ArgumentParser()
for name in ("work", "variant", "check"):
    p.add_argument("--" + name)
p.add_argument("--f64", action="store_true")
a = p.parse_args()
dtype = torch.float64 if a.f64 else torch.float32
names, start = zip(*common.init_params(a.work, 0))
start = [torch.tensor(w, dtype=dtype, requires_grad=True) for w in start]
xs, ys, xq, yq = (torch.tensor(b, dtype=dtype) for b in common.Data(a.work, 0).batch())


def loss(w, x, y):
    h = torch.relu(torch.relu(x @ w[0].T + w[1]) @ w[2].T + w[3])
    return ((h @ w[4].T + w[5] - y) ** 2).mean()


total = 0.0
for t in range(3):
    inner = torch.autograd.grad(loss(start, xs[t], ys[t]), start, create_graph=SECOND_ORDER)
    total = total + loss([w - 0.01 * g for w, g in zip(start, inner)], xq[t], yq[t]) / 3
grads = torch.autograd.grad(total, start)
np.savez(a.check, loss=float(total.detach()), **{n: g.numpy() for n, g in zip(names, grads)})
"""


def peers_folder(path: Path, second_order: bool) -> Path:
    path.mkdir()
    (path / "common.py").write_text(COMMON)
    (path / "bench_plain.py").write_text(PLAIN.replace("SECOND_ORDER", str(second_order)))
    return path


def test_equal_work_is_accepted_and_another_gradient_refused(tmp_path: Path) -> None:
    same = checks.check("sine-maml", peers_folder(tmp_path / "same", True), sys.executable, None, compiled=False)
    assert (same["equal"], same["why"]) == (True, "")
    assert max(same["errors"]["64-true"].values()) < 1e-13
    assert set(same["errors"]["32"]) == {"vmap", "loop"}
    other = checks.check("sine-maml", peers_folder(tmp_path / "other", False), sys.executable, None, compiled=False)
    assert not other["equal"]
    assert other["why"].startswith("vmap differs by")
    assert min(other["errors"]["64-true"].values()) > 1e-3


def test_a_work_that_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    folder = peers_folder(tmp_path / "peers", True)
    (folder / "bench_plain.py").write_text("raise SystemExit('no torch here')")
    found = checks.check("sine-maml", folder, sys.executable, None, compiled=False)
    assert found == {"equal": False, "errors": {}, "why": "RuntimeError: bench_plain.py --check: exit 1: no torch here"}


def test_drawn_minibatches_are_what_our_reptile_finds() -> None:
    import torch

    from metaexp.inner import minibatches

    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((2, 6, 3, 1)) for _ in range(2))  # [tasks, steps, size, 1]
    made = checks.episode((x, y), "reptile", 0, torch.float64)
    for task in range(2):
        rows = minibatches(made.key[task], 64, 18, 3, 6)
        assert rows is not None
        assert np.array_equal(made.support.x[task][rows].numpy(), x[task])
        assert np.array_equal(made.support.y[task][rows].numpy(), y[task])


def test_float32_decides_for_small_networks_only() -> None:
    errors = {"64-true": {"vmap": 1e-14}, "32": {"vmap": 1e-3}}
    assert not checks.verdict("sine", errors)["equal"]
    assert checks.verdict("omni", errors)["equal"]
    assert not checks.verdict("omni", {"64-true": {"vmap": float("nan")}, "32": {}})["equal"]
    nothing = {"w": np.array([np.nan])}
    assert checks.difference(nothing, {"w": np.array([1.0])}) == float("inf")


# -- the command -------------------------------------------------------------------------------------------------------


def test_a_busy_machine_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = load_script()
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 0.0, 0.0))
    (tmp_path / "common.py").write_text(COMMON)
    words = ["--peers", str(tmp_path), "--peers-torch", sys.executable, "--out", str(tmp_path / "bench.json")]
    assert bench.main(words) == 2
    assert capsys.readouterr().err == "bench: load average 1.50 > 0.7: wait for a quiet machine, or --force\n"
    assert not (tmp_path / "bench.json").exists()


def test_a_wrong_argument_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = load_script()
    for words, said in (
        (["--works", "sine-mml"], "--works sine-mml: not among sine-maml"),
        ([], "--peers DIR and --peers-torch PYTHON: needed"),
        (["--peers", str(tmp_path), "--peers-torch", "x"], f"--peers {tmp_path}: no common.py there"),
    ):
        with pytest.raises(SystemExit) as stopped:
            bench.main(words)
        assert stopped.value.code == 2
        assert said in capsys.readouterr().err


def test_the_recorded_command_names_no_folder_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PEERS_JAX", raising=False)
    bench = load_script()
    (tmp_path / "common.py").write_text(COMMON)
    words = ["--peers", str(tmp_path), "--peers-torch", "/a/python", "--works", "sine-maml", "--threads", "1,2"]
    found = bench.command(bench.arguments([*words, "--quick", "--force"]))
    wanted = "--peers DIR --peers-torch PYTHON --works sine-maml --threads 1,2 --repeats 1 --quick --force"
    assert found == f"PYTHONPATH=. python scripts/bench.py {wanted}"


def test_pictures_and_tables_are_made_from_the_file(tmp_path: Path) -> None:
    bench = load_script()
    points = [
        {"axis": axis, "value": value, "how": how, "ms": 0.1 * value, "mb": 300.0}
        for axis in ("tasks", "inner steps", "width")
        for value in (1, 4)
        for how in ("eager", "compiled")
    ]
    data = {"format": 1, "stamps": {}, "checks": {}, "runs": measured(), "scaling": points}
    out = tmp_path / "bench.json"
    bench.write(out, data)
    assert bench.main(["--render", "--out", str(out)]) == 0
    assert "| tasks | 4 | eager | 0.4 | 300 |" in (tmp_path / "bench.md").read_text()
    for name in ("works", "scaling"):
        assert (tmp_path / f"bench_{name}.png").read_bytes().startswith(b"\x89PNG")


def test_table_of_whole_commands_has_medians_and_what_was_not_measured():
    points = [
        {"what": "run", "seconds": s, "cpu_seconds": c, "load": 2.0} for s, c in ((9.0, 4.0), (3.0, 2.0), (4.0, 8.0))
    ]
    table = tables.start_table([*points, {"what": "first step", "seconds": 2.5}]).splitlines()
    assert table[2:] == ["| run | 4 | 4 | 2 | 3 |", "| first step | 2.5 | - | - | 1 |"]
    page = tables.summary({"runs": measured(), "start": points}, "x.md")
    assert "| run | 4 | 4 | 2 | 3 |" in page


def test_seconds_of_the_processor_are_those_of_the_command_and_what_it_starts():
    code = "import subprocess, sys, time; subprocess.run([sys.executable, '-c', 'sum(range(10**7))'])"
    done = processes.run([sys.executable, "-c", code])
    assert done.code == 0
    assert 0.02 < done.cpu <= 2 * done.seconds + 0.1


def test_exponents_are_those_between_the_two_largest_values():
    points = [{"axis": "width", "how": "eager", "value": v, "ms": 0.1 * v**2, "mb": 400} for v in (100, 10, 1)]
    points += [{"axis": "idle", "value": 0, "how": "no step", "ms": None, "mb": 300}]
    assert tables.exponents(points).splitlines()[2:] == ["| width | eager | 10 to 100 | 2.00 | 0.00 |"]
