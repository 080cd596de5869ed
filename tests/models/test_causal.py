"""The causal transformer: whole sequences, single steps, and torch's own layers with a causal mask."""

from typing import Any

import pytest
import torch
from torch import nn

from metaexp.models.causal import CausalTransformer

F64 = torch.float64


def made() -> CausalTransformer:
    torch.manual_seed(0)
    return CausalTransformer(8, 2, 2).to(F64)


def test_one_token_after_the_other_gives_the_outputs_of_the_sequence() -> None:
    net, tokens = made(), torch.randn(5, 7, 8, dtype=F64, generator=torch.Generator().manual_seed(1))
    whole = torch.vmap(net)(tokens)

    def steps(rows: torch.Tensor) -> torch.Tensor:
        memories, outs = net.begin(9), []  # more room than needed
        for t in range(7):
            out, memories = net.step(rows[t], memories, torch.tensor(t))
            outs.append(out)
        return torch.stack(outs)

    torch.testing.assert_close(torch.vmap(steps)(tokens), whole, rtol=0, atol=1e-12)


def test_a_token_does_not_see_later_ones() -> None:
    net, tokens = made(), torch.randn(7, 8, dtype=F64, generator=torch.Generator().manual_seed(1))
    other = tokens.clone()
    other[4:] = -2 * other[4:] + torch.arange(8)
    assert torch.equal(net(tokens)[:4], net(other)[:4])
    assert not torch.isclose(net(tokens)[6], net(other)[6]).any()


def test_it_is_torchs_encoder_with_a_causal_mask() -> None:
    net, tokens = made(), torch.randn(7, 8, dtype=F64, generator=torch.Generator().manual_seed(1))
    x = tokens[None]
    block: Any
    for block in net.blocks:
        layer = nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True, dtype=F64)
        attention = layer.self_attn
        with torch.no_grad():
            parts = (block.query, block.key, block.value)
            attention.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
            attention.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
            for theirs, ours in (
                (attention.out_proj, block.out),
                (layer.linear1, block.up),
                (layer.linear2, block.down),
                (layer.norm1, block.norm),
                (layer.norm2, block.norm_mlp),
            ):
                theirs.weight.copy_(ours.weight)
                theirs.bias.copy_(ours.bias)
        x = layer(x, src_mask=nn.Transformer.generate_square_subsequent_mask(7, dtype=F64))
    torch.testing.assert_close(net(tokens), net.norm(x[0]), rtol=0, atol=1e-12)


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="layers=0: must be at least 1"):
        CausalTransformer(8, 2, 0)
    with pytest.raises(ValueError, match="width=9: must be a multiple of heads=2"):
        CausalTransformer(9, 2, 1)
