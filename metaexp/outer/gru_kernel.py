"""All steps of `metaexp.models.gru.GRU.sequence` as code of a compiled graph on a CPU, forwards and backwards.

One step of a recurrent unit is ten calls of a library on small matrices, and most of the time goes into the calls. Here
the steps of a block of tasks run one after the other in one kernel, whose sizes are constants.
"""

from functools import cache
from typing import Any

import torch
from torch.fx import GraphModule

from metaexp.models.gru import operations
from metaexp.outer.gru_source import BACKWARD, FORWARD, GRU
from metaexp.outer.small_products import KINDS
from metaexp.outer.small_products_source import SOURCE

LARGEST = 256  # memory for which this code is written: above it, the library's products are worth their calls
MOST = 32  # tasks whose sums, 24 kB for a memory of 64, stay in the first cache beside a column of the weights
NAMES = (("into", "first", "turned", "bias"), ("grad", "made", "weight"))


def sources(graph: GraphModule) -> list[str]:
    """The code that the graph's machine code depends on: none if it has no such operation."""
    return [GRU, FORWARD, BACKWARD] if any(node.target in operations() for node in graph.graph.nodes) else []


def block(tasks: int) -> int:
    """Tasks that go through the steps together: blocks of one size, even, of at most MOST."""
    blocks = -(-tasks // MOST)
    return 2 * -(-tasks // (2 * blocks))


@cache
def lowering() -> None:
    """Tell inductor how to compile the operations: called before anything is compiled, never where a graph is loaded.

    Compiling such an operation raises NotImplementedError for a memory above LARGEST and for other numbers than float32
    and float64.
    """
    from torch._inductor import ir, lowering
    from torch._inductor.codegen.cpp_template import CppTemplate

    class Steps(CppTemplate):
        """The kernel; its inputs are contiguous."""

        def __init__(self, inputs: list[Any], layout: Any, back: bool, sizes: dict[str, int]):
            super().__init__("gru_back" if back else "gru", inputs, layout, num_threads=torch.get_num_threads())
            self.back, self.sizes = back, sizes

        def render(  # type: ignore[override]
            self, kernel: Any, template_buffer_node: Any = None, epilogue_nodes: Any = None, **_: Any
        ) -> str:
            if epilogue_nodes:
                raise NotImplementedError("an operation fused into a recurrent unit: compile with UNFUSED")
            out: Any = self.output_node if template_buffer_node is None else template_buffer_node
            named = dict(zip(NAMES[self.back], self.input_nodes, strict=True))
            head = kernel.def_kernel(inputs=named, outputs={"result" if self.back else "made": out})
            places = {
                name: f"{kernel.args.input_buffers[one.get_name()]} + {int(one.get_layout().offset)}"
                for name, one in named.items()
            }
            form = BACKWARD if self.back else FORWARD
            text = form.format(head=head, kind=KINDS[out.get_dtype()], threads=self.num_threads, **self.sizes, **places)
            return str(self.header().getvalue()) + SOURCE + GRU + text

    def lower(back: bool, *operands: Any) -> Any:
        inputs = [ir.ExternKernel.require_contiguous(ir.ExternKernel.realize_input(one)) for one in operands]
        for one in inputs:
            one.freeze_layout()
        device: Any = inputs[0].get_device()
        steps, tasks, width = (int(size) for size in inputs[0].get_size())
        hidden = width if back else width // 3
        if hidden > LARGEST or inputs[0].get_dtype() not in KINDS or device.type != "cpu":
            raise NotImplementedError(f"a recurrent unit with a memory above {LARGEST}, or not in float32 or float64")
        size = (6 if back else 5) * steps * tasks * hidden + tasks * hidden
        layout = ir.FixedLayout(device, inputs[0].get_dtype(), [size])
        sizes = {"steps": steps, "tasks": tasks, "hidden": hidden, "block": block(tasks)}
        return Steps(inputs, layout, back, sizes).generate().output_node()

    forwards, backwards = operations()
    lowering.register_lowering(forwards, type_promotion_kind=None)(lambda *given: lower(False, *given))
    lowering.register_lowering(backwards, type_promotion_kind=None)(lambda *given: lower(True, *given))
