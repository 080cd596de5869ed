"""A quick start: what torch and Lightning import on their way, and a run does not use, stays out of the process.

`torch._dynamo` takes a second of CPU time (it traces Python code, which nothing here does: the compiler gets traced
operations), `scipy.signal` another one. Python's collector of cycles would look through the growing heap again and
again while modules are imported; it starts once they are there.
"""

import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial, wraps
from types import ModuleType, SimpleNamespace
from typing import Any

DYNAMO, SIGNAL = "torch._dynamo", "scipy.signal"
_paused = False  # whether the collector waits for `resume_collector`


def pause_collector() -> None:
    """For a process that makes one run and ends: no search for cycles before `resume_collector`."""
    global _paused
    _paused = gc.isenabled()
    gc.disable()


def resume_collector() -> None:
    """Ends `pause_collector`, if it was called. What exists by now is never searched."""
    global _paused
    if _paused:
        gc.freeze()
        gc.enable()
    _paused = False


@contextmanager
def without_collector() -> Iterator[None]:
    """Inside, nothing looks for cycles: where much is made that all stays until the end."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def import_lightning() -> None:
    """Imports Lightning without Dynamo, which it only asks whether something is compiled and tells what to leave alone,
    and without `scipy.signal`, to which TorchMetrics would add a name.

    Both remain importable. `scipy.signal` then lacks its old name `hamming`, which one package that measures speech
    expects from TorchMetrics.
    """
    if "lightning" in sys.modules:
        return
    signal = ModuleType(SIGNAL)
    signal.hamming = None  # type: ignore[attr-defined]
    with _standing_in(StandsForDynamo(DYNAMO), signal):
        import lightning.pytorch  # noqa: F401


def spare_dynamo() -> None:
    """Gradients and the making of optimisers do not import Dynamo, which is loaded by whoever else asks for it.

    Until then there is nothing that they would have to be hidden from.
    """
    import torch

    if _loaded():
        return
    torch.__dict__.setdefault("_dynamo", StandsForDynamo(DYNAMO))  # importing the real one replaces it
    optimiser = torch.optim.Optimizer
    for function in (
        optimiser.add_param_group, optimiser.zero_grad, optimiser.load_state_dict, optimiser.state_dict,
    ):  # fmt: skip
        plain = getattr(function, "__wrapped__", None)
        if plain is not None:
            plain.__dict__.setdefault("__dynamo_disable", _hidden(plain))


@contextmanager
def stepping(optimizer: Any) -> Iterator[None]:
    """Inside, a step of this optimiser does not import Dynamo if it is one of torch's own."""
    if DYNAMO in sys.modules or not type(optimizer).__module__.startswith("torch.optim."):
        yield
        return
    spare_dynamo()
    with _standing_in(StandsForDynamo(DYNAMO)):
        yield


def _loaded() -> bool:
    return not isinstance(sys.modules.get(DYNAMO), StandsForDynamo | None)


def _hidden(function: Callable[..., Any], recursive: bool = True, **more: Any) -> Callable[..., Any]:
    """The function, hidden from Dynamo once that is loaded."""
    made: list[Callable[..., Any]] = []

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not made:
            if not _loaded():
                return function(*args, **kwargs)
            made.append(sys.modules[DYNAMO].disable(function, recursive, **more))
        return made[0](*args, **kwargs)

    return call


def _disable(function: Callable[..., Any] | None = None, recursive: bool = True, **more: Any) -> Any:
    """Stands for `torch._dynamo.disable`."""
    if function is None:
        return partial(_disable, recursive=recursive, **more)
    return _hidden(function, recursive, **more)


def _nothing(*args: Any, **kwargs: Any) -> None:
    pass


class _OnlyIfLoaded(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        real = getattr(sys.modules.get(DYNAMO), "OptimizedModule", None)
        return isinstance(real, type) and real is not cls and isinstance(instance, real)


class _OptimizedModule(metaclass=_OnlyIfLoaded):
    """Stands for the class of what `torch.compile` returns: nothing is one before Dynamo is loaded."""


class StandsForDynamo(ModuleType):
    """Stands for `torch._dynamo` until something else of it is asked for."""

    OptimizedModule = _OptimizedModule
    disable = staticmethod(_disable)
    graph_break = staticmethod(_nothing)
    compiled_autograd = SimpleNamespace(_disable=nullcontext)  # which nobody can have enabled

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(DYNAMO) is self:
            del sys.modules[DYNAMO]
        return getattr(importlib.import_module(DYNAMO), name)


@contextmanager
def _standing_in(*modules: ModuleType) -> Iterator[None]:
    """Inside, these modules are found under their names, if none is loaded."""
    added = [module for module in modules if sys.modules.setdefault(module.__name__, module) is module]
    try:
        yield
    finally:
        for module in added:
            if sys.modules.get(module.__name__) is module:
                del sys.modules[module.__name__]
