"""Tracing without the compiler's packages, of which it reads only settings: importing them takes over a second.

`make_fx` and fake tensors import the packages `torch._dynamo` and `torch._inductor`, and with them SymPy's printers,
pandas, the sharding of modules and ONNX, for a handful of settings and small functions.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any, TypeVar

from metaexp.system.lean import DYNAMO, StandsForDynamo

INDUCTOR = "torch._inductor"
# What may be imported of the two packages without the rest: each file imports nothing else of them.
LIGHT = {
    f"{DYNAMO}.config",
    f"{INDUCTOR}.config",
    f"{INDUCTOR}.custom_graph_pass",
    f"{INDUCTOR}.compiler_bisector",
    f"{INDUCTOR}.fx_passes",
    f"{INDUCTOR}.fx_passes.dedupe_symint_uses",
    f"{INDUCTOR}.runtime",
    f"{INDUCTOR}.runtime.cache_dir_utils",
}
log = logging.getLogger(__name__)
Made = TypeVar("Made")


def traced_lightly(trace: Callable[[bool], Made]) -> Made:
    """What `trace` returns, without those packages if it can do without; otherwise it is called again with them.

    Args:
        trace: traces and changes nothing else; is told whether it is to do without.

    Raises whatever it raises with the packages.
    """
    if DYNAMO in sys.modules or INDUCTOR in sys.modules:
        return trace(False)
    try:
        with _light():
            return trace(True)
    except Exception:
        log.debug("traced with Dynamo and Inductor", exc_info=True)
    return trace(False)


class _Light(StandsForDynamo):
    """Dynamo as tracing sees it; whatever else is asked of it needs the real one."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(f"{DYNAMO}.{name} needs the whole package")


class _Source:
    """Where Dynamo found a tensor: with fixed shapes no more than a name in messages."""

    def __init__(self, *words: Any):
        self.words = words

    def name(self) -> str:
        """Its parts."""
        return ".".join(map(str, self.words))


class _NothingElse(MetaPathFinder):
    """Refuses to import any other part of the two packages."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.startswith((f"{DYNAMO}.", f"{INDUCTOR}.")) and name not in LIGHT:
            raise ImportError(f"{name} needs the whole package")


@contextmanager
def _light() -> Iterator[None]:
    """Inside, the two packages are empty ones of which only the parts in LIGHT can be imported."""
    import torch
    import torch._higher_order_ops.triton_kernel_wrap  # which Dynamo would import

    root = os.path.dirname(torch.__file__)
    dynamo, inductor = _Light(DYNAMO), ModuleType(INDUCTOR)
    source = ModuleType(f"{DYNAMO}.source")
    for kind in ("ConstantSource", "AttrSource", "EphemeralSource", "RandomValueSource"):
        setattr(source, kind, type(kind, (_Source,), {}))
    dynamo.source = source  # type: ignore[attr-defined]
    there = {name: torch.__dict__.get(name) for name in ("_dynamo", "_inductor")}
    refuse = _NothingElse()
    try:
        for module in (dynamo, inductor):
            short = module.__name__.removeprefix("torch.")
            module.__path__ = [os.path.join(root, short)]
            sys.modules[module.__name__] = module
            torch.__dict__[short] = module
        sys.modules[source.__name__] = source
        sys.meta_path.insert(0, refuse)
        yield
    finally:
        if refuse in sys.meta_path:
            sys.meta_path.remove(refuse)
        for name in [name for name in sys.modules if f"{name}.".startswith((f"{DYNAMO}.", f"{INDUCTOR}."))]:
            del sys.modules[name]  # the packages will import their own
        for short, before in there.items():
            torch.__dict__.pop(short)
            if before is not None:
                torch.__dict__[short] = before
