"""Compiled graphs kept on disk: a graph that was compiled before is loaded without importing the compiler.

The name of a file is a digest of everything that the machine code depends on: the graph's operations with all their
numbers, the shapes of its inputs, the number of threads, torch's version, the processor, and the compiler's settings.
"""

import getpass
import hashlib
import json
import os
import platform
import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from metaexp.errors import ConfigError, SpaceError
from metaexp.outer import gru_kernel
from metaexp.outer.kernel_calls_source import PROGRAM, SORT
from metaexp.outer.kernel_library import discard, load, own_program
from metaexp.outer.small_products import UNFUSED, lowering
from metaexp.outer.small_products_source import KERNEL, SOURCE
from metaexp.system.cache import default_cache
from metaexp.system.files import replace_file

# Raise FORMAT when the same graph is to become other machine code.
FORMAT, MOST = 4, 500
# Nobody looks into this code with a debugger, and one graph does not repay precompiled headers or a test whether the
# compiler knows the processor's vectors: without these it compiles in half the time.
OPTIONS: dict[str, Any] = {
    "aot_inductor.enable_line_tables": False,
    "aot_inductor.enable_frame_pointer": False,
    "aot_inductor.precompile_headers": False,
    "cpp.vec_isa_ok": True,
    **UNFUSED,
}
compilations = 0  # graphs that this process has handed to the compiler


def ahead(graph: GraphModule, inputs: Sequence[Tensor]) -> Callable[..., list[Tensor]]:
    """The graph, which must be for a CPU, as machine code: from disk, or compiled and kept there.

    Called with tensors like the inputs, from one thread at a time. Raises whatever the compiler raises.
    """
    constants = _lift(graph)
    leaves = [*inputs, *constants]
    folder, key = _folder(), digest(graph, leaves)
    made = (folder and _kept(folder, key)) or _compile(graph, leaves, folder, key)
    call = load(made) or _runner(made)
    if folder is None or made.parent != folder:  # a loaded library needs no file
        discard(made)
    if not constants:
        return call
    return lambda *tensors: list(call(*tensors, *constants))


def _runner(path: Path) -> Callable[..., list[Tensor]]:
    """A library of inductor's as a function of tensors."""
    runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(path), 1)
    return lambda *tensors: list(runner.run([*tensors]))


def digest(graph: GraphModule, inputs: Sequence[Tensor]) -> str:
    """The SHA-256 of what the graph's machine code depends on."""
    names = {node: f"%{place}" for place, node in enumerate(graph.graph.nodes)}
    nodes = [[node.op, str(node.target) if node.op != "placeholder" else ""] + _written(node, names) for node in names]
    shapes = [[list(x.shape), x.stride(), str(x.dtype), str(x.device), _same(x, inputs)] for x in inputs]
    compiler = {k: v for k, v in os.environ.items() if re.match("TORCHINDUCTOR_|AOT_INDUCTOR_|CXX|OMP_NUM", k)}
    compiler.pop("TORCHINDUCTOR_CACHE_DIR", None)
    machine = [torch.__version__, torch.get_num_threads(), *_processor()]
    written = [FORMAT, SOURCE, KERNEL, PROGRAM, SORT, *gru_kernel.sources(graph)]
    whole = [written, sorted(OPTIONS.items()), sorted(compiler.items()), machine, shapes, nodes]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def _written(node: Node, names: dict[Node, str]) -> list[str]:
    mapped = torch.fx.node.map_arg((node.args, node.kwargs), lambda one: _Name(names[one]))
    return [repr(mapped)]


class _Name(str):
    """A node in what is written: never equal to a string among the arguments."""

    def __repr__(self) -> str:
        return str(self)


def _same(x: Tensor, inputs: Sequence[Tensor]) -> int:
    """The place of the first input in the same memory."""
    return next(place for place, other in enumerate(inputs) if other.data_ptr() == x.data_ptr())


@cache
def _processor() -> tuple[str, ...]:
    """What the instructions may be: code is compiled for the processor that it is compiled on."""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
        wanted = [line for line in text.splitlines() if re.match("model name|flags|Features|CPU", line)]
        return platform.machine(), torch.backends.cpu.get_cpu_capability(), *wanted
    return platform.platform(), platform.processor(), torch.backends.cpu.get_cpu_capability()


def _lift(graph: GraphModule) -> list[Tensor]:
    """Makes the graph's constants further inputs, and returns them: their values are not part of the code."""
    constants: list[Tensor] = []
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    for node in [node for node in graph.graph.nodes if node.op == "get_attr"]:
        value = graph
        for name in node.target.split("."):
            value = getattr(value, name)
        if not isinstance(value, Tensor):
            raise TypeError(f"{node.target}: a graph within the graph")
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"constant_{len(constants)}")
        node.replace_all_uses_with(last)
        graph.graph.erase_node(node)
        constants.append(value.detach())
    graph.recompile()
    return constants


def _folder() -> Path | None:
    """Where graphs are kept: beside the compiler's own cache if its place was chosen, else in that of this project."""
    chosen = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if chosen and os.path.abspath(chosen) != _unchosen():
        return Path(chosen) / "metaexp"
    with suppress(ConfigError):
        folder = default_cache().folder
        return folder and folder / "graphs"
    return None


def _unchosen() -> str:
    """The folder that torch itself writes into the environment when it traces and none was chosen."""
    try:
        user = getpass.getuser()
    except (KeyError, ModuleNotFoundError, OSError):
        user = f"uid_{os.getuid()}"
    return os.path.join(tempfile.gettempdir(), "torchinductor_" + re.sub(r'[\\/:*?"<>|]', "_", user))


def _kept(folder: Path, key: str) -> Path | None:
    """The file of this key, if it is whole."""
    path = folder / f"{key}.so"
    with suppress(OSError):
        if hashlib.sha256(path.read_bytes()).hexdigest() == path.with_suffix(".sha256").read_text("utf-8"):
            os.utime(path)
            return path
    return None


def _compile(graph: GraphModule, inputs: list[Tensor], folder: Path | None, key: str) -> Path:
    from torch._inductor import aot_compile, config

    global compilations
    compilations += 1
    lowering()
    gru_kernel.lowering()
    have = config.get_config_copy()
    known = {name: value for name, value in OPTIONS.items() if name in have}
    with own_program(inputs):
        made = Path(str(aot_compile(graph, tuple(inputs), options=known)))
    if folder is None:
        return made
    data = made.read_bytes()
    kept = folder / f"{key}.so"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(kept, partial(_write, data), needs=len(data))
        check = hashlib.sha256(data).hexdigest().encode()
        replace_file(kept.with_suffix(".sha256"), partial(_write, check), needs=len(check))
        _forget(folder)
    except (OSError, SpaceError):  # then it is compiled anew next time
        return made
    discard(made)
    return kept


def _forget(folder: Path) -> None:
    """Removes the graphs that were not used for longest, if there are more than MOST."""
    for path in sorted(folder.glob("*.so"), key=lambda one: -one.stat().st_mtime)[MOST:]:
        path.unlink(missing_ok=True)
        path.with_suffix(".sha256").unlink(missing_ok=True)


def _write(data: bytes, file: Any) -> None:
    file.write(data)
