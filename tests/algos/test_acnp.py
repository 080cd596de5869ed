"""ACNP in float64 against direct formulas; more in test_neural_process.py."""

import pytest
import torch
from references import F64, PROCESSES, forward, gp, normal

from metaexp.contract import largest_difference, new, pictures
from metaexp.models.linear import Linear


@pytest.mark.parametrize("kind", ["regression", "classes"])
def test_the_residual_block_is_its_equations(kind):
    """Means and deviations of layer norm by torch's own; the rest of the prediction goes the way it went without."""
    learner = new(lambda f: PROCESSES["acnp_residual"](f, Linear), gp() if kind == "regression" else pictures())
    x, y, at = normal(5, learner.inputs), normal(5, 1), normal(7, learner.inputs)
    y = y if kind == "regression" else torch.eye(3, dtype=F64)[[0, 1, 2, 2, 0]]
    block = learner.block
    with torch.no_grad():
        for norm in (block.norm, block.norm_net):
            norm.weight.copy_(normal(12))
            norm.bias.copy_(normal(12) / 2)
        for sets in (y, y[:0]):  # of no example nothing is read, and the query's own embedding is left
            kept = learner.fit(x[: len(sets)], sets, torch.tensor(0))
            found = learner.read(kept, at)
            q = learner.place(at)
            read = learner.attention(q, kept["keys"], kept["values"], kept["member"])
            r = read + (q @ block.skip.weight.T + block.skip.bias)[:, None]
            r = torch.layer_norm(r, (12,), block.norm.weight, block.norm.bias)
            by_hand = forward(block.net, r.flatten(0, 1).numpy()).reshape(r.shape)
            r = torch.layer_norm(r + torch.from_numpy(by_hand), (12,), block.norm_net.weight, block.norm_net.bias)
            assert largest_difference(found, learner.decoder(r, at)) < 1e-12
            learner.block = None
            assert largest_difference(found, learner.read(kept, at)) > 1e-3
            learner.block = block


def test_the_attention_is_a_view():
    learner = new(lambda f: PROCESSES["acnp"](f, Linear), gp())
    episode = learner.family.sample("val", torch.arange(2))
    table = learner.views(episode)["attention"]
    assert table.values.shape == (6, 5)
    assert largest_difference(table.values.sum(1), torch.ones(6)) < 1e-12
    assert table.column_names == [f"{x:.2f}" for x in sorted(episode.support.x[0, :, 0].tolist())]
    assert table.row_names == [f"{x:.2f}" for x in sorted(episode.query.x[0, :, 0].tolist())]
    classes = new(lambda f: PROCESSES["acnp"](f, Linear), pictures())
    table = classes.views(classes.family.sample("val", torch.arange(2)))["attention"]
    assert largest_difference(table.values.sum(1), torch.full((6,), 3.0)) < 1e-12  # one for each class
