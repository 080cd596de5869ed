"""Outer optimisers as rules on one vector, against those of torch."""

import pytest
import torch
from compiling import OPTIMIZERS
from torch.utils._pytree import tree_leaves

from metaexp.outer.optimisers import flatten

F64 = torch.float64


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_rules_on_vectors_equal_torchs_optimisers(optimizer):
    """Ten updates, the first five by torch: the state is adopted, and torch's tensors are views of the vectors."""
    torch.manual_seed(0)
    start, gradients = [torch.randn(3, 2, dtype=F64), torch.randn(4, dtype=F64)], torch.randn(10, 10, dtype=F64)
    own, theirs = ([torch.nn.Parameter(t.clone()) for t in start] for _ in range(2))
    mine, torchs = OPTIMIZERS[optimizer](own), OPTIMIZERS[optimizer](theirs)
    flat = None
    for step, g in enumerate(gradients):
        for params, chosen in ((theirs, torchs), (own, mine)):
            if params is own and step >= 5:
                flat = flat or flatten(mine, {str(i): p for i, p in enumerate(own)})
                lr = torch.tensor(chosen.param_groups[0]["lr"], dtype=F64)
                flat.counts.add_(1)
                theta, slots = flat.update(flat.theta, g, flat.slots, flat.counts, lr)
                flat.theta.copy_(theta)
                for name in slots:
                    flat.slots[name].copy_(slots[name])
                continue
            params[0].grad, params[1].grad = g[:6].view(3, 2), g[6:]
            chosen.step()
    assert max(float((a - b).abs().max()) for a, b in zip(own, theirs, strict=True)) < 1e-14
    states = [tree_leaves(chosen.state_dict()["state"]) for chosen in (mine, torchs)]
    assert len(states[0]) == len(states[1]) > 0
    assert max(float((a - b).abs().max()) for a, b in zip(*states, strict=True)) < 1e-14


@pytest.mark.parametrize("options", [{"amsgrad": True}, {"maximize": True}])
def test_options_without_a_rule_are_left_to_torch(options):
    params = {"w": torch.nn.Parameter(torch.zeros(2))}
    assert flatten(torch.optim.Adam(params.values(), **options), params) is None
    assert flatten(torch.optim.SGD(params.values(), momentum=0.9, dampening=0.1), params) is None
    assert flatten(torch.optim.NAdam(params.values()), params) is None
