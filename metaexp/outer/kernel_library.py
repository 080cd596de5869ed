"""Libraries of a graph's kernels and the function that calls them (`kernel_calls`): how they are built and called."""

import ctypes
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from metaexp.outer.kernel_calls import program

PREFIX = "metaexp-"  # of folders that `build` makes
log = logging.getLogger(__name__)
_lock = Lock()


@contextmanager
def own_program(inputs: Sequence[Tensor]) -> Iterator[None]:
    """What inductor compiles ahead of time meanwhile becomes such a library, where its wrapper can be read.

    Anything else, and what cannot be built, is compiled as inductor does it.
    """
    from torch._inductor.codecache import AotCodeCompiler

    before, theirs = vars(AotCodeCompiler)["compile"], AotCodeCompiler.compile

    def compile(graph: Any, wrapper: str, kernels: str, *others: Any, **settings: Any) -> Any:
        further = graph.constants or any(others) or settings.get("additional_files")
        text = None if further else program(wrapper, inputs)
        try:
            if text is not None:
                return str(build(text, kernels))
        except Exception:
            log.debug("no program of its own", exc_info=True)
        return theirs(graph, wrapper, kernels, *others, **settings)

    with _lock:
        AotCodeCompiler.compile = compile  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            AotCodeCompiler.compile = before  # type: ignore[method-assign]


def build(text: str, kernels: str) -> Path:
    """The library of this program and these kernels, in a folder of its own. The kernels are compiled with inductor's
    settings, apart from the program: nothing of one kernel moves into another, so each has the bits that it has there.
    """
    from torch._inductor.codecache import cache_dir
    from torch._inductor.cpp_builder import CppBuilder, CppTorchDeviceOptions
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    Path(cache_dir()).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=cache_dir()))
    try:
        sources = []
        for name, code in (("program", text), ("kernels", kernels)):
            (folder / f"{name}.cpp").write_text(code, encoding="utf-8")
            sources.append(str(folder / f"{name}.cpp"))
        options = CppTorchDeviceOptions(vec_isa=pick_vec_isa(), device_type="cpu", aot_mode=True)
        CppBuilder(name="graph", sources=sources, output_dir=str(folder), BuildOption=options).build()
        return folder / "graph.so"
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def discard(path: Path) -> None:
    """Remove what `build` made, after it was copied; nothing of inductor's."""
    if path.parent.name.startswith(PREFIX):
        shutil.rmtree(path.parent, ignore_errors=True)


def load(path: Path) -> Callable[..., list[Tensor]] | None:
    """The library as a function of tensors; None if it has no program (inductor's runner takes it then).

    It is called with tensors like the graph's inputs, from one thread at a time.
    """
    library = ctypes.CDLL(str(path))
    if not hasattr(library, "metaexp_run"):
        return None
    library.metaexp_about.restype = ctypes.c_char_p
    about = json.loads(library.metaexp_about())
    run, results = library.metaexp_run, about["results"]
    kinds = [(numbers, getattr(torch, kind)) for kind, numbers in about["fresh"]]
    pointers, places = ctypes.c_void_p * about["inputs"], ctypes.c_void_p * len(kinds)
    block = torch.empty(about["memory"], dtype=torch.uint8)
    problem = ctypes.create_string_buffer(1000)
    rest = ctypes.c_void_p(block.data_ptr()), problem, ctypes.c_size_t(len(problem))
    last: list[Any] = [[], pointers()]  # addresses of the inputs of the last call, mostly those of the next

    def call(*tensors: Tensor) -> list[Tensor]:
        fresh = [torch.empty(numbers, dtype=kind) for numbers, kind in kinds]
        addresses = [tensor.data_ptr() for tensor in tensors]
        if addresses != last[0]:
            last[:] = addresses, pointers(*addresses)
        if run(last[1], places(*[tensor.data_ptr() for tensor in fresh]), *rest):
            raise RuntimeError(problem.value.decode(errors="replace") or "a compiled step failed")
        return [
            (fresh if new else tensors)[place].as_strided(size, stride, offset)
            for new, place, _, size, stride, offset in results
        ]

    call.keeps = block  # type: ignore[attr-defined]
    return call
