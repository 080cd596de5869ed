"""Hydra's launchers as a sweep uses them: its own one starts processes, and of no launcher may one lost job end all."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus

from metaexp.config.command_line import complain
from metaexp.errors import Interrupted
from metaexp.run.sweep_lock import requests


class ProcessLauncher(BasicLauncher):
    """Hydra's basic launcher, whose task function only starts a job and returns how to wait for it."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Starts all jobs of a batch, as many at a time as are allowed, and waits for them."""
        returns = super().launch(job_overrides, initial_job_idx)
        for returned in returns:
            if returned.status == JobStatus.COMPLETED and callable(wait := returned.return_value):
                try:
                    returned.return_value = wait()
                except Exception as error:
                    returned.status, returned.return_value = JobStatus.FAILED, error
        assert self.config is not None
        if requests(Path(str(self.config.hydra.sweep.dir))):
            raise Interrupted("stopped")
        return returns


@contextmanager
def careful_launchers(launcher: str) -> Iterator[None]:
    """Inside the block `basic` starts processes, and `launcher` returns what it has when a worker was lost.

    Args:
        launcher: see `sweep_jobs.launcher_of`.
    """
    classes = Plugins.instance().class_name_to_class
    name = f"{BasicLauncher.__module__}.{BasicLauncher.__name__}"
    owner, function = _results_of(launcher)
    original = getattr(owner, function, None)
    classes[name] = ProcessLauncher
    if original is not None:
        setattr(owner, function, _forgiving(original, several=launcher != "ray"))
    try:
        yield
    finally:
        classes[name] = BasicLauncher
        if original is not None:
            setattr(owner, function, original)


def _results_of(launcher: str) -> tuple[Any, str]:
    """Where this launcher waits for a job's result: an object and the name of its function."""
    if launcher == "ray":
        return importlib.import_module("ray"), "get"
    if launcher in ("submitit", "slurm"):
        return importlib.import_module("submitit.core.core").Job, "results"
    return None, ""


def _forgiving(function: Callable[..., Any], several: bool) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:  # the worker's process was killed
            complain(f"a worker of the launcher was lost: {str(error).strip().splitlines()[0]}")
            lost = JobReturn(status=JobStatus.COMPLETED)
            return [lost] if several else lost

    return call
