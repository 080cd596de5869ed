"""`metaexp demo`: the trained run that comes with the project learns a function from a few points."""

import argparse
import io
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from metaexp.commands.terminal_plot import ASCII, BLUE, GREY, ORANGE, Marks, plot
from metaexp.config.overrides import typed_path
from metaexp.errors import ConfigError
from metaexp.storage.saved_config import read_config
from metaexp.storage.saved_result import read_result
from metaexp.system.files import replace_file

PICTURE = "metaexp_demo.png"
GRID = 401  # inputs on which errors are measured


class Seen(NamedTuple):
    """One function and what was made of it; all over `x` [GRID]."""

    x: np.ndarray
    truth: np.ndarray
    points: tuple[np.ndarray, np.ndarray]  # x and y, [points] each
    before: np.ndarray  # what is predicted without any point
    after: np.ndarray
    seconds: float  # that learning took

    def error(self, prediction: np.ndarray) -> float:
        """Mean squared error over `x`."""
        return float(np.mean((prediction - self.truth) ** 2))

    def neighbour(self) -> np.ndarray:
        """The value of the nearest point."""
        x, y = self.points
        nearest: np.ndarray = y[np.abs(self.x[:, None] - x[None]).argmin(1)]
        return nearest

    def straight(self) -> np.ndarray:
        """Straight lines between the points, level outside them."""
        x, y = self.points
        order = np.argsort(x)
        return np.interp(self.x, x[order], y[order])


def shipped_run() -> Path:
    """The trained run that comes with the project: in the package from a wheel, in scripts/ in a checkout.

    Raises ConfigError if it is missing.
    """
    here = Path(__file__).resolve().parent.parent
    for folder in (here / "shipped_run", here.parent / "scripts" / "runs" / "sine_r2d2"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(f"no trained run in {here / 'shipped_run'}: the installation is incomplete, install it again")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see --help)")


def demo(argv: Sequence[str]) -> int:
    """Learn one function, draw it, say what was seen; returns the exit code.

    Raises ConfigError for a wrong argument, SpaceError if the picture cannot be written.
    """
    parser = _Parser(prog="metaexp demo", description="A trained run learns a new function from a few points.")
    parser.add_argument("--function", type=int, default=0, metavar="N", help="which of the test functions; default 0")
    parser.add_argument("--points", type=int, default=10, metavar="N", help="how many points it sees; default 10")
    parser.add_argument("--out", default=PICTURE, metavar="FILE", help=f"where the picture goes; default {PICTURE}")
    parser.add_argument("--no-color", action="store_true", help="no colours, as if NO_COLOR were set")
    given = parser.parse_args(list(argv))
    if not 1 <= given.points <= 1000:
        raise ConfigError(f"--points {given.points}: must be from 1 to 1000")
    if not 0 <= given.function < 10**8:
        raise ConfigError(f"--function {given.function}: must be from 0 to 99999999")
    out = typed_path("--out", given.out)
    run = shipped_run()
    seen = learn(run, given.function, given.points)
    utf = "utf" in (sys.stdout.encoding or "").lower()
    colour = sys.stdout.isatty() and not given.no_color and not os.environ.get("NO_COLOR")
    width = min(shutil.get_terminal_size((80, 24)).columns, 100)
    print(_shown(seen, width, colour, Marks() if utf else ASCII))
    print("\n".join(textwrap.fill(line, min(width, 80)) for line in words(seen, *_about(run))))
    png = _png(seen)
    replace_file(out, lambda file: file.write(png), needs=len(png))
    print(f"picture  {out}\nnext     metaexp train algo=reptile task=sine")
    return 0


