"""Attention and means over sets in float64, against torch's own attention and each set by itself."""

import torch
from references import F64, normal
from torch import nn

from metaexp.contract import largest_difference
from metaexp.models.sets import CrossAttention, attention, means


def test_attention_equals_torch_multihead_attention():
    ours, theirs = CrossAttention(12, 3).double(), nn.MultiheadAttention(12, 3, bias=False, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in (ours.query, ours.key, ours.value)]))
        theirs.out_proj.weight.copy_(ours.mix.weight)
        query, key, value = normal(7, 12), normal(5, 12), normal(5, 11)[:, :1] * normal(5, 12)
        keys, values = ours.memory(key, value)
        member = torch.ones(5, 1, dtype=F64)
        expected, weights = theirs(query[None], key[None], value[None], average_attn_weights=False)
        assert largest_difference(ours(query, keys, values, member)[:, 0], expected[0]) < 1e-12
        assert largest_difference(ours.weights(query, keys, member)[:, 0], weights[0]) < 1e-12


def test_classes_are_attended_and_averaged_each_by_itself():
    query, key, h = normal(2, 7, 4), normal(2, 6, 4) * 30, normal(6, 5)
    member = torch.eye(4, dtype=F64)[[0, 2, 0, 2, 2, 1]]  # nothing in class 3
    weights, mean = attention(query, key, member), means(h, member)
    for c in range(4):
        own = member[:, c] > 0
        alone = attention(query, key[:, own], torch.ones(int(own.sum()), 1, dtype=F64))[:, 0]
        assert largest_difference(weights[:, c][..., own], alone) < 1e-12
        assert (weights[:, c][..., ~own] == 0).all()
        assert largest_difference(mean[c], h[own].mean(0) if own.any() else torch.zeros(5, dtype=F64)) < 1e-12
