"""The gated recurrent unit against torch's, in float64."""

import pytest
import torch
from torch import Tensor

from metaexp.models.gru import GRU

F64 = torch.float64


def unit(inputs: int = 3, hidden: int = 5) -> GRU:
    torch.manual_seed(0)
    made = GRU(inputs, hidden).to(F64)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return made


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(1))


def test_one_step_is_that_of_torch_also_under_vmap() -> None:
    gru, theirs = unit(), torch.nn.GRUCell(3, 5, dtype=F64)
    theirs.load_state_dict(gru.state_dict())
    x, h = drawn(40, 3), drawn(40, 5)
    expected = theirs(x, h)
    torch.testing.assert_close(gru(x, h), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.vmap(gru)(x, h), expected, rtol=0, atol=1e-14)


def test_the_sequence_and_its_gradient_are_those_of_the_steps_and_of_torch() -> None:
    gru, theirs = unit(), torch.nn.GRU(3, 5, dtype=F64)
    theirs.load_state_dict({f"{name}_l0": value for name, value in gru.state_dict().items()})
    x, h, weights = drawn(7, 4, 3).requires_grad_(), drawn(4, 5).requires_grad_(), drawn(7, 4, 5)
    rows, memory = [], h
    for t in range(7):
        memory = gru(x[t], memory)
        rows.append(memory)
    steps, sequence, other = torch.stack(rows), gru.sequence(x, h), theirs(x, h[None])[0]
    for made in (sequence, other):
        torch.testing.assert_close(made, steps, rtol=0, atol=1e-13)
    own = [x, h, *gru.parameters()]
    by_steps, by_sequence = (torch.autograd.grad((made**2 * weights).sum(), own) for made in (steps, sequence))
    by_theirs = torch.autograd.grad((other**2 * weights).sum(), [x, h, *theirs.parameters()])
    for a, b, c in zip(by_steps, by_sequence, by_theirs, strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=1e-12)
        torch.testing.assert_close(c, a, rtol=0, atol=1e-12)


@pytest.mark.parametrize("wrong", [(0, 4), (4, 0)])
def test_lengths_below_one_are_refused(wrong: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"(inputs|hidden)=0: must be at least 1"):
        GRU(*wrong)
