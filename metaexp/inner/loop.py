"""The inner loop of one task: gradient steps on the loss of its support set, at training and at test."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metaexp.checks import whole
from metaexp.inner.descent import Descent, descend, minibatches
from metaexp.inner.optimisers import InnerOptimiser, Rate, Tree
from metaexp.types import Examples

Loss = Callable[[Tree, Examples], Tensor]  # (adapted parameters, support examples) -> []
State = dict[str, Tree]  # state of an inner optimiser


class InnerLoop(NamedTuple):
    """How a method learns one task: its optimiser, rates and numbers of steps. Immutable."""

    optimiser: InnerOptimiser
    lr: Rate
    steps: int
    test_lr: Rate  # at validation and test
    test_steps: int
    first_order: bool = False  # treat inner gradients as constants in training; at test they always are
    batch: int | None = None  # rows of the support set per step; None: all of them
    test_batch: int | None = None
    state: State | None = None  # the optimiser's state before the first step; None: a fresh one
    rest: Tree | None = None  # ALL other tensors that the loss reads: `train` then recomputes instead of keeping graphs

    @classmethod
    def of(
        cls,
        optimiser: InnerOptimiser,
        inner_lr: Rate,
        inner_steps: int,
        test_lr: Rate | None = None,
        test_steps: int | None = None,
        first_order: bool = False,
        inner_batch: int | None = None,
        test_batch: int | None = None,
    ) -> "InnerLoop":
        """The inner loop with these settings; a test setting of None means the training value.

        Raises:
            ValueError: a rate is not above 0, a number of steps is below 1 (at test: below 0), or a batch is below 1;
                the message starts with the name of the argument.
        """
        test_lr = inner_lr if test_lr is None else test_lr
        test_steps = inner_steps if test_steps is None else test_steps
        test_batch = inner_batch if test_batch is None else test_batch
        for name, rate in (("inner_lr", inner_lr), ("test_lr", test_lr)):
            if not isinstance(rate, dict) and not rate > 0:
                raise ValueError(f"{name}={rate}: must be above 0")
        whole("inner_steps", inner_steps, 1)
        whole("test_steps", test_steps, 0)
        for name, size in (("inner_batch", inner_batch), ("test_batch", test_batch)):
            if size is not None:
                whole(name, size, 1)
        return cls(optimiser, inner_lr, inner_steps, test_lr, test_steps, first_order, inner_batch, test_batch)

    def train(self, loss: Loss, start: Tree, support: Examples, key: Tensor) -> Descent:
        """`steps` steps from `start`, differentiable in `start`, the rates and the tensors that the loss reads."""
        optimiser, rest = self.optimiser, None if self.first_order else self.rest
        lr, steps, batch, first_order, state = self.lr, self.steps, self.batch, self.first_order, self.state
        return learn(loss, start, support, key, optimiser, lr, steps, batch, first_order, state, rest)

    def test(self, loss: Loss, start: Tree, support: Examples, key: Tensor, steps: int) -> Descent:
        """`steps` steps with the test settings; inner gradients are treated as constants."""
        optimiser, lr, batch = self.optimiser, self.test_lr, self.test_batch
        return learn(loss, start, support, key, optimiser, lr, steps, batch, first_order=True, state=self.state)


def learn(
    loss: Loss,
    start: Tree,
    support: Examples,
    key: Tensor,
    optimiser: InnerOptimiser,
    lr: Rate,
    steps: int,
    batch: int | None = None,
    first_order: bool = False,
    state: State | None = None,
    rest: Tree | None = None,
) -> Descent:
    """Take `steps` steps on a support set x [n, ...], or on minibatches of it in an order drawn from the task's key.

    With `rest`, a dict of ALL other tensors that the loss reads, the loss is called with the parameters and `rest` in
    one tree, and the graph of a step is rebuilt in the backward pass (see `descend`).
    """
    rows = minibatches(key, 64, len(support.x), batch, steps)

    def at(params: Tree, step: int, examples: Examples, rows: Tensor | None) -> Tensor:
        if rows is not None:
            examples = Examples(examples.x[rows[step]], examples.y[rows[step]])
        return loss(params, examples)

    if rest is None:
        return descend(lambda p, step: at(p, step, support, rows), start, optimiser, lr, steps, first_order, state)

    def given_all(params: Tree, step: int, given: tuple[Tree, Examples, Any]) -> Tensor:
        return at(given[0] | params, step, *given[1:])

    return descend(given_all, start, optimiser, lr, steps, first_order, state, given=(rest, support, rows))


class Carried(nn.Module):
    """An inner optimiser's state as buffers, which are part of every checkpoint and move with the module."""

    def __init__(self, state: State):
        super().__init__()
        for group, tree in state.items():
            for name, value in tree.items():
                self.register_buffer(slashed(f"{group}/{name}"), value.detach().clone())
        self.names = {group: list(tree) for group, tree in state.items()}

    def tree(self) -> State:
        """The state in the inner optimiser's format."""
        return {g: {n: getattr(self, slashed(f"{g}/{n}")) for n in names} for g, names in self.names.items()}

    def set(self, state: State) -> None:
        """Copy a state into the buffers."""
        with torch.no_grad():
            for group, tree in state.items():
                for name, value in tree.items():
                    getattr(self, slashed(f"{group}/{name}")).copy_(value)


def slashed(name: str) -> str:
    """A parameter's name as a valid name for another parameter or buffer, which may not contain a dot."""
    return name.replace(".", "/")
