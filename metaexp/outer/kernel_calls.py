"""A compiled graph's kernels called one after the other on one piece of memory, without tensors between them.

Inductor's wrapper in C++ makes a tensor for every buffer between kernels and for every view of one, and gives it back
when it was last read. In a step of a small network this takes longer than the kernels do. The wrapper is a list of
statements of few kinds; `program` reads it and writes the same calls, in the same order and on the same values, with
pointers: into the caller's tensors, and into one block of memory whose layout is fixed here. A wrapper with any other
statement (a call of a library, say) is left to Inductor.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from metaexp.outer.kernel_calls_source import PROGRAM, SORT

ALIGNMENT = 64  # bytes, as of torch's allocator
TYPES = {
    "bool": 1, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "float16": 2, "bfloat16": 2, "float32": 4,
    "float64": 8,
}  # fmt: skip


class OtherStatement(Exception):
    """The wrapper has a statement that is not known here."""


@dataclass(eq=False)
class Memory:
    """What an input, an output or a buffer lies in."""

    kind: str  # torch's name of its type
    numbers: int = 0  # elements
    place: int | None = None  # of the caller's input or output; None: in the block, from `start`
    result: bool = False
    readers: int = 0  # names that stand for it at present
    start: int = 0

    def address(self) -> str:
        if self.place is None:
            return f"memory + {self.start}"
        return f"{'results' if self.result else 'inputs'}[{self.place}]"


class View(NamedTuple):
    """What a name of the wrapper stands for."""

    memory: Memory
    size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    offset: int = 0  # in elements

    def pointer(self, cast: str) -> str:
        """C++ for a pointer to its first element."""
        base = self.memory.address()
        if self.offset:
            base = f"(char*){base} + {self.offset * TYPES[self.memory.kind]}"
        return f"({cast})({base})"


@dataclass
class Wrapper:
    """A wrapper, read statement by statement.

    Raises:
        OtherStatement: a statement is not known.
    """

    inputs: list[tuple[str, tuple[int, ...], tuple[int, ...]]]  # type, size and stride of each
    lists: dict[str, tuple[int, ...]] = field(default_factory=dict)  # constants of sizes and strides
    flags: dict[str, int] = field(default_factory=dict)
    made: dict[str, View] = field(default_factory=dict)  # under the names of raw handles
    names: dict[str, View] = field(default_factory=dict)
    results: dict[int, View] = field(default_factory=dict)
    steps: list[tuple[str, Any]] = field(default_factory=list)  # "take" and "give" memory, "call" and "sort"

    def read(self, line: str) -> None:
        """The statements of one line."""
        text = line.split("  //")[0].strip()
        if text.startswith("//") or not text:
            return
        for pattern, method in STATEMENTS:
            if found := pattern.fullmatch(text):
                method(self, *found.groups())
                return
        raise OtherStatement(text[:200])

    def nothing(self, *_: str) -> None:
        """A statement that makes no code."""

    def constant(self, name: str, values: str) -> None:
        self.lists[name] = tuple(int(value.rstrip("L")) for value in values.replace(" ", "").split(",") if value)

    def no_numbers(self, name: str) -> None:
        self.lists[name] = ()

    def flag(self, name: str, value: str) -> None:
        self.flags[name] = int(value)

    def input(self, name: str, place: str) -> None:
        kind, size, stride = self.inputs[int(place)]
        self.names[name] = View(Memory(kind, place=int(place)), size, stride)

    def empty(self, dims: str, size: str, stride: str, kind: str, name: str) -> None:
        if kind not in TYPES or int(dims) != len(self.lists[size]):
            raise OtherStatement(f"a buffer of {kind}")
        self._make(name, kind, self.lists[size], self.lists[stride])

    def _make(self, name: str, kind: str, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        numbers = 0 if 0 in size else 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        memory = Memory(kind, numbers)
        self.steps.append(("take", memory))
        self.made[name] = View(memory, size, stride)

    def hold(self, name: str, handle: str) -> None:
        self._name(name, self.made.pop(handle))

    def move(self, name: str, old: str) -> None:
        self.names[name] = self.names.pop(old)

    def view(self, name: str, old: str, dims: str, size: str, stride: str, offset: str, gone: str | None) -> None:
        before = self.names[old]
        made = View(before.memory, self.lists[size], self.lists[stride], before.offset + int(offset))
        if int(dims) != len(made.size):
            raise OtherStatement("a view")
        self._name(name, made)
        if gone:
            self.reset(gone)

    def reset(self, name: str) -> None:
        memory = self.names.pop(name).memory
        memory.readers -= 1
        if not memory.readers and memory.place is None:
            self.steps.append(("give", memory))

    def result(self, place: str, name: str) -> None:
        self.results[int(place)] = self.names.pop(name)

    def sort(self, name: str, flag: str, dim: str, descending: str, values: str, places: str) -> None:
        view = self.names[name]
        size, steps = view.size, _contiguous(view.size)
        rows = all(n == 1 or have == want for n, have, want in zip(size, view.stride, steps, strict=True))
        if view.memory.kind != "int64" or not rows or int(dim) != len(size) - 1 or descending != "0":
            raise OtherStatement("another sort")
        if flag not in self.flags or 0 in size:
            raise OtherStatement("another sort")
        self._make(values, "int64", size, steps)
        self._make(places, "int64", size, steps)
        space = Memory("int64", 4 * size[-1] + 8)
        self.steps.append(("take", space))
        self.steps.append(("sort", (view, self.made[values], self.made[places], View(space))))
        self.steps.append(("give", space))

    def call(self, name: str, given: str) -> None:
        operands = []
        for one in given.split(", "):
            found = ARGUMENT.fullmatch(one)
            if not found or found[2] not in self.names:
                raise OtherStatement(f"{name}({one[:100]})")
            operands.append((found[1], self.names[found[2]]))
        self.steps.append(("call", (name, operands)))

    def _name(self, name: str, view: View) -> None:
        view.memory.readers += 1
        self.names[name] = view


def _contiguous(size: tuple[int, ...]) -> tuple[int, ...]:
    steps = [1]
    for n in reversed(size[1:]):
        steps.insert(0, steps[0] * n)
    return tuple(steps[: len(size)])


ARGUMENT = re.compile(r"\(((?:const )?\w+\*)\)\((\w+)\.data_ptr\(\)\)")
_LISTS = r"(\d+), (\w+), (\w+)"
_CHECK = r"AOTI_TORCH_ERROR_CODE_CHECK\({}\);"
_HERE = r"cached_torch_device_type_cpu, (?:this->device_idx_|0)"
STATEMENTS: list[tuple[re.Pattern[str], Callable[..., None]]] = [
    (re.compile(pattern), method)
    for pattern, method in (
        (r"(?:static )?(?:constexpr|const) int64_t (\w+)\[\] = \{([-\dL, ]*)\};", Wrapper.constant),
        (r"(?:static )?(?:constexpr|const) int64_t \*(\w+)=nullptr;", Wrapper.no_numbers),
        (r"int32_t (\w+) = ([01]);", Wrapper.flag),
        (r"auto (\w+) = std::move\(inputs\[(\d+)\]\);", Wrapper.input),
        (r"auto inputs = steal_from_raw_handles_to_raii_handles\(input_handles, \d+\);", Wrapper.nothing),
        (r"__check_inputs_outputs\(input_handles, output_handles\);|inputs\.clear\(\);", Wrapper.nothing),
        (r"\[\[maybe_unused\]\] auto& kernels = .*", Wrapper.nothing),
        (r"if \(_check_aoti_runtime_check_inputs_env\(\)\) \{ assert_size_stride\([^;]*\); \}", Wrapper.nothing),
        (r"AtenTensorHandle \w+;", Wrapper.nothing),
        (_CHECK.format(rf"aoti_torch_empty_strided\({_LISTS}, cached_torch_dtype_(\w+), {_HERE}, &(\w+)\)"),
         Wrapper.empty),
        (r"RAIIAtenTensorHandle (\w+)\((\w+)\);", Wrapper.hold),
        (r"auto (\w+) = std::move\((\w+)\);", Wrapper.move),
        (r"auto (\w+) = wrap_with_raii_handle_if_needed\(reinterpret_tensor_wrapper\((\w+), " + _LISTS
         + r", (\d+)L\)\);(?: (\w+)\.reset\(\);)?", Wrapper.view),
        (r"(\w+)\.reset\(\);", Wrapper.reset),
        (r"output_handles\[(\d+)\] = (\w+)\.release\(\);", Wrapper.result),
        (_CHECK.format(r"aoti_torch_cpu_sort_stable\((\w+), &(\w+), (\d+)L, (\d), &(\w+), &(\w+)\)"), Wrapper.sort),
        (r"(\w+)\((\(.*)\);", Wrapper.call),
    )
]  # fmt: skip


def program(wrapper: str, inputs: Sequence[Tensor]) -> str | None:
    """C++ of the function `metaexp_run`, which calls the kernels as this wrapper does, and of `metaexp_about`.

    None if the wrapper has a statement that is not known here. The inputs are those of the graph, or tensors like them.
    """
    body = re.search(
        r"void AOTInductorModel::run_impl\([^)]*\) \{\n(.*?)\n\} // AOTInductorModel::run_impl", wrapper, re.S
    )
    if not body:
        return None
    read = Wrapper([(str(one.dtype).removeprefix("torch."), tuple(one.shape), one.stride()) for one in inputs])
    try:
        for line in body[1].split("\n"):
            read.read(line)
        return _written(read)
    except (OtherStatement, LookupError):  # LookupError: a name that no known statement made
        return None


def _written(read: Wrapper) -> str:
    """The program: layout, declarations and calls."""
    if sorted(read.results) != list(range(len(read.results))):
        raise OtherStatement("results without an order")
    fresh: list[Memory] = []  # what the caller makes for results
    results = []
    for view in (read.results[place] for place in sorted(read.results)):
        memory = view.memory
        if memory.place is None:
            memory.place, memory.result = len(fresh), True
            fresh.append(memory)
        results.append([memory.result, memory.place, memory.kind, view.size, view.stride, view.offset])
    size = _layout(read.steps)
    known: dict[str, str] = {}
    calls = []
    for what, given in read.steps:
        if what == "call":
            name, operands = given
            known.setdefault(name, f"void {name}({', '.join(cast for cast, _ in operands)});")
            calls.append(f"{name}({', '.join(view.pointer(cast) for cast, view in operands)});")
        elif what == "sort":
            keys, values, places, space = given
            pointers = [one.pointer(cast) for one, cast in zip((keys, values, places, space), SORT_CASTS, strict=True)]
            rows = 1
            for n in keys.size[:-1]:
                rows *= n
            calls.append(f"metaexp_sort({', '.join(pointers)}, {rows}, {keys.size[-1]});")
    about = {
        "inputs": len(read.inputs), "memory": size, "fresh": [[one.kind, max(one.numbers, 1)] for one in fresh],
        "results": results,
    }  # fmt: skip
    sort = SORT if any(what == "sort" for what, _ in read.steps) else ""
    text = PROGRAM.replace("DECLARATIONS", "\n".join(known.values())).replace("SORT", sort)
    return text.replace("CALLS", "\n    ".join(calls)).replace("ABOUT", json.dumps(json.dumps(about)))


SORT_CASTS = ("const int64_t*", "int64_t*", "int64_t*", "int64_t*")


def _layout(steps: list[tuple[str, Any]]) -> int:
    """Give every buffer its place in the block: largest first, each the lowest that is free all its life. Returns the
    bytes of the block.
    """
    lives: dict[Memory, tuple[int, int]] = {}
    for at, (what, memory) in enumerate(steps):
        if what == "take" and memory.place is None:
            lives[memory] = at, len(steps)
        elif what == "give" and memory in lives:
            lives[memory] = lives[memory][0], at
    needs = {one: max(-(-one.numbers * TYPES[one.kind] // ALIGNMENT), 1) * ALIGNMENT for one in lives}
    placed: list[Memory] = []
    for memory in sorted(lives, key=lambda one: -needs[one]):
        begin, end = lives[memory]
        others = [one for one in placed if lives[one][0] < end and begin < lives[one][1]]
        start = 0
        for other in sorted(others, key=lambda one: one.start):
            if other.start - start >= needs[memory]:
                break
            start = max(start, other.start + needs[other])
        memory.start = start
        placed.append(memory)
    return max((one.start + needs[one] for one in placed), default=0)
