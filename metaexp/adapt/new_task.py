"""One new task from files to predictions: what `python -m metaexp.adapt` does once its arguments are known."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from metaexp.adapt import predictions
from metaexp.adapt.command import Typed
from metaexp.adapt.sheets import Columns, Sheet, divided, read_sheet
from metaexp.checks import printable
from metaexp.errors import ConfigError, DataError
from metaexp.estimator import Classifier, load
from metaexp.system.files import replace_file

log = logging.getLogger(__name__)


def learn(typed: Typed) -> None:
    """Read, learn, print and write; raises as `metaexp.adapt.command.run`."""
    if typed.out is not None:
        predictions.check_ending(typed.out)
    if typed.export is not None:
        from metaexp.adapt.export import need

        need(typed.export)
    with shown():
        try:
            model = load(
                typed.run,
                weights=typed.weights,
                device=typed.device,
                normalise=typed.normalise,
                steps=typed.steps,
                trust=typed.trust,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error
        support, query, target = _read(model, typed)
        _fit(model, support)
        print(_about(model, support, typed))
        if query is not None:
            _predict(model, query, target, typed)
        if typed.export is not None:
            from metaexp.adapt.export import export

            print(export(model, typed.export, support.inputs))


@contextmanager
def shown() -> Iterator[None]:
    """Inside, notes (progress of long work, missing data) are lines on standard error."""
    log, handler = logging.getLogger("metaexp"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level, log.level = log.level, logging.INFO
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _read(model: Any, typed: Typed) -> tuple[Sheet, Sheet | None, str]:
    raw, task = model.source.inputs, model.source.task
    target = typed.target or task.get("target") or task.get("label") or "y"
    columns = Columns(target, typed.text, typed.keep, not isinstance(model, Classifier))
    if typed.data is not None:
        support, query = divided(read_sheet(typed.data, raw, columns))
        return support, query, target
    assert typed.support is not None
    support = read_sheet(typed.support, raw, columns)
    if missing := [place for place, value in enumerate(support.y) if value is None]:
        if len(missing) < len(support):
            row = next(iter(support.rows.values()))[missing[0]]
            raise DataError(f"{support.source}: {next(iter(support.rows))} {row} has no target; complete it")
        what = "has no labels; name a folder with one folder per class" if support.source.is_dir() else (
            f"has no targets; target={target} is the column they are read from"
        )  # fmt: skip
        raise DataError(f"{support.source}: {what}")
    return support, None if typed.query is None else read_sheet(typed.query, raw, columns, like=support), target


def _fit(model: Any, support: Sheet) -> None:
    try:
        model.fit(support.x, _stacked(support.y))
    except (ValueError, TypeError) as error:
        named = str(error).partition(":")[0].partition("=")[0]
        if named in ("steps", "normalise"):
            raise ConfigError(str(error)) from error
        raise DataError(f"{support.source}: {error}") from error


def _stacked(y: list[Any]) -> np.ndarray:
    return np.stack(y) if isinstance(y[0], np.ndarray) else np.array(y)


def _about(model: Any, support: Sheet, typed: Typed) -> str:
    choices = model.choices
    what = f"{len(support):,} examples"
    if isinstance(model, Classifier):
        counts = {str(label): support.y.count(label) for label in model.classes_.tolist()}
        listed = ", ".join(f"{label} ({count})" for label, count in list(counts.items())[:10])
        what += f" of {len(counts)} classes: {printable(listed)}{', ...' if len(counts) > 10 else ''}"
    made = f"algo={choices.get('algo')} task={choices.get('task')} model={choices.get('model')}"
    of_step = "" if model.step is None else f", weights of step {model.step}"
    return f"run        {model.folder}\n           {made}{of_step}\nsupport    {what}"


def _predict(model: Any, query: Sheet, target: str, typed: Typed) -> None:
    labelled = [place for place, value in enumerate(query.y) if value is not None]
    if labelled:
        _check_classes(model, query, labelled, target)
    elif typed.plot is not None:
        raise ConfigError(f"plot={typed.plot}: the curve needs targets of the query, and {query.source} has none")
    try:
        if labelled:
            some = query if len(labelled) == len(query) else query.part(labelled)
            curves = model.adaptation(some.x, _stacked(some.y))
            print(f"query      {len(query):,} examples, {len(labelled):,} of them with targets\n\n{_curves(curves)}")
            if typed.plot is not None:
                _plot(typed.plot, curves, model)
        else:
            print(f"query      {len(query):,} examples without targets")
        columns, arrays = predictions.table(model, query, target)
        _warn(arrays)
    except (ValueError, TypeError) as error:
        raise DataError(f"{query.source}: {error}") from error
    if typed.out is None:
        print(f"\n{predictions.printed(columns)}")
    else:
        predictions.write(typed.out, columns, arrays)
        print(f"\npredictions of {len(query):,} examples: {typed.out}")


def _warn(arrays: dict[str, np.ndarray]) -> None:
    values = arrays.get("probabilities", arrays["prediction"])
    lost = int((~np.isfinite(values.reshape(len(values), -1)).all(1)).sum())
    if lost:
        log.warning("warning: %d of %d predictions are not finite: inputs unlike those of training?", lost, len(values))


def _check_classes(model: Any, query: Sheet, labelled: list[int], target: str) -> None:
    if not isinstance(model, Classifier):
        return
    known = model.classes_.tolist()
    for place in labelled:
        if query.y[place] not in known:
            name, row = next((name, values[place]) for name, values in query.rows.items())
            raise DataError(
                f"{query.source}: {name} {row} is of class {query.y[place]}, which is not among the "
                f"{len(known)} of the support set, {', '.join(map(str, known[:10]))}"
            )


def _curves(curves: dict[str, np.ndarray]) -> str:
    """The metrics after 0, 1, ... steps; of a long path the ends and every tenth part."""
    last = len(next(iter(curves.values()))) - 1
    steps = sorted({round(last * i / 10) for i in range(11)}) if last > 20 else range(last + 1)
    lines = [f"{'steps' if last else '':7}" + "".join(f"{name:>18}" for name in curves)]
    for step in steps:
        lines.append(f"{step if last else '':<7}" + "".join(f"{values[step]:>18.4g}" for values in curves.values()))
    return "\n".join(lines)


def _plot(path: Path, curves: dict[str, np.ndarray], model: Any) -> None:
    from metaexp.plots.curves import adaptation_curve

    metric, values = next(iter(curves.items()))
    figure = adaptation_curve(metric, values[None], title=f"{model.choices.get('algo')}: one new task")
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    replace_file(path, lambda file: file.write(picture.getvalue()))
