"""Kernels called without tensors between them: what is read, where buffers lie, and the same bits as with tensors."""

import ctypes
import json
import shutil
import subprocess

import pytest
import torch

from metaexp.outer import graph_cache, kernel_library
from metaexp.outer.compiler import compiled
from metaexp.outer.kernel_calls import Memory, _layout, program
from metaexp.outer.kernel_calls_source import SORT
from metaexp.outer.kernel_library import build, discard, load

F64 = torch.float64
compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: no g++")

# A wrapper in inductor's form. twice: b = 2 a; last: c = b[4:] + a[:4]; the first result is c + 1 in b's memory.
WRAPPER = """
void AOTInductorModel::run_impl(
    AtenTensorHandle* input_handles, // handles
    AtenTensorHandle* output_handles
) {
    __check_inputs_outputs(input_handles, output_handles);
    auto inputs = steal_from_raw_handles_to_raii_handles(input_handles, 2);
    auto arg0_1 = std::move(inputs[0]);
    auto arg1_1 = std::move(inputs[1]);
    inputs.clear();
    [[maybe_unused]] auto& kernels = static_cast<AOTInductorModelKernels&>(*this->kernels_.get());
    if (_check_aoti_runtime_check_inputs_env()) { assert_size_stride(arg0_1, {8L, }, {1L, }, "input"); }
    static constexpr int64_t int_array_0[] = {8L, };
    static constexpr int64_t int_array_1[] = {1L, };
    static constexpr int64_t int_array_2[] = {4L, };
    AtenTensorHandle buf0_handle;
    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(1, int_array_0, int_array_1, cached_torch_dtype_float64, cached_torch_device_type_cpu, this->device_idx_, &buf0_handle));
    RAIIAtenTensorHandle buf0(buf0_handle);
    twice((const double*)(arg0_1.data_ptr()), (double*)(buf0.data_ptr()));
    // Topologically Sorted Source Nodes: [add], Original ATen: [aten.add]
    auto buf1 = wrap_with_raii_handle_if_needed(reinterpret_tensor_wrapper(buf0, 1, int_array_2, int_array_1, 4L));  // alias
    AtenTensorHandle buf2_handle;
    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(1, int_array_2, int_array_1, cached_torch_dtype_float64, cached_torch_device_type_cpu, this->device_idx_, &buf2_handle));
    RAIIAtenTensorHandle buf2(buf2_handle);
    last((const double*)(buf1.data_ptr()), (const double*)(arg0_1.data_ptr()), (double*)(buf2.data_ptr()));
    buf1.reset();
    auto buf3 = wrap_with_raii_handle_if_needed(reinterpret_tensor_wrapper(buf0, 1, int_array_2, int_array_1, 0L)); buf0.reset();  // reuse
    plus((const double*)(buf2.data_ptr()), (double*)(buf3.data_ptr()), (int64_t*)(arg1_1.data_ptr()));
    arg0_1.reset();
    auto buf4 = std::move(buf2);  // reuse
    output_handles[0] = buf3.release();
    output_handles[1] = buf4.release();
    output_handles[2] = arg1_1.release();
} // AOTInductorModel::run_impl
"""  # noqa: E501
KERNELS = """
#include <cstdint>
#include <stdexcept>
extern "C" void twice(const double* a, double* b) { for (int i = 0; i < 8; ++i) b[i] = 2 * a[i]; }
extern "C" void last(const double* b, const double* a, double* c) { for (int i = 0; i < 4; ++i) c[i] = b[i] + a[i]; }
extern "C" void plus(const double* c, double* d, int64_t* n) {
  if (*n > 8) throw std::runtime_error("index out of bounds: more than 8");
  for (int i = 0; i < 4; ++i) d[i] = c[i] + 1;
  ++*n;
}
"""


@compiler
def test_a_wrapper_becomes_calls():
    """Closed form, results that are views of memory and an input, what is changed in place, and a kernel's error."""
    a, count = torch.arange(8.0, dtype=F64), torch.tensor(8)
    text = program(WRAPPER, [a, count])
    assert text is not None
    made = build(text, KERNELS)
    call = load(made)
    discard(made)
    assert not made.parent.exists()
    assert call is not None
    first, second, third = call(a, count)
    assert second.tolist() == [8.0, 11.0, 14.0, 17.0]
    assert first.tolist() == [9.0, 12.0, 15.0, 18.0]
    assert int(count) == int(third) == 9
    assert third.data_ptr() == count.data_ptr()
    with pytest.raises(RuntimeError, match="index out of bounds: more than 8"):
        call(a, count)
    again = call(2 * a, torch.tensor(0))
    assert again[1].tolist() == [16.0, 22.0, 28.0, 34.0]
    assert second.tolist() == [8.0, 11.0, 14.0, 17.0]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("plus((const", "aoti_torch_cpu_mm_out(buf2, buf3); plus((const"),
        ("arg0_1.reset();", "aoti_torch_copy_(arg0_1, buf3);"),
        ("cached_torch_dtype_float64", "cached_torch_dtype_complex64"),
        ("cached_torch_device_type_cpu", "cached_torch_device_type_cuda"),
        ("(double*)(buf3.data_ptr())", "4L"),
        ("(double*)(buf3.data_ptr())", "(double*)(buf9.data_ptr())"),
        ("output_handles[1]", "output_handles[3]"),
        ("::run_impl", "::run_other"),
    ],
)
def test_what_is_not_known_is_left_to_inductor(old, new):
    assert old in WRAPPER
    assert program(WRAPPER.replace(old, new), [torch.zeros(8, dtype=F64), torch.tensor(8)]) is None


