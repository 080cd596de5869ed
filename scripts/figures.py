"""Makes the committed pictures of README and docs anew, or says which command does.

    PYTHONPATH=. python scripts/figures.py FOLDER [NAME ...] [--browser chromium] [--long]

FOLDER keeps the runs: a second call goes on where the first was stopped and repeats none that has finished. Without
names, everything that takes minutes is made; `--long` also makes what takes hours. The names are

    bench        milliseconds, memory and scaling, drawn from scripts/results/bench.json
    reptile      experiment=reptile_sine: test episodes and adaptation
    board        TensorBoard on a small sweep, photographed by a headless Chromium (`--browser`)
    omniglot     experiment=omniglot_maml (--long; the data: --root FOLDER)
    comparisons  all pictures of scripts/comparisons (--long)

Pictures whose runs are too long to repeat here stay as they are, and a line names their command.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PICTURES, RESULTS = ROOT / "scripts/pictures", ROOT / "scripts/results"
PORT = 6106
SMALL = "steps=300 meta_batch=8 val.every=50 val.tasks=50 test.tasks=100 test.curve_tasks=50 compile=false device=cpu"
SCREENS = {"tensorboard_series": "timeseries", "tensorboard_scalars": "custom_scalars"}
SCREENS |= {"tensorboard_hparams": "hparams", "tensorboard_images": "images", "tensorboard_projector": "projector"}


class Group(NamedTuple):
    """Pictures that are made together."""

    make: Callable[[argparse.Namespace], None]
    hours: bool  # whether it takes hours
    command: str  # what makes it


def train(folder: Path, *words: str) -> Path:
    """A finished run or sweep with these settings in its own folder; what has finished is not repeated."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "metaexp.train", *words, f"out={folder}", "resume=auto"]
    if not (made := finished(folder)):
        subprocess.run(command, cwd=ROOT, check=True)
        made = finished(folder)
    return made[-1]


def finished(folder: Path) -> list[Path]:
    """Folders of runs and sweeps here that have ended well, the newest last."""
    found = []
    for path in sorted(folder.iterdir()):
        jobs = [job for job in path.iterdir() if (job / "status.json").exists()] if path.is_dir() else []
        states = [json.loads((one / "status.json").read_text())["state"] for one in jobs or [path] if one.is_dir()]
        if states and set(states) == {"finished"} and (not jobs or (path / "report.html").exists()):
            found.append(path)
    return found


def bench(_: argparse.Namespace) -> None:
    """Draws what scripts/bench.py has measured."""
    sys.path.insert(0, str(ROOT / "scripts"))
    from benching import plots

    data = json.loads((RESULTS / "bench.json").read_text())
    plots.works(data["runs"], RESULTS / "bench_works.png")
    plots.scaling(data["scaling"], RESULTS / "bench_scaling.png")


def reptile(a: argparse.Namespace) -> None:
    """The figure of README and the adaptation curve of docs/results.md."""
    run = train(a.folder / "reptile_sine", "experiment=reptile_sine", "device=cpu")
    shutil.copy(run / "figures/test_episodes.png", PICTURES / "reptile_sine_episodes.png")
    shutil.copy(run / "figures/test_adaptation_mse.png", PICTURES / "reptile_sine_adaptation.png")


def omniglot(a: argparse.Namespace) -> None:
    """Episodes of docs/first_experiment.md."""
    data = [f"task.root={a.root}"] if a.root else ["task.download=true"]
    run = train(a.folder / "omniglot_maml", "experiment=omniglot_maml", *data)
    shutil.copy(run / "figures/test_episodes.png", PICTURES / "omniglot_maml_episodes.png")


def comparisons(a: argparse.Namespace) -> None:
    """Every comparison with its pictures; scripts/compare.py keeps finished runs."""
    for spec in sorted((ROOT / "scripts/comparisons").glob("*.yaml")):
        command = [sys.executable, "scripts/compare.py", str(spec), str(a.folder / spec.stem)]
        subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def board(a: argparse.Namespace) -> None:
    """The screens of docs/tensorboard.md: a run of protonet, and a sweep over methods on sinusoids."""
    browser = shutil.which(a.browser)
    if browser is None:
        print(f"board: no {a.browser}; name a Chromium with --browser. Its pictures stay as they are.")
        return
    runs = a.folder / "board"
    train(runs / "one", "algo=protonet", "task=clusters", *SMALL.split())
    train(runs / "many", "-m", "algo=maml,cavia,anil,cnp,r2d2", "task=sine", "seed=0,1", *SMALL.split())
    for folder, names in ((runs / "many", list(SCREENS)[:3]), (runs / "one", list(SCREENS)[3:])):
        start = "import sys; from metaexp.commands.console import main; sys.exit(main())"
        words = [sys.executable, "-c", start, "board", str(folder), "--port", str(PORT)]
        server = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[-1]  # that with the charts of validation and test on top
            photograph(browser, address, [(PICTURES / f"{name}.png", SCREENS[name]) for name in names])
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


def photograph(browser: str, address: str, screens: list[tuple[Path, str]]) -> None:
    """A picture of each dashboard, in few colours."""
    from PIL import Image

    for _ in range(120):
        try:
            urllib.request.urlopen(f"http://localhost:{PORT}/data/runs", timeout=30).read()
            break
        except OSError:
            time.sleep(1)
    time.sleep(15)  # until all event files have been read
    for file, dashboard in screens:
        # Lines that WebGL draws in a worker are not in the picture; those of SVG are.
        place = (
            address.replace("#", "&forceSVG=true#")
            if dashboard == "timeseries"
            else f"http://localhost:{PORT}/#{dashboard}"
        )
        options = ["--no-sandbox", "--hide-scrollbars", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        options += ["--window-size=1400,900", "--virtual-time-budget=40000", "--timeout=60000"]
        subprocess.run(
            [browser, "--headless", *options, f"--screenshot={file}", place], check=True, capture_output=True
        )
        with Image.open(file) as image:
            small = image.convert("RGB").quantize(64, dither=Image.Dither.NONE)
        small.save(file, optimize=True)
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size // 1000} kB", flush=True)


GROUPS = {
    "bench": Group(bench, False, "python scripts/bench.py --peers DIR measures anew"),
    "reptile": Group(reptile, False, "python -m metaexp.train experiment=reptile_sine"),
    "board": Group(board, False, "python scripts/figures.py FOLDER board --browser chromium"),
    "omniglot": Group(omniglot, True, "python scripts/figures.py FOLDER omniglot --root DATA"),
    "comparisons": Group(comparisons, True, "python scripts/compare.py scripts/comparisons/NAME.yaml FOLDER"),
}
OTHERS = {"scripts/results/mixture*_episodes.png": "python scripts/mixture.py"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all that take minutes")
    parser.add_argument("--browser", default="chromium")
    parser.add_argument("--root", help="folder of the Omniglot data")
    parser.add_argument("--long", action="store_true", help="also what takes hours")
    a = parser.parse_args()
    if unknown := set(a.names) - set(GROUPS):
        parser.error(f"{sorted(unknown)[0]}: no such name; one of {' '.join(GROUPS)}")
    a.folder = a.folder.resolve()
    for name, group in GROUPS.items():
        if name in a.names or (not a.names and (a.long or not group.hours)):
            print(f"{name} ...", flush=True)
            group.make(a)
        elif not a.names:
            print(f"{name}: takes hours, stays as it is; {group.command}")
    for pictures, command in {} if a.names else OTHERS.items():
        print(f"{pictures}: stay as they are; {command}")


if __name__ == "__main__":
    main()
