"""Times of different machines are told apart and not compared."""

import json
from pathlib import Path

import numpy as np
import pytest
from report_tables import table, write

from metaexp.report.command import report


def timed(folder: Path, algo: str, seed: int, cpu: str, threads: int, seconds: float) -> None:
    write(folder, algo, np.linspace(1, 2, 50)[:, None], seed)
    file = folder / f"{algo}{seed}" / "result.json"
    more = {"machine": {"cpu": cpu, "cores": 4}, "threads": threads, "speed": {"seconds": seconds}}
    file.write_text(json.dumps(json.loads(file.read_text()) | more))


def test_seconds_of_different_machines_have_letters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    for seed, seconds in enumerate((10.0, 20.0)):
        timed(runs, "maml", seed, "Intel Xeon", 1, seconds)
    timed(runs, "maml", 2, "AMD EPYC", 2, 90.0)
    timed(runs, "r2d2", 0, "AMD EPYC", 2, 7.0)
    assert report([str(runs), "--wide"]) == 0
    shown = capsys.readouterr().out
    rows = {line.split()[0]: line for line in reversed(shown.splitlines()) if line.strip()}
    assert "  90 A, 15 B" in rows["maml"]
    assert "  7 A" in rows["r2d2"]
    said = "seconds of different machines do not compare: A: AMD EPYC, 2 threads; B: Intel Xeon, 1 thread"
    assert said in " ".join(shown.split())
    lines = {line["algo"]: line for line in table(runs) if not line["floor"]}
    assert lines["maml"]["timed"] == "AMD EPYC, 2 threads: 90; Intel Xeon, 1 thread: 15"


def test_seconds_of_one_machine_are_plain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        timed(tmp_path, "maml", seed, "Intel Xeon", 1, 10.0 + 10 * seed)
    timed(tmp_path, "r2d2", 0, "Intel Xeon", 1, 7.0)
    assert report([str(tmp_path), "--wide"]) == 0
    shown = capsys.readouterr().out
    assert "different machines" not in shown
    rows = {line.split()[0]: line.split() for line in reversed(shown.splitlines()) if line.strip()}
    place = next(row.split() for row in shown.splitlines() if "seconds" in row)
    assert "15" in rows["maml"]
    assert "seconds" in place