def test_buffers_in_use_at_one_time_never_overlap():
    """Random lives of 200 buffers; the block is at most a quarter larger than the most at one time, and no larger where
    they end in the order opposite to that in which they begin."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        alive: list[Memory] = []
        steps, spans = [], {}
        for _ in range(400):
            if alive and torch.rand((), generator=generator) < 0.5:
                gone = alive.pop(int(torch.randint(len(alive), (), generator=generator)))
                steps.append(("give", gone))
            else:
                alive.append(Memory("float32", int(torch.randint(0, 100, (), generator=generator))))
                steps.append(("take", alive[-1]))
        size, most = _layout(steps), 0
        for what, memory in steps:
            if what == "give":
                del spans[memory]
                continue
            room = sum(
                -(-(end - start) // 64) * 64 for start, end in [*spans.values(), (0, max(4 * memory.numbers, 1))]
            )
            most = max(most, room)
            start, end = memory.start, memory.start + 4 * memory.numbers
            assert start % 64 == 0
            assert end <= size
            assert all(end <= other_start or other_end <= start for other_start, other_end in spans.values())
            spans[memory] = (start, max(end, start + 1))
        assert most <= size <= 1.25 * most
    nested = [Memory("float64", 8) for _ in range(5)]
    lives = [*(("take", one) for one in nested), *(("give", one) for one in reversed(nested))]
    assert _layout([*lives, ("take", Memory("int8", 9))]) == 5 * 64


@compiler
def test_order_of_rows_equals_that_of_torch(tmp_path):
    entry = 'extern "C" void order(const int64_t* a, int64_t* b, int64_t* c, int64_t* d, int64_t m, int64_t n) {'
    source, made = tmp_path / "sort.cpp", tmp_path / "sort.so"
    source.write_text(f"#include <cstdint>\n{SORT}\n{entry} metaexp_sort(a, b, c, d, m, n); }}")
    subprocess.run(["g++", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(made), str(source)], check=True)
    order, generator = ctypes.CDLL(str(made)).order, torch.Generator().manual_seed(4)
    for rows, n, high in ((7, 50, 2**62), (3, 1, 9), (2, 128, 5), (2, 129, 5), (2, 320, 2**62), (1, 3000, 300)):
        keys = torch.randint(-high, high, (rows, n), generator=generator)
        keys[0, 0] = torch.iinfo(torch.int64).max
        values, places, space = torch.empty_like(keys), torch.empty_like(keys), torch.empty(4 * n + 8).long()
        pointers = [ctypes.c_void_p(one.data_ptr()) for one in (keys, values, places, space)]
        order(*pointers, ctypes.c_int64(rows), ctypes.c_int64(n))
        true = torch.sort(keys, stable=True)
        assert torch.equal(values, true.values), (rows, n, high)
        assert torch.equal(places, true.indices), (rows, n, high)


def _step(x, w, keys):
    """A sort, gathers, products, changes in place, a result that is a view and one that is an input."""
    rows = torch.argsort(keys, dim=-1, stable=True).flatten()[:6]
    hidden = torch.tanh(x[rows] @ w)
    w.sub_(0.1 * (x[rows].mT @ hidden))
    keys.add_(1)
    return {"hidden": hidden[1:].mT, "sum": hidden.sum(), "w": w}


def _refused(text, kernels):
    raise OSError(28, "no space left")


@compiler
def test_same_bits_as_with_tensors(monkeypatch, tmp_path):
    """Three calls of a graph made both ways: results and inputs; and that the second is taken if the first fails."""
    generator = torch.Generator().manual_seed(5)
    x, w = torch.randn(9, 7, generator=generator), torch.randn(7, 7, generator=generator)
    keys = torch.randint(-(2**62), 2**62, (3, 3), generator=generator)
    ends, taken = [], []
    monkeypatch.setattr(graph_cache, "load", lambda path: taken.append(load(path)) or taken[-1])
    for way in (build, _refused):
        monkeypatch.setattr(kernel_library, "build", way)
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / str(len(taken))))
        given = [x.clone(), w.clone(), keys.clone()]
        call = compiled(_step, *given, one_thread=True)
        made = [{k: v.clone() for k, v in call(*given).items()} for _ in range(3)]
        ends.append([*given, *(value for one in made for value in one.values())])
    assert taken[0] is not None
    assert taken[1] is None
    for ours, theirs in zip(*ends, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.shape == theirs.shape
    given = [x.clone(), w.clone(), keys.clone()]
    true = [_step(*given) for _ in range(3)][-1]["hidden"]
    torch.testing.assert_close(ends[0][-3], true)


def test_the_digest_depends_on_the_program(monkeypatch):
    graph = torch.fx.symbolic_trace(lambda x: x + 1)
    before = graph_cache.digest(graph, [torch.ones(2)])
    for name in ("PROGRAM", "SORT"):
        monkeypatch.setattr(graph_cache, name, "other")
        after = graph_cache.digest(graph, [torch.ones(2)])
        assert after != before
        before = after


def test_what_a_library_says_about_itself():
    text = program(WRAPPER, [torch.zeros(8, dtype=F64), torch.tensor(8)])
    literal, _ = json.JSONDecoder().raw_decode(text.split("return ", 1)[1])
    about = json.loads(literal)
    assert about == {
        "inputs": 2, "memory": 0, "fresh": [["float64", 8], ["float64", 4]],
        "results": [[True, 0, "float64", [4], [1], 0], [True, 1, "float64", [4], [1], 0],
                    [False, 1, "int64", [], [], 0]],
    }  # fmt: skip
