"""python scripts/dynamics.py FOLDER [--methods cnp,r2d2,maml] [--tasks 60] [--readme docs/motion.md]

Is a model that was adapted to a pendulum good enough to plan with? Trains each method on `task=dynamics` for a short
time (runs that exist in FOLDER are taken as they are), then swings up the same test pendulums with one planner and
different models: what each method learned from 20 steps, least squares on the same steps, the true equations, and those
of the average pendulum. Writes scripts/results/dynamics.md and .json, and with --readme the table into a page.
"""

import argparse
import json
import os
import sys
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import torch  # noqa: E402
from benching.tables import paste  # noqa: E402
from moving.shooting import Model, episode_return  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.func import vmap  # noqa: E402

import metaexp  # noqa: E402
from metaexp.evaluation.intervals import mean_and_half  # noqa: E402
from metaexp.mapping import map_tasks  # noqa: E402
from metaexp.tasks.dynamics import Dynamics  # noqa: E402
from metaexp.tasks.pendulum import SwingUp  # noqa: E402

SETTINGS = [
    "task=dynamics", "steps=1500", "val.every=500", "val.tasks=100", "test.tasks=300", "test.curve_shots=[]",
    "device=cpu", "device.threads=1",
]  # fmt: skip


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path)
    p.add_argument("--methods", default="cnp,r2d2,maml")
    p.add_argument("--tasks", type=int, default=200, help="test pendulums that are swung up")
    p.add_argument("--readme", type=Path, help="page to paste the table into")
    p.add_argument("--out", type=Path, default=ROOT / "scripts" / "results")
    a = p.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    family, world = Dynamics(), SwingUp(episodes=1)
    index = torch.arange(a.tasks)
    episode = family.sample("test", index)
    rows: dict[str, dict[str, Any]] = {}
    for method in a.methods.split(","):
        folder = run_of(a.folder / method, method)
        result = json.loads((folder / "result.json").read_text())
        rows[method] = {"steps": result["steps"], **scores_of(result)}
        rows[method]["return"] = returned(world, episode, adapted_model(folder, family, index))
        print(method, scores_of(result), interval(rows[method]["return"]), flush=True)
    true = family.system
    coefficients = vmap(lambda x, y: true.solved(x, y, 0.0)["coefficients"])(*episode.support)
    task = {name: value[:, None] for name, value in episode.info.items()}
    average = {name: value.expand(a.tasks, 1) for name, value in true.nominal(family.dtype).items()}
    models: dict[str, Model] = {
        "least squares (upper bound)": lambda state, action: solved_step(family, coefficients, state, action),
        "true equations": lambda state, action: true.step(task, state, action),
        "average pendulum": lambda state, action: true.step(average, state, action),
    }
    errors = json.loads((folder / "result.json").read_text())["floors"]
    for name, model in models.items():
        known = scores_of({"test": errors["oracle"]}) if name.startswith("least") else {}
        rows[name] = {**known, "return": returned(world, episode, model)}
        print(name, interval(rows[name]["return"]), flush=True)
    rows["controller that knows the task"] = {"return": informed(world, index)}
    least = rows["average pendulum"]["return"]
    for name, row in rows.items():
        if name != "average pendulum":
            row["difference"] = interval(row["return"] - least)
        row["return"] = interval(row["return"])
    write(a, rows)


def run_of(folder: Path, method: str) -> Path:
    """The folder of the finished run of a method, which is made if there is none."""
    found = sorted(folder.glob("*/result.json"))
    return found[-1].parent if found else metaexp.start(f"algo={method}", *SETTINGS, f"out={folder}").folder


def scores_of(result: dict[str, Any]) -> dict[str, Any]:
    """Mean and half-width of the errors in a result."""
    return {name: [result["test"][name][k] for k in ("mean", "ci95")] for name in ("mse", "rollout10", "rollout50")}


def adapted_model(folder: Path, family: Dynamics, index: Tensor) -> Model:
    """What a run's learner makes of the support sets of these test tasks."""
    learner = metaexp.load(folder).learner
    episode = family.sample("test", index)._replace(info={})
    with torch.no_grad():
        adapted = map_tasks(lambda e: learner.test_path(e)[-1], episode, learner.mapping)

    def step(state: Tensor, action: Tensor) -> Tensor:
        x = family.system.inputs(state, action)
        with torch.no_grad():
            change = vmap(learner.predict)(adapted, x)[..., : family.y_dim]
        return family.system.moved(state, action, change)

    return step


def solved_step(family: Dynamics, coefficients: Tensor, state: Tensor, action: Tensor) -> Tensor:
    """The equations with the coefficients of each task, [tasks, 3]."""
    x = family.system.inputs(state, action)
    change = vmap(lambda c, inputs: family.system.predicted({"coefficients": c}, inputs))(coefficients, x)
    return family.system.moved(state, action, change)


def returned(world: SwingUp, episode: Any, model: Model) -> Tensor:
    """The return of one episode in each of the tasks."""
    return episode_return(world, episode.info, episode.key, model)


def informed(world: SwingUp, index: Tensor) -> Tensor:
    """The same of the world's own controller, from the same beginnings."""
    from metaexp.algos.informed import Informed

    learner, episode = Informed(world), world.sample("test", index)
    rewards = map_tasks(lambda e: learner.trial(learner.policies(e)[0], e.info, e.key).reward, episode, "vmap")
    return rewards.sum(1)


def interval(values: Tensor) -> list[float]:
    """Mean and 95 % half-width over tasks."""
    mean, half = mean_and_half(values.double().numpy())
    return [float(mean), float(half)]


def write(a: argparse.Namespace, rows: dict[str, dict[str, Any]]) -> None:
    """The page and the numbers."""

    def cell(row: dict[str, Any], name: str, digits: int) -> str:
        return f"{row[name][0]:.{digits}g} ± {row[name][1]:.2g}" if name in row else ""

    lines = [
        "| model | mse of one step | rollout of 10 | rollout of 50 | return of the planner | more than the average's |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        marks = [cell(row, "mse", 3), cell(row, "rollout10", 3), cell(row, "rollout50", 3), cell(row, "return", 4)]
        marks.append(cell(row, "difference", 2))
        lines.append(f"| {name} | {' | '.join(marks)} |")
    table = "\n".join(lines)
    methods = [name for name in rows if "steps" in rows[name]]
    steps = ", ".join(f"`{name}` {rows[name]['steps']:,}" for name in methods)
    command = f"python scripts/dynamics.py FOLDER --methods {a.methods} --tasks {a.tasks}"
    intro = (
        f"Outer steps: {steps}, one seed. Errors: 300 test tasks; returns: one episode of 100 steps in each of the "
        f"first {a.tasks} test tasks, the same for all; the last column is the paired difference to the "
        f"planner with the average pendulum. ± is a 95 % interval over test tasks. {date.today()}, torch "
        f"{torch.__version__}, CPU, one thread.\n\n`{command}`"
    )
    page = f"# Planning with adapted models of a pendulum\n\n{intro}\n\n{table}\n"
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "dynamics.md").write_text(page)
    (a.out / "dynamics.json").write_text(json.dumps(rows, indent=1) + "\n")
    if a.readme:
        paste(a.readme, f"{intro}\n\n{table}\n", "<!-- dynamics -->", "<!-- end of dynamics -->")


if __name__ == "__main__":
    main()
