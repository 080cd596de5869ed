"""The table of results that a finished run prints: Rich on a terminal, plain aligned columns elsewhere."""

import html
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from metaexp.checks import printable, shell, show
from metaexp.loggers.in_words import in_words
from metaexp.loggers.progress import duration, steps_per_second
from metaexp.system.output import tolerant

if TYPE_CHECKING:
    from rich.console import Console

BASELINE, UPPER_BOUND = "baseline", "upper bound"


def baseline_label(name: str) -> str:
    """The label of a baseline beside results; an oracle, or one who knows the task, is the upper bound."""
    return f"{UPPER_BOUND if name.startswith(('oracle', 'informed')) else BASELINE}: {name}"


def print_result(
    result: Mapping[str, Any],
    folder: str,
    logdir: str,
    stream: TextIO | None = None,
    console: "Console | None" = None,
) -> None:
    """Prints the results of a finished run: a Rich table on a terminal, plain aligned columns elsewhere.

    Args:
        result: the content of result.json.
        folder: the run's folder.
        logdir: the argument for `tensorboard --logdir`.
        stream: where to print; default sys.stdout. What it does not take (`| head`, `> /dev/full`) is no error.
        console: a Rich console to print on instead of `stream`.
    """
    out = tolerant(sys.stdout if stream is None else stream)
    head, rows = result_rows(result)
    title, below = title_of(result), [*notes(result), *_places(result, Path(folder), logdir)]
    # A result may come from elsewhere: what is text there is shown as text.
    title, below = printable(title), [printable(line) for line in below]
    head, rows = [printable(cell) for cell in head], [[printable(cell) for cell in row] for row in rows]
    if console is not None or out.isatty():
        _print_rich(title, head, rows, below, out, console)
    else:
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows)]
        print("\n".join([title, *lines, *below]), file=out, flush=True)


def title_of(result: Mapping[str, Any]) -> str:
    """What was trained, on what, for how long."""
    weights = result.get("weights", {})
    algo, task, model, seed, steps = (result.get(name) for name in ("algo", "task", "model", "seed", "steps"))
    title = f"{algo} on {task}, {model}, seed {seed}: {steps or 'no'} outer steps"
    if debug := result.get("debug"):
        title = f"NO RESULT (debug={debug} cuts all sizes): {title}"
    return title + (f", {weights.get('kind')} weights (step {weights.get('step')})" if weights and steps else "")


def notes(result: Mapping[str, Any]) -> list[str]:
    """What stands below the table: the result in words, the time, and what the means do not show."""
    lines, speed = [], result.get("speed", {})
    if not result.get("debug") and (said := in_words(result)):
        lines.append(f"in short     {said}")
    if speed.get("seconds") is not None:
        rate, parts = speed.get("meta_steps_per_s"), speed.get("times") or {}
        spent = ", ".join(f"{what} {duration(seconds)}" for what, seconds in parts.items() if seconds >= 0.5)
        total = duration(speed["seconds"]) + (f" ({spent})" if spent else "")
        lines.append(f"time         {total}" + (f", {steps_per_second(rate)}" if rate else ""))
    if result.get("doubt"):
        lines.append(f"doubt        {result['doubt']}")
    lines += _warnings(result)
    lines += from_parent(result)
    for metric, value in result["test"].items():
        if lost := value.get("diverged", 0):
            lines.append(f"not finite   {metric} of {lost} of {value.get('tasks')} tasks: left out of the mean")
    return lines


def _places(result: Mapping[str, Any], folder: Path, logdir: str) -> list[str]:
    """Where things are, and a command to go on with."""
    lines = [f"folder       {folder}"]
    pictures = sorted((folder / "figures").glob("*.png"), key=lambda path: (path.name != "test_episodes.png", path))
    if pictures:
        more = f" and {len(pictures) - 1} more beside it" if len(pictures) > 1 else ""
        lines.append(f"pictures     {pictures[0]}{more}")
    if (folder / "report.html").exists():
        lines.append(f"page         {folder / 'report.html'}")
    lines.append(f"view with    tensorboard --logdir {shell(logdir)}")
    if following := _next(result, folder, logdir):
        lines.append(f"next         {following}")
    return lines


