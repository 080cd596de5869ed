"""The table of results that a finished run prints: Rich on a terminal, plain aligned columns elsewhere."""

import os
import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from metaexp.loggers.progress import duration

if TYPE_CHECKING:
    from rich.console import Console

BASELINE, UPPER_BOUND = "baseline", "upper bound"


def baseline_label(name: str) -> str:
    """The label of a baseline beside results; an oracle is the upper bound."""
    return f"{UPPER_BOUND if name.startswith('oracle') else BASELINE}: {name}"


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
        stream: where to print; default sys.stdout. A reader that closes the pipe (`| head`) is not an error.
        console: a Rich console to print on instead of `stream`.
    """
    stream = stream or sys.stdout
    head, rows = _result_rows(result)
    speed, weights = result.get("speed", {}), result.get("weights", {})
    title = "{algo} on {task}, {model}, seed {seed}: {steps} outer steps".format(**result)
    if weights:
        title += f", {weights['kind']} weights (step {weights['step']})"
    below = [f"folder       {folder}", f"view with    tensorboard --logdir {shlex.quote(logdir)}"]
    for metric, value in result["test"].items():
        if lost := value.get("diverged", 0):
            below.insert(0, f"not finite   {metric} of {lost} of {value['tasks']} tasks: left out of the mean")
    if result.get("doubt"):
        below.insert(0, f"doubt        {result['doubt']}")
    if speed:
        rate = speed.get("meta_steps_per_s")
        below.insert(0, f"time         {duration(speed['seconds'])}" + (f", {rate:.4g} meta-steps/s" if rate else ""))
    try:
        if console is not None or stream.isatty():
            _print_rich(title, head, rows, below, stream, console)
        else:
            widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
            lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows)]
            print("\n".join([title, *lines, *below]), file=stream, flush=True)
    except BrokenPipeError:
        # Python flushes stdout once more at exit: give that flush somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _result_rows(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    head, rows = ["test", "mean", "before", "1 step", "last step", "tasks"], []
    for metric, value in result["test"].items():
        steps = value.get("per_step") or []
        some = [steps[i] if len(steps) > 1 else None for i in (0, min(1, len(steps) - 1), -1)] if steps else [None] * 3
        curve = ["" if step is None or step["mean"] is None else f"{float(step['mean']):.4g}" for step in some]
        rows.append([metric, _interval(value), *curve, str(value["tasks"])])
        if (error := value.get("ece")) and error["value"] is not None:
            low, high = error["ci95"]
            rows.append([f"{metric}, calibration error", f"{error['value']:.3g} ({low:.3g} to {high:.3g})", *[""] * 4])
    for name, metrics in result.get("floors", {}).items():
        label = baseline_label(name)
        rows += [[f"{metric}, {label}", _interval(value), "", "", "", ""] for metric, value in metrics.items()]
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _interval(value: Mapping[str, Any]) -> str:
    if value["mean"] is None:  # every task diverged
        return "not finite"
    mean = f"{float(value['mean']):.4g}"
    return f"{mean} +- {float(value['ci95']):.2g}" if value.get("ci95") is not None else mean


def _print_rich(
    title: str, head: list[str], rows: list[list[str]], below: list[str], stream: TextIO, console: "Console | None"
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console(file=stream)
    table = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, safe_box=True)
    for i, name in enumerate(head):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
    plus = "±" if console.encoding.lower().startswith("utf") else "+-"
    for row in rows:
        dim = "dim" if any(f", {word}" in row[0] for word in (BASELINE, UPPER_BOUND)) else ""
        table.add_row(*(Text(cell.replace("+-", plus)) for cell in row), style=dim)
    console.print(table)
    for line in below:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
