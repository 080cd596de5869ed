"""`python -m metaexp.adapt run=FOLDER support=FILE query=FILE out=FILE`: learn a task and predict; see --help."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metaexp.checks import nearest, show

# torch and lightning are imported only after the command line has been checked.
from metaexp.config.command_line import exit_code
from metaexp.config.overrides import parse, typed_path, unquoted
from metaexp.errors import ConfigError
from metaexp.system.ranks import one_process

HELP = """usage: python -m metaexp.adapt run=FOLDER support=FILE query=FILE out=FILE
                               [KEY=VALUE ...]

Learns one new task with a trained run, as its test does, and predicts. Nothing
in the run's folder is changed, and its training data need not be there.

  run=FOLDER           the run
  support=FILE         the examples to learn from, with their targets or labels
  query=FILE           the examples to predict; if it has targets too, the
                       metrics after 0, 1, ... steps are printed
  data=FILE            both in one file: rows with a target are learned from,
                       rows without one are predicted
  out=FILE             predictions, with probabilities or standard deviations:
                       .csv, .tsv, .parquet or .npz; without it they are printed
  export=FILE          the adapted predictor, for use without metaexp: .pt2
                       (torch.export) or .onnx; .safetensors: its weights
  plot=FILE.png        the metric after 0, 1, ... steps

FILE is a .csv, .tsv or .parquet table, an .npz with x and y, or a folder of
pictures: one folder per class, or for query=, pictures without folders.

  target=COLUMN        of targets or labels; default: the run's own, or y
  text=COLUMN          of sentences; default: the run's own
  keep=[COLUMN,...]    columns that are no inputs, and stand in the predictions
  weights=best|last    default: those that the run's test uses
  steps=10             inner steps; default: as many as in the run's test
  normalise=single     where batch statistics come from: also support, queries
  device=cpu           or gpu, mps, auto
  trust=[package]      your own package, whose classes the run names

Exit codes: 0 all well, 2 a wrong argument, 3 wrong data, 4 not a usable run,
7 a file cannot be written.
"""
PATHS = ("run", "support", "query", "data", "out", "export", "plot")
WORDS = ("target", "text", "keep", "weights", "steps", "normalise", "device", "trust")
TABLES = (".csv", ".tsv", ".parquet", ".npz")
EXPORTS = (".pt2", ".onnx", ".safetensors")


class Typed(NamedTuple):
    """A parsed command line; paths that were not typed are None."""

    run: Path
    support: Path | None
    query: Path | None
    data: Path | None
    out: Path | None
    export: Path | None
    plot: Path | None
    target: str | None
    text: str | None
    keep: list[str]
    weights: str | None
    steps: int | None
    normalise: str
    device: str
    trust: list[str]


def main(argv: list[str] | None = None) -> None:
    """The command; exits with the codes of metaexp.errors."""
    words = sys.argv[1:] if argv is None else argv
    sys.exit(exit_code(lambda: run(words)))


def run(argv: Sequence[str]) -> int:
    """Run a command line; returns the exit code.

    Raises:
        ConfigError: an argument that does not exist or cannot be, a class that is not trusted.
        DataError: a file that cannot be read, or whose rows do not fit the run.
        CheckpointError: not a run folder, or no usable weights in it.
        SpaceError: a file cannot be written.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # the user's own classes, if they are trusted
    if "--help" in argv or "-h" in argv:
        print(HELP, end="")
        return 0
    typed = read(argv)
    one_process("metaexp.adapt")
    from metaexp.adapt.new_task import learn  # torch is imported here

    learn(typed)
    return 0


def read(argv: Sequence[str]) -> Typed:
    """Parse the arguments; raises ConfigError for one that cannot be, without reading any file."""
    paths: dict[str, Path] = {}
    words: list[str] = []
    for word in argv:
        key, equals, value = word.partition("=")
        if word.startswith("-"):
            raise ConfigError(f"{word}: no such flag; see --help")
        if key in PATHS and equals:  # paths may contain any character, so Hydra does not parse them
            paths[key] = typed_path(key, unquoted(value))
        else:
            words.append(word)
    found: dict[str, Any] = {}
    for override in parse(words).parsed:
        key = override.key_or_group
        if key not in WORDS or override.is_sweep_override() or override.is_delete():
            hint = nearest(key, [*PATHS, *WORDS]) or "; see --help"
            raise ConfigError(f"{override.input_line}: no such argument{hint}")
        found[key] = _plain(override.value())
    _check_paths(paths)
    return Typed(
        **{name: paths.get(name) for name in PATHS},  # type: ignore[arg-type]
        target=_text(found, "target"),
        text=_text(found, "text"),
        keep=_list(found, "keep"),
        weights=_one_of(found, "weights", ("best", "last")),
        steps=_steps(found),
        normalise=_one_of(found, "normalise", ("single", "support", "queries")) or "single",
        device=_text(found, "device") or "cpu",
        trust=_list(found, "trust"),
    )


def _check_paths(paths: dict[str, Path]) -> None:
    if "run" not in paths:
        raise ConfigError("run=FOLDER: must be given: the folder of a trained run (see --help)")
    if "data" in paths and ("support" in paths or "query" in paths):
        raise ConfigError("data=FILE: holds support and query; leave support= and query= out")
    if "data" not in paths and "support" not in paths:
        raise ConfigError("support=FILE: must be given: the examples to learn from (or data=FILE; see --help)")
    if "query" not in paths and "data" not in paths:
        for key in ("out", "plot"):
            if key in paths:
                raise ConfigError(f"{key}={paths[key]}: there is nothing to predict; add query=FILE")
        if "export" not in paths:
            raise ConfigError("query=FILE: must be given: the examples to predict (or export=FILE; see --help)")
    for key, endings in (("out", TABLES), ("export", EXPORTS), ("plot", (".png",))):
        path = paths.get(key)
        if path is None:
            continue
        if path.suffix.lower() not in endings:
            raise ConfigError(f"{key}={path}: must end in {' or '.join(endings)}")
        if not path.absolute().parent.is_dir():
            raise ConfigError(f"{key}={path}: there is no folder {path.parent}; make it first")
        if path.is_dir():
            raise ConfigError(f"{key}={path}: is a folder; name a file")


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else str(getattr(value, "text", value))


def _text(found: dict[str, Any], key: str) -> str | None:
    value = found.get(key)
    if isinstance(value, list | dict | bool):
        raise ConfigError(f"{key}={show(value)}: must be one word")
    return None if value is None else str(value)


def _list(found: dict[str, Any], key: str) -> list[str]:
    value = found.get(key)
    return [] if value is None else [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _one_of(found: dict[str, Any], key: str, words: Sequence[str]) -> str | None:
    value = _text(found, key)
    if value is not None and value not in words:
        raise ConfigError(f"{key}={value}: must be one of {', '.join(words)}")
    return value


def _steps(found: dict[str, Any]) -> int | None:
    value = found.get("steps")
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ConfigError(f"steps={show(value)}: must be a whole number of at least 0")
    return value