def _next(result: Mapping[str, Any], folder: Path, logdir: str) -> str:
    """A command that goes on from here: a test with another number of shots that the task has, or a comparison."""
    if result.get("evaluation") is not None or not (folder / "config.yaml").exists():
        return ""
    own = (result.get("protocol") or {}).get("shots")
    others = [shots for shots in (result.get("shots") or {}).get("shots", []) if shots != own]
    if others and isinstance(own, int):
        shots = min(others, key=lambda shots: (shots > own, abs(shots - own)))
        return f"{python()} -m metaexp.evaluate run={shell(str(folder))} task.shots={shots}"
    return f"{python()} -m metaexp.report {shell(logdir)}"


def python() -> str:
    """The Python that runs this, as it can be typed here."""
    here = Path(sys.executable)
    return shell(str(here.relative_to(Path.cwd()))) if here.is_relative_to(Path.cwd()) else "python"


def result_rows(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of results."""
    head, rows = ["test", "mean", "median", "before", "1 step", "last step", "tasks"], []
    for metric, value in result["test"].items():
        steps = value.get("per_step") or []
        some = [steps[i] if len(steps) > 1 else None for i in (0, min(1, len(steps) - 1), -1)] if steps else [None] * 3
        curve = ["" if step is None or step["mean"] is None else f"{float(step['mean']):.4g}" for step in some]
        rows.append([metric, _interval(value), median_text(value), *curve, str(value.get("tasks", ""))])
        rows += [[f"{metric}, {label}", text, *[""] * 5] for label, text in _calibration(value.get("ece") or {})]
    for name, metrics in result.get("floors", {}).items():
        label = baseline_label(name)
        rows += [[f"{metric}, {label}", _interval(v), median_text(v), *[""] * 4] for metric, v in metrics.items()]
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in rows]


def markdown(result: Mapping[str, Any]) -> str:
    """The table of results and what stands below it, as Markdown."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(html.escape(printable(cell)).replace('|', '&#124;') for cell in cells)} |"

    head, rows = result_rows(result)
    lines = [line(head), f"|{'---|' * len(head)}", *map(line, rows)]
    below = [html.escape(printable(note)) for note in notes(result)]
    return "\n\n".join([html.escape(printable(title_of(result))), "\n".join(lines), *below])


def _interval(value: Mapping[str, Any]) -> str:
    if value["mean"] is None:  # every task diverged
        return "not finite"
    mean = f"{float(value['mean']):.4g}"
    return f"{mean} +- {float(value['ci95']):.2g}" if value.get("ci95") is not None else mean


def median_text(value: Mapping[str, Any]) -> str:
    """The median of a summary with its interval; nothing if it has none, as those of older versions."""
    median, ends = value.get("median"), value.get("median_ci")
    if median is None:
        return ""
    return f"{float(median):.4g}" + ("" if ends is None else f" ({float(ends[0]):.3g} to {float(ends[1]):.3g})")


def _calibration(error: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and text of each line about the calibration error."""
    if error.get("value") is None:
        return []
    ends = "" if error.get("ci95") is None else " ({:.3g} to {:.3g})".format(*error["ci95"])
    if error.get("corrected") is None:
        return [("calibration error", f"{error['value']:.3g}{ends}")]
    chance = " ({:.3g} to {:.3g} by chance alone)".format(*error["null95"])
    corrected = f"{error['corrected']:.3g}{ends}"
    return [("calibration error", corrected), ("not corrected", f"{error['value']:.3g}{chance}")]


def _warnings(result: Mapping[str, Any]) -> list[str]:
    """What the means do not show: tasks that adaptation made worse, and means that few tasks carry."""
    lines = tested_elsewhere(result)
    worse = [(metric, value) for metric, value in result["test"].items() if value.get("made_worse") is not None]
    for metric, value in worse[:1]:
        after = f"{metric} after the last inner step is worse than before the first"
        lines.append(f"made worse   {value['made_worse']} of {value['tasks']} tasks by adaptation: {after}")
    for metric, value in result["test"].items():
        if value.get("heavy_tailed"):
            share = f"the worst 1 % of tasks carry {100 * value['worst_share']:.0f} % of the mean"
            lines.append(f"heavy tail   {metric}: {share}, which says little: compare medians")
    return lines


def from_parent(result: Mapping[str, Any]) -> list[str]:
    """What a run has started from, and the old and the new test tasks before and after; [] for other runs."""
    parent = result.get("parent")
    if not isinstance(parent, Mapping):
        return []
    lines = [f"started from {parent.get('folder')} ({parent.get('checkpoint')}, step {parent.get('step')})"]
    for when, what in (("old", f"of {parent.get('task')}"), ("new", f"of {result.get('task')}")):
        part = parent.get(when) or {}
        if why := part.get("why"):
            lines.append(f"{when} tasks    not tested: {why}")
        for metric, value in list((part.get("metrics") or {}).items())[:1]:
            before, after = (_interval(value[key]) for key in ("before", "after"))
            lines.append(f"{when} tasks    {metric} {before} -> {after}: {_changed(value, when)} ({what})")
    seen = parent.get("seen")
    if isinstance(seen, Mapping) and seen.get("classes"):
        lines.append(f"SEEN         {seen['classes']} of {seen['of']} new test classes were trained on by that run")
    return lines


def _changed(value: Mapping[str, Any], when: str) -> str:
    """What a paired change says in words."""
    change, half, larger = (value.get(key) for key in ("change", "change_ci95", "larger_is_better"))
    if change is None or half is None:
        return "no tasks to compare"
    if abs(change) <= half or larger is None:
        return f"changed by {change:.3g} +- {half:.2g}"
    if (change > 0) == larger:
        return f"better by {abs(change):.3g} +- {half:.2g}"
    return f"WORSE by {abs(change):.3g} +- {half:.2g}" + (", forgotten" if when == "old" else "")


def tested_elsewhere(result: Mapping[str, Any]) -> list[str]:
    """What a test on other tasks or data is called, and how much of it was seen in training; [] for the run's own."""
    again = result.get("evaluation")
    if not isinstance(again, Mapping) or not again.get("mark"):
        return []
    lines = [f"{again['mark']:<12} trained on {again.get('trained_on')}, tested on {result.get('task')}"]
    changed = {key: value for key, value in (again.get("changed") or {}).items() if key.startswith("task.")}
    if changed:
        lines[0] += f" with {', '.join(f'{key}={show(value)}' for key, value in changed.items())}"
    seen = again.get("seen")
    if isinstance(seen, Mapping) and seen.get("classes"):
        which = ", ".join(map(str, (seen.get("which") or [])[:5]))
        lines.append(
            f"SEEN         {seen['classes']} of {seen['of']} test classes have examples that were trained on: {which}"
        )
    elif isinstance(seen, Mapping) and seen.get("names"):
        lines.append(f"same names   {seen['names']} of {seen['of']} test classes are called like a training class")
    return lines


def _print_rich(
    title: str, head: list[str], rows: list[list[str]], below: list[str], out: Any, console: "Console | None"
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console(file=out)
    table = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, safe_box=True)
    for i, name in enumerate(head):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
    plus = "±" if console.encoding.lower().startswith("utf") else "+-"
    for row in rows:
        dim = "dim" if any(f", {word}" in row[0] for word in (BASELINE, UPPER_BOUND)) else ""
        table.add_row(*(Text(cell.replace("+-", plus)) for cell in row), style=dim)
    console.print(table)
    for line in below:
        console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)