def learn(run: Path, number: int, shots: int) -> Seen:
    """Let the run learn one of its test functions from its first points."""
    import torch

    from metaexp.estimator import load

    torch.set_num_threads(1)
    model = load(run)
    family, learner = model.learner.family, model.learner
    episode = family.sample("test", torch.tensor([number]), shots=shots)
    points = tuple(part[0, :, 0].double().numpy() for part in episode.support)
    low, high = family.x_range
    x = np.linspace(low, high, GRID)
    truth = family.oracle(episode, torch.from_numpy(x).to(family.dtype)[None, :, None])[0, :, 0].double().numpy()
    none = type(episode.support)(*(part[0, :0] for part in episode.support))
    inputs = torch.from_numpy(x).to(family.dtype)[:, None]
    with model.source.computing():
        before = learner.predict(learner.adapt(none, episode.key[0]), inputs)[:, 0].double().numpy()
    model.fit(points[0][:, None], points[1])  # once for what is made only once
    start = time.perf_counter()
    model.fit(points[0][:, None], points[1])
    seconds = time.perf_counter() - start
    return Seen(x, truth, (points[0], points[1]), before, model.predict(x[:, None]), seconds)


def words(seen: Seen, config: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """What was seen, with numbers."""
    functions, count = config["steps"] * config["meta_batch"], len(seen.points[0])
    before, after = seen.error(seen.before), seen.error(seen.after)
    by_hand = {"nearest neighbour": seen.error(seen.neighbour()), "straight lines": seen.error(seen.straight())}
    compared = " and ".join(f"{_times(other, after)} than {name}" for name, other in by_hand.items())
    mse, floors = result["test"]["mse"], {name: found["mse"]["mean"] for name, found in result["floors"].items()}
    return [
        f"A network that was trained on {functions:,} sine functions has seen {count} points of a new one.",
        f"It learned from them in {1000 * seen.seconds:.1f} ms: mean squared error {before:.3g} before the points, "
        f"{after:.2g} after.",
        f"With these points that is {compared} between them.",
        f"On {mse['tasks']:,} other new functions, 10 points each: {mse['mean']:.2g} +- {mse['ci95']:.1g}; nearest "
        f"neighbour {floors['neighbour']:.3g}, the same network without meta-training {floors['scratch']:.3g}.",
    ]


def _times(other: float, own: float) -> str:
    """'12 times better' or '3 times worse', as it is."""
    better = other >= own
    ratio = max(other, own) / max(min(other, own), 1e-12)
    return f"{ratio:,.{0 if ratio >= 10 else 1}f} times {'better' if better else 'worse'}"


def _about(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return read_config(run), read_result(run)[0]


def _shown(seen: Seen, width: int, colour: bool, marks: Marks) -> str:
    """The function in the terminal, with a legend."""

    def painted(text: str, code: str) -> str:
        return f"\x1b[0;{code}m{text}\x1b[0m" if colour else text

    drawn = plot(seen.x, seen.after, seen.truth, seen.points, (width, 18), colour, marks)
    line = marks.line[-1]
    legend = [
        f"{painted(marks.point, ORANGE)} points",
        f"{painted(line, BLUE)} prediction",
        f"{painted(marks.truth, GREY)} the function, where it differs",
    ]
    return f"{drawn}\n{'':8}{'   '.join(legend)}\n"


def _png(seen: Seen) -> bytes:
    from metaexp.plots.style import BLACK, BLUE, GREY, ORANGE, VERMILION, legend, new_figure, tidy

    figure = new_figure(9, 5, f"A new function, learned from {len(seen.points[0])} points")
    axes = figure.subplots()
    tidy(axes, "x", "y")
    axes.plot(seen.x, seen.truth, color=BLACK, linewidth=1.3, label="the function")
    axes.plot(seen.x, seen.before, "--", color=GREY, linewidth=1.5, label="before the points")
    axes.step(seen.x, seen.neighbour(), color=ORANGE, linewidth=1.0, alpha=0.8, label="nearest neighbour")
    axes.plot(seen.x, seen.after, color=BLUE, linewidth=2.4, alpha=0.85, label="learned from the points")
    axes.plot(*seen.points, "^", color=VERMILION, markersize=8, label="points")
    legend(figure, axes)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
