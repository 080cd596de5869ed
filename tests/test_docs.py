"""README and the pages in docs/: their commands are valid, their examples run, their links and tables are true."""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from PIL import Image

from metaexp import errors
from metaexp.adapt.command import run as adapt
from metaexp.commands.console import COMMANDS
from metaexp.config.command_line import CommandLine
from metaexp.config.overrides import parse
from metaexp.config.seeds import with_seeds
from metaexp.config.settings import Settings, load
from metaexp.contract import check_learner
from metaexp.evaluation.scores import evaluate
from metaexp.models.mlp import MLP
from metaexp.run.sweep_jobs import find_jobs, is_grid
from metaexp.tasks.sine import Sine
from metaexp.training.build import Experiment

PAGES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
README, TEXT = PAGES[ROOT / "README.md"], "\n".join(PAGES.values())
TINY = "device=cpu steps=2 meta_batch=2 test.tasks=2 compile=false".split()
START, END = "<!-- results -->\n", "<!-- end of results -->"


class Block(NamedTuple):
    """A fenced block: ```kind file=name."""

    kind: str
    file: str | None
    text: str


BLOCKS = [Block(*found) for found in re.findall(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", TEXT, re.M | re.S)]
LINES = list(dict.fromkeys(line for block in BLOCKS if block.kind == "bash" for line in block.text.splitlines()))
LINES += [line for block in BLOCKS if block.kind == "sh" for line in block.text.splitlines() if "metaexp." in line]
FILES = {block.file: block.text for block in BLOCKS if block.file}
SCRIPTS = [name for name in FILES if name.endswith(".py") and "/" not in name]


class Line(NamedTuple):
    """A parsed command line of `python -m metaexp.train`."""

    overrides: list[str]
    extra: str | None
    flags: set[str]


def parsed(line: str) -> Line | None:
    """The parsed line; None for a command of another program."""
    words = shlex.split(line)
    if Path(words[0]).name == "metaexp" and words[1] == "train":
        words = ["scripts/run.sh", *words[2:]]
    if words[0] != "scripts/run.sh" and "metaexp.train" not in words:
        return None
    words = words[1:] if words[0] == "scripts/run.sh" else words[words.index("metaexp.train") + 1 :]
    extra = None
    if "--config-dir" in words:
        place = words.index("--config-dir")
        extra = words[place + 1]
        del words[place : place + 2]
    if "--cfg" in words:
        words.remove("job")
    own, flags = [w for w in words if not w.startswith("-")], {w for w in words if w.startswith("-")}
    if any(w.startswith("seeds=") for w in own):  # a sweep without -m
        own, flags = list(with_seeds(CommandLine.parse(own)).overrides.words), flags | {"-m"}
    return Line(own, extra, flags)


TRAINING = [line for line in LINES if parsed(line)]
OWN = [line for line in TRAINING if "--config-dir" in line]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A reader's folder as the working folder: every file from the pages, example data, images of 15 classes."""
    folder = tmp_path_factory.mktemp("reader")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    random = np.random.default_rng(0)
    for number in range(15):
        (folder / "pictures" / f"class{number:02d}").mkdir(parents=True)
        for i in range(5):
            pixels = random.integers(0, 255, (32, 32), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / f"class{number:02d}" / f"{i}.png")
    (folder / "sentences.csv").write_text(sentences())
    shutil.copytree(ROOT / "scripts/runs", folder / "scripts/runs")
    command = [sys.executable, str(ROOT / "scripts" / "make_arrays.py"), "data"]
    subprocess.run(command, cwd=folder, check=True, timeout=60, stdout=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(FILES["schools.py"], "schools.py", "exec"), {})
        patch.syspath_prepend(str(folder))
        yield folder
        for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
            del sys.modules[name]


def sentences() -> str:
    """A CSV of 15 labels with 6 sentences each."""
    words = [f"{a}{b}" for a in ("car", "pay", "rain", "song", "milk") for b in ("ding", "ment", "fall")]
    rows = [f'"please {word}, number {i}",{word}' for word in words for i in range(6)]
    return "\n".join(["text,label", *rows, ""])


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


# --- commands


@pytest.mark.parametrize("line", LINES)
def test_every_command_is_valid(line: str, place: Path) -> None:
    command = parsed(line)
    if command is None:
        program = Path(shlex.split(line)[0]).name
        scripts = re.findall(r"scripts/\S+", line)
        assert program in ("test.sh", "python", "tensorboard", "metaexp", "eval")
        assert program != "metaexp" or shlex.split(line)[1] in COMMANDS
        assert all((ROOT / script).exists() for script in scripts)
    elif "-m" in command.flags:
        node, jobs, faults = find_jobs(Settings(command.overrides, command.extra), parse(command.overrides))
        assert is_grid(node)
        assert not faults
        assert len(jobs) > 1
    else:
        assert command.flags <= {"--help", "--cfg"}
        load(command.overrides, command.extra)


def test_the_commands_named_in_the_text_exist() -> None:
    inside = [shlex.split(line) for line in re.findall(r"`((?:scripts/|\.venv/bin/)[^`\n]+)`", TEXT)]
    for words in inside:
        scripts = [word for word in words if word.startswith("scripts/")]
        assert scripts or words[0] in (".venv/bin/python", ".venv/bin/metaexp")
        assert all((ROOT / script).exists() for script in scripts)
    for name in re.findall(r"metaexp\.(\w+)", " ".join(LINES)):
        assert importlib.util.find_spec(f"metaexp.{name}") is not None


def test_the_mistake_shown_is_answered_as_shown() -> None:
    (shown,) = [block.text for block in BLOCKS if block.kind == "text" and block.text.startswith("$ ")]
    typed, answer = shown.splitlines()
    with pytest.raises(errors.ConfigError) as found:
        load(shlex.split(typed)[2:])
    assert answer == f"metaexp: {found.value}"


def test_every_setting_in_the_table_exists() -> None:
    rows = [row[0] for row in table("setting", PAGES[ROOT / "docs/command_line.md"])]
    typed = {word.split("=")[0]: word for row in rows for word in row.split()}
    assert len(typed) > 25
    settings = Settings([])
    for words in (["algo=maml", "task=omniglot"], ["algo=reptile", "task=sine"]):
        config = settings.load(words)
        for key in list(typed):
            if key not in config["choices"] and _has(config, key):
                words.append(typed.pop(key))
        settings.load(words)
    settings.load(list(typed.values()))  # choices of groups
    assert set(typed) <= set(config["choices"])


def _has(config: Any, key: str) -> bool:
    for name in key.split("."):
        if not isinstance(config, dict) or name not in config:
            return False
        config = config[name]
    return True


def test_the_exit_codes_are_those_of_the_program() -> None:
    (table,) = re.findall(r"^\| code \|.*?\n\n", TEXT, re.M | re.S)
    codes = {int(code) for cell in re.findall(r"\| (\d+(?:, \d+)*) \|", table) for code in cell.split(", ")}
    classes = (value for value in vars(errors).values() if isinstance(value, type))
    assert codes == {0, 1} | {value.exit_code for value in classes if hasattr(value, "exit_code")}


# --- examples


@pytest.mark.parametrize(
    "line",
    [*OWN, *(line for line in TRAINING if "arrays_finetune" in line or ("schools.csv" in line and "-m" not in line))],
)
def test_the_example_trains_and_tests(line: str, place: Path) -> None:
    command = parsed(line)
    assert command is not None
    parts = Experiment(load([*command.overrides, *TINY], command.extra))
    before = {name: value.clone() for name, value in parts.learner.meta_parameters().items()}
    for step in range(2 if parts.learner.trains else 0):
        assert parts.training.step(step).loss.isfinite()
    after = parts.learner.meta_parameters()
    assert not parts.learner.trains or any(not torch.equal(value, after[name]) for name, value in before.items())
    scores = evaluate(parts.learner, "test", 2, ["queries"]).arrays
    assert all(np.isfinite(values).all() for values in scores.values())


def test_every_example_has_a_name_under_which_it_is_run() -> None:
    named = [block for block in BLOCKS if block.kind in ("python", "yaml")]
    assert all(block.file for block in named)
    assert len(FILES) == len([block for block in BLOCKS if block.file])  # no name twice
    assert {"use.py", "library.py", "check_ridge.py", "check_decay.py", "check_waves.py"} <= set(SCRIPTS)


@pytest.mark.parametrize(
    "name", [name for name in SCRIPTS if name not in ("use.py", "folds.py", "library.py", "exported.py")]
)
def test_the_script_runs(name: str, place: Path) -> None:
    exec(compile(FILES[name], name, "exec"), {})


def test_the_example_of_the_readme_keeps_the_promises_of_a_learner(place: Path) -> None:
    matching = module(place / "mine/matching.py").Matching
    check_learner(lambda family: matching(family, partial(MLP, hidden=[8])), Sine(shots=5, queries=5), tasks=50)


def test_the_metric_of_the_example_is_the_mean_absolute_error(place: Path) -> None:
    family = module(place / "mine/absolute.py").AbsoluteSine(shots=5, queries=7)
    target = family.sample("test", torch.arange(1)).query.y[0]
    assert list(family.metrics) == ["mae", "mse"]
    assert float(family.metrics["mae"](target + 0.25, target)) == pytest.approx(0.25, abs=1e-6)
    assert float(family.metrics["mae"](target[:0], target[:0])) == 0


def test_the_library_example_learns_with_a_frozen_body(place: Path) -> None:
    found: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(compile(FILES["library.py"], "library.py", "exec"), found)
    learner, body, family = found["learner"], found["body"], found["family"]
    assert set(learner.meta_parameters()) == {f"model.head.{n}.{p}" for n in (0, 2) for p in ("weight", "bias")}
    assert all(p.grad is None for p in body.parameters())
    norm = learner.model.body[1]
    assert (norm.mean == 0).all()  # the initial running statistics of a norm
    assert (norm.variance == 1).all()
    torch.manual_seed(0)
    untrained: dict[str, Any] = {}
    exec(compile(FILES["library.py"].replace("range(200)", "range(0)"), "library.py", "exec"), untrained)
    episodes = family.sample("test", torch.arange(500))
    with torch.no_grad():
        before, after = (float(made["learner"](episodes)[0]) for made in (untrained, found))
        assert after < 0.9 * before
        support, key, x = episodes.support, episodes.key, episodes.query.x
        adapted = learner.adapt(type(support)(support.x[0], support.y[0]), key[0])
        assert learner.predict(adapted, x[0]).shape == (family.sizes["test"]["queries"], 1)


def test_the_shipped_run_fits_a_sine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    found: dict[str, Any] = {}
    exec(compile(FILES["use.py"], "use.py", "exec"), found)
    assert found["model"].score(found["new"], 3 * np.sin(found["new"][:, 0] - 1)) > 0.999
    assert float(capsys.readouterr().out.split()[-1]) > 0.999


def test_a_new_task_is_learned_as_the_page_says(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [shlex.split(line) for line in LINES if "metaexp.adapt" in line and "run=scripts/" in line]
    assert len(lines) == 3
    for words in lines:
        typed = words[words.index("metaexp.adapt") + 1 :]
        adapt([f"run={ROOT / word[4:]}" if word.startswith("run=") else word for word in typed])
    predicted = [line.split(",") for line in (place / "sine.csv").read_text().splitlines()]
    assert predicted[0] == ["name", "y", "prediction"]
    wanted = {name: 3 * np.sin(x - 1) for name, x in (("a", -3.5), ("b", 0.0), ("c", 2.6))}
    for name, _, value in predicted[1:]:
        assert float(value) == pytest.approx(wanted[name], abs=0.1)
    capsys.readouterr()
    exec(compile(FILES["exported.py"], "exported.py", "exec"), {})
    assert capsys.readouterr().out == "torch.Size([200, 1])\n"


def test_three_folds_of_the_shipped_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found: dict[str, Any] = {}
    exec(compile(FILES["folds.py"], "folds.py", "exec"), found)
    assert found["x"].shape == (30, 1)
    assert len(found["scores"]) == 3
    assert min(found["scores"]) > 0.9
    assert found["search"].best_score_ > 0.9
    assert found["scaled"].score(np.rad2deg(found["x"]), found["y"]) > 0.9


# --- links and claims


def without_code(path: Path) -> str:
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def links(path: Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)]+)\)", without_code(path)) if not link.startswith("http")]


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)", without_code(path), re.M)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "path",
    [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_links_lead_somewhere(path: Path) -> None:
    for link in links(path):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_index_lists_every_page() -> None:
    listed = {(ROOT / "docs" / link.partition("#")[0]).resolve() for link in links(ROOT / "docs/README.md")}
    assert {path for path in PAGES if path.name != "README.md"} <= listed


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 300


def test_pictures_are_small_and_used() -> None:
    used = set(re.findall(r"scripts/pictures/\S+\.png", TEXT))
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "scripts/pictures").iterdir()}
    assert used == there
    for name in used:
        assert (ROOT / name).stat().st_size < 300_000
        with Image.open(ROOT / name) as image:
            assert image.format == "PNG"
            assert image.width >= 900


