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
def careful_launchers() -> Iterator[None]:
    """Inside the block `basic` starts processes, and the others return what they have when a worker was lost."""
    classes = Plugins.instance().class_name_to_class
    name = f"{BasicLauncher.__module__}.{BasicLauncher.__name__}"
    before: list[tuple[Any, str, Any]] = []
    for module, owner, function in (("submitit.core.core", "Job", "results"), ("ray", None, "get")):
        if (found := _loaded(module, owner)) is not None:
            before.append((found, function, getattr(found, function)))
            setattr(found, function, _forgiving(getattr(found, function), owner is not None))
    classes[name] = ProcessLauncher
    try:
        yield
    finally:
        classes[name] = BasicLauncher
        for found, function, original in before:
            setattr(found, function, original)


def _loaded(module: str, owner: str | None) -> Any:
    """A module, or a class in it, if its launcher is installed."""
    plugin = {"ray": "hydra_ray_launcher", "submitit": "hydra_submitit_launcher"}[module.partition(".")[0]]
    if not any(plugin in name for name in Plugins.instance().class_name_to_class):
        return None
    found = importlib.import_module(module)
    return getattr(found, owner) if owner else found


def _forgiving(function: Callable[..., Any], several: bool) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:  # the worker's process was killed
            complain(f"a worker of the launcher was lost: {str(error).strip().splitlines()[0]}")
            lost = JobReturn(status=JobStatus.COMPLETED)
            return [lost] if several else lost

    return call
