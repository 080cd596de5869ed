"""A run from Python: `metaexp.start("algo=maml", "task=sine")`, in a script or in a notebook."""

import os
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaexp.config.settings import load as load_settings
from metaexp.errors import ConfigError

if TYPE_CHECKING:
    from metaexp.estimator import Estimator


class Run:
    """A finished run.

    Args:
        folder: the run's folder.
        result: the content of its result.json.
    """

    def __init__(self, folder: Path, result: dict[str, Any]):
        self.folder, self.result = folder, result

    @cached_property
    def figures(self) -> dict[str, Path]:
        """The run's pictures, PNG files by name, e.g. `test_adaptation_mse`."""
        return {path.stem: path for path in sorted((self.folder / "figures").glob("*.png"))}

    def load(self) -> "Estimator":
        """The trained learner as an estimator with `fit` and `predict`; see `metaexp.load`."""
        from metaexp.estimator import load

        return load(self.folder)

    def _repr_html_(self) -> str:
        """What a notebook shows: the table of results, and pictures of the test."""
        from metaexp.loggers.html_page import fragment

        pictures = {name: path.read_bytes() for name, path in self.figures.items() if path.is_file()}
        return fragment(self.result, pictures, str(self.folder))

    def __repr__(self) -> str:
        metric, value = next(iter(self.result["test"].items()))
        mean = "not finite" if value["mean"] is None else f"{value['mean']:.4g} +- {value['ci95']:.2g}"
        return f"Run({self.folder}: {metric} {mean} on {value['tasks']} test tasks)"


def start(*overrides: str, config_dir: str | os.PathLike[str] | None = None) -> Run:
    """Train and test one run and show progress, like `python -m metaexp.train` with the same arguments.

    Args:
        overrides: key=value settings, e.g. "algo=maml", "task=sine", "steps=2000".
        config_dir: folder with group files of your own.

    Raises:
        ConfigError: a wrong setting; nothing is written.
        MetaexpError: by exit code, see `metaexp.errors`; Interrupted (a KeyboardInterrupt) after Ctrl-C, once the
            checkpoint is written.
    """
    for override in overrides:
        if not isinstance(override, str) or override.startswith("-"):
            raise ConfigError(f"{override}: start takes settings as key=value; a sweep is made on the command line")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # your own classes beside the notebook
    config = load_settings(list(overrides), None if config_dir is None else os.fspath(config_dir))
    if config["device"]["strategy"] != "auto":
        raise ConfigError("device.strategy=ddp: several processes are started by the command, python -m metaexp.train")
    config["command"] = f"metaexp.start({', '.join(map(repr, overrides))})"
    from metaexp.run.single import run  # torch is imported only after the settings have been checked

    folder, result = run(config, own_process=False)
    return Run(folder, result)
