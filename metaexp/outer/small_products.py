"""Small products of matrices as code of their own inside a compiled graph, without a call of a library.

On a CPU, inductor leaves every product to MKL or oneDNN. For the products of small networks (10 x 40 by 40 x 40) the
call takes longer than the arithmetic. `write_out` replaces these products by an operation of this project, and
`lowering` makes it a kernel whose sizes are constants: rows of C stay in registers while k runs upwards, and B is
turned round first where its rows are not contiguous. The derivatives of a product are products, which are already in
the graph when this happens: nothing has to be differentiated here.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from metaexp.outer.small_products_source import KERNEL, SOURCE

aten = torch.ops.aten

# Largest number of elements of B, where it has to be turned round (on the stack) and where it does not, and largest
# number of rows of A: beyond these a library's blocking for the caches is worth its call.
MOST_TURNED, MOST_B, MOST_ROWS = 64 * 64, 128 * 128, 1024
UNFUSED = {"epilogue_fusion": False}  # inductor's setting, without which it would put other operations into the kernel
SAME = (aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.expand.default, aten.detach.default)
KINDS = {torch.float32: "float", torch.float64: "double"}


def small(a: Tensor, b: Tensor) -> bool:
    """Whether the product a [..., m, k] times b [..., k, n] is written out."""
    (m, k), n = a.shape[-2:], b.shape[-1]
    fits = k * n <= (MOST_B if b.stride()[-1] == 1 else MOST_TURNED) and m <= MOST_ROWS
    return a.is_cpu and a.dtype == b.dtype and a.dtype in KINDS and min(m, n, k) > 1 and fits


def write_out(graph: GraphModule) -> int:
    """Replace the graph's small products by operations that `lowering` knows. Returns their number."""
    found = [node for node in graph.graph.nodes if node.target in (aten.mm.default, aten.bmm.default)]
    found = [node for node in found if small(*(operand.meta["val"] for operand in node.args))]
    turned = False
    for node in found:
        if _transposed_by_all(node) and small(*(operand.meta["val"].mT for operand in reversed(node.args))):
            _transpose(graph, node)
            turned = True
        else:
            node.target = operation()
    for node in graph.graph.nodes if turned else ():
        if node.target in (aten.view.default, aten._unsafe_view.default):  # what is transposed twice may be viewed flat
            node.target = aten.reshape.default
    if found:
        graph.recompile()
    return len(found)


def _seen(user: Node, node: Node) -> str:
    """How a user sees the node: as it "is" or "turned" (last two dimensions exchanged), else it "reads" it."""
    value = node.meta["val"]
    if user.target in SAME and user.meta["val"].shape == value.shape:
        return "is"
    if user.target is aten.t.default:
        return "turned"
    dims = value.dim()
    if user.target is aten.transpose.int and {place % dims for place in user.args[1:]} == {dims - 2, dims - 1}:
        return "turned"
    return "reads"


def _transposed_by_all(node: Node, turned: bool = False) -> bool:
    """Whether the result is read only after its last two dimensions have been exchanged, once or an odd number of
    times."""
    for user in node.users:
        how = _seen(user, node)
        if not (turned if how == "reads" else _transposed_by_all(user, turned != (how == "turned"))):
            return False
    return bool(node.users)


def _transpose(graph: GraphModule, node: Node) -> None:
    """Compute A B as (B^T A^T)^T, so that what reads it transposed reads contiguous rows."""
    with graph.graph.inserting_before(node):
        turned = [graph.graph.call_function(aten.transpose.int, (x, -2, -1)) for x in reversed(node.args)]
        made = graph.graph.call_function(operation(), tuple(turned))
        new = graph.graph.call_function(aten.transpose.int, (made, -2, -1))
    new.meta["val"] = node.meta["val"].mT.contiguous().mT
    node.replace_all_uses_with(new)
    graph.graph.erase_node(node)
    _note(new)


def _note(node: Node) -> None:
    """Give the views of a transposed product, and what transposes them back, their new strides."""
    for user in node.users:
        how = _seen(user, node)
        if how != "reads":
            user.meta["val"] = node.meta["val"].mT if how == "turned" else node.meta["val"]
            _note(user)


_kept: list[torch.library.Library] = []


@cache
def operation() -> Any:
    """The operation `metaexp::product(a, b)`: a product of matrices or of batches of matrices, contiguous."""
    library = torch.library.Library("metaexp", "FRAGMENT")
    library.define("product(Tensor a, Tensor b) -> Tensor")
    library.impl("product", lambda a, b: (a @ b).contiguous(), "CPU")
    library.impl("product", lambda a, b: a.new_empty((*a.shape[:-1], b.shape[-1])), "Meta")
    _kept.append(library)  # it lives as long as the operation
    return torch.ops.metaexp.product.default


@cache
def lowering() -> None:
    """Tell inductor how to compile the operation: called before anything is compiled, never where a graph is loaded."""
    from torch._inductor import ir, lowering
    from torch._inductor.codegen.cpp_template import CppTemplate

    class Product(CppTemplate):
        """The kernel of one product; its inputs are views of buffers with any strides."""

        def __init__(self, inputs: list[Any], layout: Any):
            super().__init__("product", inputs, layout, num_threads=1)

        def render(  # type: ignore[override]
            self, kernel: Any, template_buffer_node: Any = None, epilogue_nodes: Any = None, **_: Any
        ) -> str:
            if epilogue_nodes:
                raise NotImplementedError("an operation fused into a product: compile with UNFUSED")
            a, b = self.input_nodes
            out: Any = self.output_node if template_buffer_node is None else template_buffer_node
            head = kernel.def_kernel(inputs={"a": a, "b": b}, outputs={"c": out})
            names = [kernel.args.input_buffers[one.get_name()] for one in (a, b)]  # the same if they share a buffer
            layouts = [one.get_layout() for one in (a, b)]
            sizes = [int(size) for size in out.get_size()]
            strides = [[0] * (3 - len(one.stride)) + [int(step) for step in one.stride] for one in layouts]
            text = KERNEL.format(
                head=head, kind=KINDS[out.get_dtype()], batch=sizes[0] if len(sizes) == 3 else 1,
                m=sizes[-2], n=sizes[-1], k=int(a.get_size()[-1]),
                a=f"{names[0]} + {int(layouts[0].offset)}", b=f"{names[1]} + {int(layouts[1].offset)}",
                a_strides=", ".join(map(str, strides[0])), b_strides=", ".join(map(str, strides[1])),
            )  # fmt: skip
            return str(self.header().getvalue()) + SOURCE + text

    def lower(a: Any, b: Any) -> Any:
        a, b = (_realized(ir, one) for one in (a, b))
        size = [*a.get_size()[:-1], b.get_size()[-1]]
        layout = ir.FixedLayout(a.get_device(), a.get_dtype(), size)
        return Product([a, b], layout).generate().output_node()

    lowering.register_lowering(operation(), type_promotion_kind=None)(lower)


def _realized(ir: Any, x: Any) -> Any:
    """An operand as a buffer, or a view of one, with a fixed layout."""
    made = ir.ExternKernel.realize_input(x)
    made.freeze_layout()
    return made
