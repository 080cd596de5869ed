"""The project works from a wheel and from a bare checkout, in any folder, with every config file included."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

RUN = "scripts/runs/sine_r2d2"
SHIPPED = ("config.yaml", "result.json", "status.json", "checkpoints/best.ckpt", "checkpoints/best.ckpt.json")
TINY = "algo=maml task=sine device=cpu steps=2 meta_batch=2 val.tasks=2 test.tasks=2 compile=false".split()


def sources(root: Path) -> set[str]:
    """Every file of the package, named as in the wheel, where conf/ is metaexp/conf/ and a run metaexp/shipped_run/."""
    files = [path for folder in ("metaexp", "conf") for path in (root / folder).rglob("*") if path.is_file()]
    names = [path.relative_to(root).as_posix() for path in files if "__pycache__" not in path.parts]
    shipped = {f"metaexp/shipped_run/{name}" for name in SHIPPED}
    return {f"metaexp/{name}" if name.startswith("conf/") else name for name in names} | shipped


def contents(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def pip(*args: object) -> None:
    subprocess.run([sys.executable, "-m", "pip", *map(str, args), "--quiet", "--no-deps"], check=True, timeout=120)


def build(root: Path, out: Path) -> Path:
    """The wheel, built from a copy of the checkout so that no files of an earlier build get in or are left behind."""
    pip("wheel", root, "--wheel-dir", out, "--no-build-isolation")
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked top level, without environment, outputs, caches."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("metaexp", "conf", RUN):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which only the wheel is installed."""
    folder = tmp_path_factory.mktemp("site")
    pip("install", wheel, "--target", folder, "--no-index")
    return folder


def test_wheel_holds_every_module_and_config(wheel, checkout):
    assert contents(wheel) == sources(checkout)


def test_a_config_in_a_new_subfolder_travels(checkout, tmp_path):
    """A new group, however deep, needs no registration, so the test above cannot miss one."""
    root = shutil.copytree(checkout, tmp_path / "checkout")
    (root / "conf/sweep/deep").mkdir(parents=True)
    (root / "conf/sweep/deep/new.yaml").write_text("lr: 1\n")
    assert "metaexp/conf/sweep/deep/new.yaml" in contents(build(root, tmp_path))


def test_wheel_metadata(wheel):
    with zipfile.ZipFile(wheel) as file:
        (name,) = [name for name in file.namelist() if name.endswith("/METADATA")]
        lines = file.read(name).decode().splitlines()
        licences = [name for name in file.namelist() if name.endswith("licenses/LICENSE")]
    assert {"Name: metaexp", "Requires-Python: >=3.11", "License-Expression: MIT"} <= set(lines)
    extras = {line.split(": ")[1] for line in lines if line.startswith("Provides-Extra: ")}
    assert extras == set("dev sweep ray optuna mlflow wandb text vision tables export rl all".split())
    required = [line for line in lines if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert any(line.split(": ")[1] in ("torch<2.14,>=2.10", "torch>=2.10,<2.14") for line in required), required
    assert len(licences) == 1


@pytest.fixture(params=["wheel", "checkout"])
def path(request: pytest.FixtureRequest) -> Path:
    """The entry on PYTHONPATH: the installed wheel, or the checkout itself without any installation."""
    return request.getfixturevalue("site") if request.param == "wheel" else ROOT


def test_package_is_found_where_expected(path, tmp_path):
    """Ensures that the tests below use the wheel, although the checkout may be installed in this environment."""
    command = [sys.executable, "-c", "import metaexp; print(metaexp.__file__)"]
    shown = subprocess.check_output(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(path)}, text=True, timeout=60
    )
    assert Path(shown.strip()).parent == path / "metaexp"


def test_help_lists_every_choice(train, path):
    done = train("--help", PYTHONPATH=str(path))
    assert done.returncode == 0, done.stderr
    words = set(re.findall(r"[\w-]+", done.stdout))
    for group in ("algo", "task", "model", "device", "optimizer", "experiment"):
        expected = {group} | {file.stem for file in (ROOT / "conf" / group).glob("*.yaml")}
        assert expected <= words, f"--help does not name {expected - words}"


def test_the_demo_finds_its_run_in_the_wheel(site, tmp_path):
    code = "from metaexp.commands.demo import shipped_run as run; print(run())"
    env = os.environ | {"PYTHONPATH": str(site)}
    shown = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=env, text=True, timeout=60)
    assert Path(shown.strip()) == site / "metaexp/shipped_run"
    assert all(
        (site / "metaexp/shipped_run" / name).read_bytes() == (ROOT / RUN / name).read_bytes() for name in SHIPPED
    )


def test_short_run_from_another_folder(train, path):
    done = train(*TINY, PYTHONPATH=str(path))
    assert done.returncode == 0, done.stderr
    (result,) = (train.folder / "outputs").glob("*/result.json")
    written = json.loads(result.read_text())
    assert (written["algo"], written["task"], written["steps"]) == ("maml", "sine", 2)


def test_the_workflow_calls_the_projects_own_check_and_the_citation_is_of_this_version():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {line.rpartition(" :: ")[2] for line in project["classifiers"] if "Python :: 3." in line}
    assert set(job["strategy"]["matrix"]["python"]) == named
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert [one["name"] for one in citation["authors"]] == [one["name"] for one in project["authors"]]