def table(head: str, text: str = TEXT) -> list[list[str]]:
    """The cells of the table whose first row begins with `head`, without that row and backticks."""
    (found,) = re.findall(rf"^\| {re.escape(head)} \|.*?\n(?=\n)", text, re.M | re.S)
    _, _, *rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in found.strip().splitlines()]
    return rows


def choices(group: str) -> set[str]:
    return {file.stem for file in (ROOT / "conf" / group).glob("*.yaml")}


def test_the_tables_of_parts_are_conf() -> None:
    algos, tasks, models = (table(f"`{group}=`", README) for group in ("algo", "task", "model"))
    assert {row[0] for row in algos} == choices("algo")
    assert {row[0] for row in models} == choices("model")
    assert {row[0] for row in tasks} == choices("task")
    needs = {"all": {}, "classification": {"kind": ["classification"]}, "with an oracle": {"oracle": "known"},
             "pictures": {"input": ["image"]}, "worlds": {"kind": "world"},
             "worlds with an oracle": {"kind": "world", "oracle": "known"},
             "bandits": {"kind": "world", "world": "bandit"},
             "worlds with discrete actions and an oracle": {"kind": "world", "oracle": "known", "actions": "discrete"},
             "tabular MDPs": {"kind": "world", "world": "mdp"},
             "pendulum and driving": {"kind": "world", "world": ["pendulum", "driving"]}}  # fmt: skip
    for algo, wanted, _ in algos:
        assert yaml.safe_load((ROOT / f"conf/algo/{algo}.yaml").read_text()).get("needs", {}) == needs[wanted], algo
    for task, kind, oracle, _ in tasks:
        given = yaml.safe_load((ROOT / f"conf/task/{task}.yaml").read_text())["gives"]
        assert (given["kind"], given["oracle"]) == (
            {"both": ["regression", "classification"]}.get(kind, kind),
            {"yes": "known", "no": "none"}[oracle],
        ), task
    settings = Settings([])  # needs and gives do what they say; tests/test_contract.py makes and trains all pairs
    for algo, task in (("protonet", "sine"), ("oracle", "omniglot")):
        with pytest.raises(errors.ConfigError, match=f"algo={algo} needs "):
            settings.load([f"algo={algo}", f"task={task}"])


