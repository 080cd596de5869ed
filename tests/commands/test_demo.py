"""The demo: its picture in the terminal cell by cell, its numbers against the same numbers made by hand."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

import metaexp
from metaexp.commands import demo
from metaexp.commands.terminal_plot import ASCII, Marks, plot
from metaexp.errors import ConfigError

NONE = (np.array([]), np.array([]))


def drawn(text: str) -> list[str]:
    """The rows of the picture without its axes."""
    return [line[8:] for line in text.splitlines()[:-2]]


def test_a_level_line_fills_one_row_of_dots() -> None:
    x = np.array([0.0, 1.0])
    for value, blocks in ((1.0, "▀" * 12), (0.0, "")):  # the top row of dots, the bottom one
        rows = drawn(plot(x, np.full(2, value), np.full(2, 9.0), NONE, (20, 6), limits=(0, 1)))
        assert rows[0] == blocks
        assert rows[-1] == ("" if value else "▄" * 12)
        assert rows[1:-1] == ["", ""]


def test_a_slope_goes_through_every_row_and_stays_connected() -> None:
    x = np.linspace(0, 1, 50)
    rows = drawn(plot(x, x, np.full(50, 9.0), NONE, (18, 12), limits=(0, 1)))  # 10 columns and rows
    marked = [[c for c, mark in enumerate(row) if mark != " "] for row in rows]
    assert [columns[-1] for columns in marked] == list(range(9, -1, -1))  # of the diagonal from top right
    steep = drawn(plot(x, np.sign(x - 0.5), np.full(50, 9.0), NONE, (18, 12), limits=(-1, 1)))
    assert all(any(mark != " " for mark in row) for row in steep)


def test_points_and_the_function_have_their_own_marks() -> None:
    x = np.array([0.0, 1.0])
    rows = drawn(plot(x, np.zeros(2), np.ones(2), (np.array([0.0, 1.0]), np.array([0.0, 1.0])), (18, 6), limits=(0, 1)))
    assert rows[0] == "·" * 9 + "●"
    assert rows[-1] == "●" + "▄" * 9
    ascii_rows = plot(x, np.zeros(2), np.ones(2), NONE, (18, 6), marks=ASCII, limits=(0, 1))
    assert ascii_rows.isascii()
    assert drawn(ascii_rows)[-1] == "#" * 10


def test_colours_are_written_only_where_asked_for() -> None:
    x = np.array([0.0, 1.0])
    plain = plot(x, np.zeros(2), np.ones(2), NONE, (30, 8))
    coloured = plot(x, np.zeros(2), np.ones(2), NONE, (30, 8), colour=True)
    assert "\x1b" not in plain
    assert "\x1b[0;34;1m" in coloured
    stripped = [line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", coloured).splitlines()]
    assert stripped == [line.rstrip() for line in plain.splitlines()]


def test_the_numbers_are_those_of_the_estimator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert demo.demo(["--function", "3", "--points", "6"]) == 0
    out = capsys.readouterr().out
    seen = demo.learn(demo.shipped_run(), 3, 6)
    model = metaexp.load(ROOT / "scripts/runs/sine_r2d2")
    x, y = seen.points
    assert len(x) == 6
    # The function: the sine through its points, whose amplitude and phase follow from them.
    basis = np.linalg.lstsq(np.stack([np.sin(x), np.cos(x)], 1), y, rcond=None)[0]
    truth = np.stack([np.sin(seen.x), np.cos(seen.x)], 1) @ basis
    np.testing.assert_allclose(seen.truth, truth, atol=1e-4)
    after = np.mean((model.fit(x[:, None], y).predict(seen.x[:, None]) - truth) ** 2)
    neighbour = np.mean((np.array([y[np.argmin(abs(x - at))] for at in seen.x]) - truth) ** 2)
    told = " ".join(out.split())
    assert f"mean squared error {np.mean(truth**2):.3g} before the points, {after:.2g} after" in told  # before: level
    assert f"{neighbour / after:,.{0 if neighbour / after >= 10 else 1}f} times better than nearest neighbour" in told
    assert "trained on 500,000 sine functions" in told
    assert max(map(len, out.splitlines())) <= 80
    assert out.count("●") == 7  # and one in the legend
    assert (tmp_path / "metaexp_demo.png").read_bytes().startswith(b"\x89PNG")


def test_what_travels_in_a_wheel_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/test_packaging.py compares the files of the wheel with the same list."""
    for name in ("config.yaml", "result.json", "status.json", "checkpoints/best.ckpt", "checkpoints/best.ckpt.json"):
        (tmp_path / "shipped_run" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "shipped_run" / name).write_bytes((ROOT / "scripts/runs/sine_r2d2" / name).read_bytes())
    monkeypatch.setattr(demo, "__file__", str(tmp_path / "commands/demo.py"))
    run = demo.shipped_run()
    assert run == tmp_path / "shipped_run"
    here, there = demo.learn(run, 0, 10), demo.learn(ROOT / "scripts/runs/sine_r2d2", 0, 10)
    assert np.array_equal(here.after, there.after)
    (run / "config.yaml").unlink()
    with pytest.raises(ConfigError, match="the installation is incomplete"):
        demo.shipped_run()


def test_worse_is_called_worse() -> None:
    assert demo._times(1.0, 4.0) == "4.0 times worse"
    assert demo._times(1.0, 0.0) == "1,000,000,000,000 times better"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--points", "0"], "--points 0: must be from 1 to 1000"),
        (["--points", "x"], "argument --points: invalid int value: 'x'"),
        (["--function", "-1"], "--function -1: must be from 0"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_a_mistake_is_one_line(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    from metaexp.commands.console import console

    assert console(["demo", *argv]) == 2
    assert says in capsys.readouterr().err


def test_marks_have_a_character_for_each_of_the_sixteen_cells() -> None:
    assert len(Marks().line) == len(ASCII.line) == 16
