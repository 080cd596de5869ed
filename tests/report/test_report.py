"""`python -m metaexp.report`: its numbers against plain NumPy on real small runs."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image
from report_tables import copied, finals, only, table
from undrawn import undraw

from metaexp.config.command_line import exit_code
from metaexp.errors import ConfigError, DataError
from metaexp.evaluate import evaluate
from metaexp.evaluation.intervals import crossed
from metaexp.report import pictures
from metaexp.report.command import report
from metaexp.report.grouping import compare, differing
from metaexp.report.pictures import spread
from metaexp.report.reading import find
from metaexp.report.tables import _pairs, blocks, number
from metaexp.storage.metrics_log import read_rows
from metaexp.storage.run_folder import RunFolder


def test_groups_means_and_both_intervals(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(runs, tmp_path / "runs", "_maml", "_r2d2")
    lines = {line["floor"] or line["algo"]: line for line in table(folder, "--wide")}
    names = ("mean", "neighbour", "oracle", "scratch")
    assert list(lines)[2:] == sorted(names, key=lambda name: float(lines[name]["mean"]))  # once, not once per run
    for algo in ("maml", "r2d2"):
        scores, line = finals(runs, algo), lines[algo]
        means = scores.mean(1)
        assert float(line["mean"]) == pytest.approx(means.mean(), rel=1e-12)
        assert float(line["seeds_half"]) == pytest.approx(4.302653 * means.std(ddof=1) / math.sqrt(3), rel=1e-5)
        tasks = 1.96 * scores.std(1, ddof=1) / math.sqrt(40)
        assert float(line["tasks_half"]) == pytest.approx(tasks.mean(), rel=1e-9)
        assert (line["seeds"], line["tasks"], line["diverged"], line["steps"]) == ("3", "40", "0", "6.0")
        results = [json.loads((path / "result.json").read_text()) for path in folder.glob(f"*_{algo}*")]
        assert float(line["seconds"]) == pytest.approx(np.mean([one["speed"]["seconds"] for one in results]))
        assert int(line["peak_mb"]) == max(one["memory"]["peak_mb"] for one in results)
        assert line["parameters"] == str(results[0]["parameters"])
        assert line["test_steps"] == ("10" if algo == "maml" else "0")
    floors = [json.loads((path / "result.json").read_text())["floors"] for path in folder.iterdir()]
    assert float(lines["mean"]["mean"]) == floors[0]["mean"]["mse"]["mean"]
    assert float(lines["scratch"]["mean"]) == min(one["scratch"]["mse"]["mean"] for one in floors)
    assert " to " in lines["scratch"]["note"]
    shown = capsys.readouterr().out
    assert shown.startswith("sine: 10 shots, 100 queries, 40 test tasks, eval_seed 0\n")
    mean, half, p = crossed(finals(runs, "maml"), finals(runs, "r2d2"))
    (line,) = (line for line in shown.splitlines() if "algorithms" in line and "3 and 3" in line)
    assert number(abs(mean)) in line
    assert number(half, 2) in line
    assert ("< 0.0001" if p < 1e-4 else f"{p:.2g}") in line.split()


def test_settings_of_the_curve_against_shots_are_none_of_the_method(runs: Path, tmp_path: Path) -> None:
    folder = copied(runs, tmp_path / "runs", "_maml")
    for seed, shots in enumerate(([], [1, 2], [1])):
        file = only(folder, f"_maml{seed}_") / "config.yaml"
        config = yaml.safe_load(file.read_text())
        config["test"] |= {"curve_shots": shots, "curve_tasks": 3 + seed}
        file.write_text(yaml.safe_dump(config))
    lines = [line for line in table(folder) if not line["floor"]]
    assert [(line["algo"], line["seeds"]) for line in lines] == [("maml", "3")]


def test_what_one_interval_shows_may_not_be_shown_among_many(runs: Path) -> None:
    """Twelve groups on one set of tasks, the last apart, the one before it a little; the others differ by chance."""
    (block, *_) = blocks(compare(find([runs]).runs))
    section, random = block.section, np.random.default_rng(3)
    (example, *_) = section.groups
    level, groups = random.normal(size=40), []
    for i in range(12):
        scores = [(level + {10: 0.3, 11: 5.0}.get(i, 0.0) + random.normal(size=40))[:, None] for _ in range(3)]
        made = [run._replace(scores={"mse": one}) for run, one in zip(example.runs, scores, strict=True)]
        groups.append(example._replace(label=f"g{i}", runs=made))
    pairs, note = _pairs(section, groups, "mse", False, True)
    assert (len(pairs), note) == (66, "")
    apart = [pair for pair in pairs if "g11" in (pair.one, pair.two)]
    assert all(pair.verdict.endswith("better") and pair.p < 0.05 for pair in apart)
    chance = [pair for pair in pairs if pair not in apart]
    alone = [pair for pair in chance if abs(pair.mean) > pair.half]
    assert alone  # some intervals leave out 0
    assert {pair.verdict for pair in alone} == {"no difference shown among 66 pairs"}
    assert {pair.verdict for pair in chance if pair not in alone} == {"no difference shown"}


def test_differences_from_the_best_of_many_equal_groups_seldom_name_one_better(runs: Path) -> None:
    """The reference is chosen from the same scores: corrected for the pairs that are shown alone, errors pile up."""
    (block, *_) = blocks(compare(find([runs]).runs))
    section, random = block.section, np.random.default_rng(0)
    (example, *_) = section.groups
    wrong = 0
    for _ in range(60):
        level, groups = random.normal(size=40), []
        for i in range(12):
            scores = [(level + random.normal(size=40))[:, None] for _ in range(3)]
            made = [run._replace(scores={"mse": one}) for run, one in zip(example.runs, scores, strict=True)]
            groups.append(example._replace(label=f"g{i}", runs=made))
        groups.sort(key=lambda group: float(np.mean([run.scores["mse"] for run in group.runs])))
        pairs, note = _pairs(section, groups, "mse", False, False)
        assert len(pairs) == 11
        assert note.endswith("p is corrected for all 66 pairs")
        wrong += any(pair.verdict.endswith("better") for pair in pairs)
    assert wrong <= 6  # 5 % of 60 are 3


def test_runs_tested_differently_are_never_compared(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = compare(find([runs]).runs)
    assert made.keys == ["algo", "task.shots"]
    assert [(section.title[:14], len(section.groups)) for section in made.sections] == [
        ("sine: 10 shots", 2),
        ("sine: 2 shots,", 1),
    ]
    assert report([str(runs)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("claim about algorithms") == 1
    assert "tested differently are in tables of their own" in shown
    assert "shots=2 -" not in shown
    assert "- maml shots=2" not in shown


def test_one_seed_each_is_a_claim_about_checkpoints(runs: Path, tmp_path: Path) -> None:
    (block,) = blocks(compare(find([copied(runs, tmp_path, "_maml1_", "_r2d2_", "_r2d21_")]).runs))
    (pair,) = block.pairs
    paired = finals(runs, pair.one)[1] - finals(runs, pair.two)[1]
    assert (pair.mean, pair.half) == pytest.approx((paired.mean(), 1.96 * paired.std(ddof=1) / math.sqrt(40)))
    assert (pair.claim, pair.seeds, pair.tasks) == ("checkpoints", "1 and 1", 40)
    assert all(row.seeds_half is None for row in block.rows)
    words = "no difference shown" if abs(pair.mean) <= pair.half else f"{pair.one} better"  # best first
    assert pair.verdict == words


def test_other_query_sets_of_the_same_settings_are_not_paired(runs: Path, tmp_path: Path) -> None:
    folder = copied(runs, tmp_path, "_maml0_", "_r2d20_")
    file = only(folder, "r2d2") / "result.json"
    file.write_text(file.read_text().replace('"query_sha256": "', '"query_sha256": "00'))
    made = compare(find([folder]).runs)
    assert len({section.title for section in made.sections}) == len(made.sections) == 2
    assert all("query sets" in section.title for section in made.sections)
    assert not any(block.pairs for block in blocks(made))


def test_settings_that_are_mixed_get_no_interval_over_seeds(runs: Path, tmp_path: Path) -> None:
    folder = copied(runs, tmp_path, "_maml", "_r2d2")
    file = only(folder, "maml2") / "config.yaml"
    file.write_text(file.read_text().replace("inner_lr: 0.01", "inner_lr: 0.02"))
    by_all = compare(find([folder]).runs)
    assert by_all.keys == ["algo", "algo.inner_lr"]
    assert sorted(group.label for group in by_all.sections[0].groups) == [
        "maml inner_lr=0.01",
        "maml inner_lr=0.02",
        "r2d2",
    ]
    made = compare(find([folder]).runs, ["algo"])
    assert "maml: its runs also differ in algo.inner_lr; no interval over seeds" in made.notes
    (block,) = blocks(made)
    halves = {row.names[0]: row.seeds_half for row in block.rows if not row.floor}
    assert halves["maml"] is None
    assert halves["r2d2"] is not None
    assert [pair.claim for pair in block.pairs] == ["checkpoints"]


def test_every_floor_of_the_file_is_shown(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(runs, tmp_path, "_maml0_", "_r2d20_")
    for path in folder.glob("*/result.json"):
        result = json.loads(path.read_text())
        result["floors"] |= {name: {"mse": {"mean": value}} for name, value in (("oracle", 0.5), ("neighbour", 2.5))}
        result["adapted_parameters"] = 41
        path.write_text(json.dumps(result))
    assert report([str(folder)]) == 0
    shown = capsys.readouterr().out
    starts = ("upper bound: or", "baseline: ne")
    (oracle,), (neighbour,) = ([line for line in shown.splitlines() if line.startswith(start)] for start in starts)
    assert oracle.split() == ["upper", "bound:", "oracle", "0.5"]
    assert neighbour.split() == ["baseline:", "neighbour", "2.5"]
    assert "adapted" in shown
    assert "upper bound: what a learner would reach" in shown


def test_equal_runs_count_once(runs: Path, tmp_path: Path) -> None:
    folder = copied(runs, tmp_path, "_maml")
    shutil.copytree(only(folder, "maml1"), folder / "again")
    made = compare(find([folder]).runs)
    assert len(made.sections[0].runs) == 3
    assert any("2 equal runs of seed 1" in note for note in made.notes)


def test_evaluations_stand_beside_their_runs(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    undraw(monkeypatch.setattr)
    folder = Path(shutil.copytree(only(runs, "_maml0_"), tmp_path / "maml"))
    assert evaluate([f"run={folder}"]) == 0
    assert evaluate([f"run={folder}", "device.threads=2"]) == 0
    (run,) = compare(find([tmp_path]).runs).sections[0].runs  # the same again is no further run
    assert run.folder == folder
    assert evaluate([f"run={folder}", "algo.test_steps=2"]) == 0
    assert evaluate([f"run={folder}", "task.shots=3"]) == 0
    made = compare(find([tmp_path]).runs)
    assert set(made.keys) >= {"algo.test_steps", "task.test.shots"}
    assert [len(section.groups) for section in made.sections] == [2, 1]
    capsys.readouterr()
    assert report([str(tmp_path), "--by", "algo.test_steps"]) == 0
    assert "test_steps=10 - test_steps=2" in capsys.readouterr().out.replace("=2 - test_steps=10", "=10 - test_steps=2")


def test_unfinished_runs_are_listed_with_their_state(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied(runs, tmp_path, "_maml0_")
    for name, state in (("killed", "running"), ("lives", "running"), ("failed", "failed"), ("stopped", "interrupted")):
        made = tmp_path / name
        made.mkdir()
        (made / "config.yaml").write_text("steps: 900\n")
        status = {"state": state, "step": 300, "error": "loss not finite" if state == "failed" else None}
        (made / "status.json").write_text(json.dumps(status))
    with RunFolder.reopen(tmp_path / "lives"):
        assert report([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "not finished (4 runs):" in shown
    for words in ("killed: {}/killed (step 300 of 900)", "running: {}/lives (step 300 of 900)"):
        assert words.format(tmp_path) in shown
    assert f"failed: {tmp_path}/failed (step 300 of 900: loss not finite)" in shown
    assert f"interrupted: {tmp_path}/stopped (step 300 of 900)" in shown


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("result.json", b"{", "damaged, not JSON"),
        ("result.json", b"[1]", "holds no result"),
        ("result.json", b'{"format": 2}', "written by format 2, this reads <=1"),
        ("result.json", b'{"test": {"mse": 3}}', "does not hold metrics"),
        ("result.json", b"[" * 100_000, "damaged, not JSON"),
        ("result.json", b"\xff\xfe\x00", "damaged, not JSON"),
        ("test_scores.npz", b"PK\x03\x04", "damaged"),
        ("test_scores.npz", b"", "damaged"),
        ("config.yaml", b"{", "damaged, not YAML"),
        ("config.yaml", b"a: ${oc.env:HOME}", "interpolation"),
        ("config.yaml", None, "cannot be read (No such file or directory); its settings are unknown"),
        ("status.json", b"[" * 100_000, ""),
    ],
)
def test_damaged_files_are_one_line_each(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, content: bytes | None, says: str
) -> None:
    folder = copied(runs, tmp_path, "_maml0_", "_r2d20_")
    (only(folder, "r2d2") / file).unlink()
    if content is not None:
        (only(folder, "r2d2") / file).write_bytes(content)
    if not says:  # nothing is read there that a finished run's row needs
        assert report([str(tmp_path)]) == 0
        return
    assert exit_code(lambda: report([str(tmp_path)])) == DataError.exit_code
    shown = capsys.readouterr()
    (line,) = (line for line in shown.out.splitlines() if line.startswith("damaged: "))
    assert says in line
    assert str(only(folder, "r2d2") / file) in line
    assert "Traceback" not in shown.err
    assert "maml" in shown.out


def test_a_run_of_unknown_settings_is_no_seed_of_an_algorithm(runs: Path, tmp_path: Path) -> None:
    folder = copied(runs, tmp_path, "_maml", "_r2d2")
    (only(folder, "_r2d22_") / "config.yaml").write_text("{")
    made = compare(find([folder]).runs, ["algo"])
    (r2d2,) = (group for section in made.sections for group in section.groups if group.label == "r2d2")
    assert r2d2.mixed == ["settings unknown"]
    assert any("also differ in settings unknown; no interval over seeds" in note for note in made.notes)
    (block, *_) = blocks(made)
    assert {pair.claim for pair in block.pairs} == {"checkpoints"}
    apart = compare(find([folder]).runs)  # by itself it stands in a row of its own
    assert max(len(group.runs) for section in apart.sections for group in section.groups if "r2d2" in group.label) == 2


def test_no_column_of_the_csv_has_the_name_of_another(runs: Path, tmp_path: Path) -> None:
    folder = copied(runs, tmp_path / "runs", "_maml0_", "_r2d20_")
    lines = table(folder, "--by", "algo,steps,task")
    (maml,) = (line for line in lines if line["algo"] == "maml")
    assert (maml["setting_steps"], maml["steps"], maml["setting_task"], maml["task"]) == ("6", "6.0", "sine", "sine")
    assert {line["task"] for line in lines} == {"sine"}


def test_a_run_without_a_finite_score_is_no_seed_of_the_mean(runs: Path, tmp_path: Path) -> None:
    folder = copied(runs, tmp_path / "runs", "_maml")
    file = only(folder, "_maml2_") / "result.json"
    result = json.loads(file.read_text())
    result["test"]["mse"] |= {"mean": None, "ci95": None, "diverged": 40}
    file.write_text(json.dumps(result))
    (maml,) = (line for line in table(folder, "--by", "algo") if line["algo"] == "maml")
    assert (maml["seeds"], maml["note"]) == ("2", "1 of 3 runs without a finite score")


def test_the_tasks_of_another_seed_are_another_setting(runs: Path, tmp_path: Path) -> None:
    folder = copied(runs, tmp_path, "_maml0_", "_maml1_")
    file = only(folder, "_maml1_") / "config.yaml"
    file.write_text(file.read_text().replace("seed: 1", "seed: 0", 1))  # the run's own; its tasks stay those of seed 1
    found = find([folder]).runs
    assert [run.config["task.seed"] for run in found] == ["as seed", 1]
    assert differing(found) == ["task.seed"]


def test_scores_that_contradict_the_result_are_said(runs: Path, tmp_path: Path) -> None:
    folder = copied(runs, tmp_path, "_maml0_", "_r2d20_")
    np.savez(only(folder, "r2d2") / "test_scores.npz", mse=np.ones((40, 1)))
    found = find([folder])
    assert len(found.runs) == 2
    assert "result.json says" in found.damaged[0]
    (block,) = blocks(compare(found.runs))
    assert block.pairs == []
    assert "scores of single tasks are missing" in block.pairs_note


def test_what_cannot_be_is_one_line(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for typed, code, says in (
        ([str(tmp_path / "nowhere")], 2, "no such folder"),
        ([str(tmp_path)], 3, "no finished run there"),
        ([str(runs), "--by", "algo.inner_rl"], 2, "did you mean algo.inner_lr"),
        ([str(runs), "--by", "shots"], 2, "did you mean task.shots or task.test.shots"),
        ([str(runs), "--metric", "accuracy"], 2, "there are mse"),
        ([str(runs), "--what"], 2, "unrecognized arguments: --what"),
        ([str(runs), "by=algo"], 2, "options are written --by algo"),
        ([str(runs), "--csv", str(next(runs.glob("*/config.yaml")) / "x" / "y")], 2, "cannot be made"),
    ):
        assert exit_code(lambda typed=typed: report(typed)) == code  # type: ignore[misc]
        error = capsys.readouterr().err
        assert error.startswith("metaexp: ")
        assert says in error
        assert len(error.splitlines()) == 1


@pytest.mark.parametrize(("low", "scale"), [(0.1, "log"), (1.0, "linear")])
@pytest.mark.parametrize(("exact", "said"), [(0.0, "0"), (6.1e-10, "6.1e-10")])
def test_an_exact_oracle_neither_forces_a_linear_axis_nor_flattens_the_curves(
    low: float, scale: str, exact: float, said: str
) -> None:
    figure = Figure()
    axes, levels, ends = figure.subplots(), [np.array([2.0, low])], [(low, "maml", "blue")]
    axes.plot([0, 1], levels[0])
    pictures.draw_floors(axes, {"oracle": exact, "mean": 4.0}, levels, ends, False)
    pictures.finish(axes, np.concatenate(levels), ends, False)
    assert axes.get_yscale() == scale
    at_the_foot = scale == "log" or exact > 0
    heights = [line.get_ydata()[0] for line in axes.lines[1:]]
    assert heights == ([4.0] if at_the_foot else [exact, 4.0])
    foot = {text.get_text(): text.get_position()[1] for text in axes.texts}
    bound = f"upper bound: oracle, {said}" if at_the_foot else "upper bound: oracle"
    assert list(foot) == ["maml", bound, "baseline: mean"]
    assert min(foot, key=lambda name: foot[name]).startswith("upper bound")


def test_markdown_and_pictures(runs: Path, tmp_path: Path) -> None:
    assert report([str(runs), "--markdown", str(tmp_path / "a/r.md"), "--plots", str(tmp_path / "plots")]) == 0
    text = (tmp_path / "a/r.md").read_text()
    assert text.count("\n## sine: ") + text.startswith("## sine: ") == 2
    widths = {line.count("|") for line in text.split("\n\n")[1].splitlines()}
    assert len(widths) == 1
    assert "| r2d2 |" in text
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {f"{kind}_sine_mse{n}.png" for kind in ("adaptation", "seconds") for n in ("", "_2")}
    for name in names:
        with Image.open(tmp_path / "plots" / name) as image:
            assert image.width >= 900
            assert (
                len(np.unique(np.array(image.convert("RGB")).reshape(-1, 3), axis=0)) > 20
            )  # more than an empty frame


def test_labels_stay_apart_and_near() -> None:
    assert spread([0.5, 0.51, 0.9], 0.1) == pytest.approx([0.455, 0.555, 0.9])
    assert spread([0.99, 0.2, 1.0], 0.1) == pytest.approx([0.9, 0.2, 1.0])
    random = np.random.default_rng(0)
    for _ in range(200):
        wanted = list(random.uniform(0, 1, random.integers(1, 12)))
        placed = spread(wanted, 0.05)
        assert (np.diff(np.sort(placed)) > 0.05 - 1e-9).all()
        assert list(np.argsort(placed)) == list(np.argsort(wanted))
        assert min(placed) > -1e-9
        assert max(placed) < 1 + 1e-9


def test_seconds_go_on_where_a_run_was_resumed(tmp_path: Path) -> None:
    lines = [{"seconds": s, "step": i} for i, s in enumerate([1.0, 5.0, 2.0, 4.0, 1.0])]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*map(json.dumps, lines), '{"torn": ']))
    assert [row["seconds"] for row in read_rows(tmp_path)] == [1.0, 5.0, 7.0, 9.0, 10.0]


def test_a_choice_that_follows_from_another_is_no_key(runs: Path, tmp_path: Path) -> None:
    folder = copied(runs, tmp_path, "_maml0_", "_r2d20_")
    file = only(folder, "r2d2") / "config.yaml"
    file.write_text(file.read_text().replace("optimizer: adam", "optimizer: sgd"))
    assert differing(find([folder]).runs) == ["algo"]
    with pytest.raises(ConfigError):
        compare(find([folder]).runs, ["nothing"])


@pytest.mark.parametrize(("recorded", "best"), [(True, "r2d2"), (False, "maml"), (None, None), ("absent", None)])
def test_the_order_follows_the_direction_that_results_record(
    runs: Path, tmp_path: Path, recorded: object, best: str | None
) -> None:
    """A metric of the user's own; where no result says which direction is better, the report does not guess."""
    folder = copied(runs, tmp_path, "_maml0_", "_r2d20_")
    for path in folder.glob("*/result.json"):
        result = json.loads(path.read_text())
        mean = {"maml": 1.0, "r2d2": 3.0}[result["algo"]]
        score = np.random.default_rng(0).normal(size=(40, 1))
        score += mean - score.mean()
        summary = {"mean": float(score.mean()), "worst": -9.0, "ci95": 0.1, "tasks": 40}
        result["test"] = {"r2": summary if recorded == "absent" else summary | {"larger_is_better": recorded}}
        result["floors"] = {}
        path.write_text(json.dumps(result))
        np.savez(path.parent / "test_scores.npz", r2=score)
    (block,) = blocks(compare(find([folder]).runs, ["algo"]))
    if best:
        assert block.rows[0].names == (best,)
    (pair,) = block.pairs
    assert pair.verdict == (f"{best} better" if best else "different")
    assert ("not ranked" in block.pairs_note) == (recorded == "absent")