def test_the_headline_numbers_are_on_the_pages() -> None:
    rows = table("method", README)
    assert len(rows) > 3
    for *_, published, _, link in rows:
        assert published in PAGES[ROOT / re.findall(r"\(([^)]+)\)", link)[0]], published
    pages = PAGES[ROOT / "docs/results.md"] + PAGES[ROOT / "docs/methods.md"]
    intervals = re.findall(r"(-?\d+\.\d+) ± (\d+\.\d+)", README)
    assert len(intervals) > len(rows)
    for mean, half in intervals:
        fractions = f"{float(mean) / 100:.4f} ± {float(half) / 100:.4f}"  # README gives percent
        assert f"{mean} ± {half}" in pages or fractions in pages, mean
    for number in re.findall(r"(\d\.\d+)\s+ms", README):
        assert f"| {number} |" in PAGES[ROOT / "docs/speed.md"]


def _target(algo: str) -> str:
    """The class that an algorithm's file names, or the file that it builds on."""
    content = yaml.safe_load((ROOT / f"conf/algo/{algo}.yaml").read_text())
    return str(content["_target_"]) if "_target_" in content else _target(content["defaults"][0])


def test_the_table_of_methods_is_true() -> None:
    runs = json.loads((ROOT / "scripts/results/sine.json").read_text())["tasks"]
    adapted = {run["method"]: f"{run['adapted_parameters']:,}" for run in runs}
    seen = set()
    for names, _, numbers, ways in table("`algo=`", PAGES[ROOT / "docs/choosing_an_algorithm.md"]):
        for name in names.replace("`", "").split(", "):
            seen.add(name)
            assert numbers in ("-", adapted.get(name, numbers)), name
            *home, kind = _target(name).split(".")
            method = getattr(importlib.import_module(".".join(home)), kind)
            assert ways == ("yes" if method.any_ways else "no"), name
    contents = {algo: yaml.safe_load((ROOT / f"conf/algo/{algo}.yaml").read_text()) for algo in choices("algo")}
    acting = {algo for algo, found in contents.items() if found.get("needs", {}).get("kind") == "world"}
    assert seen == choices("algo") - acting - {"mean", "neighbour", "hausdorff", "oracle"}


def test_the_table_of_results_is_the_committed_one() -> None:
    shown = PAGES[ROOT / "docs/results.md"].split(START)[1].split(END)[0].strip()
    committed = ROOT / "scripts/results/summary.md"
    assert shown == (committed.read_text(encoding="utf-8").strip() if committed.exists() else "")
