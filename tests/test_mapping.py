"""Mapping over tasks: all strategies agree, and each gives the same bits from run to run."""

from functools import partial

import pytest
import torch

from metaexp.algos.features import full_precision
from metaexp.algos.joint import Joint
from metaexp.algos.maml import MAML
from metaexp.algos.reptile import Reptile
from metaexp.contract import largest_difference, new, parameters, pictures
from metaexp.evaluation.scores import evaluate
from metaexp.inner import Adam
from metaexp.mapping import choose, map_tasks, mean_gradient, mean_over_pieces
from metaexp.models.cnn4 import CNN4
from metaexp.models.mlp import MLP
from metaexp.models.norms import Norm
from metaexp.tasks.sine import Sine
from metaexp.types import Episode, Examples

F64 = torch.float64
MAPPINGS = ("vmap", 1, 4, 7, 100, "loop")  # of 10 tasks: even and uneven chunks, and one larger than all
MAKE = {
    "maml": lambda family: MAML(family, partial(MLP, hidden=[8]), inner_steps=2),
    "fomaml_adam": lambda family: MAML(family, partial(MLP, hidden=[8]), inner_steps=3, first_order=True, inner=Adam()),
    "reptile": lambda family: Reptile(family, partial(MLP, hidden=[8]), inner_batch=3),
    "joint": lambda family: Joint(family, partial(MLP, hidden=[8]), batch=5),
    "maml_cnn4": lambda family: MAML(family, partial(CNN4, filters=3), inner_lr=0.3, inner_steps=2),
    # No batch norm: it makes the gradient of the biases before it 0 up to rounding, which Adam would normalise.
    "reptile_cnn4": lambda family: Reptile(
        family, partial(CNN4, filters=3, norm="layer"), inner_batch=4, inner=Adam(beta1=0.0), state="carried"
    ),
}


def made(name: str, mapping: str | int):
    family = pictures(side=16) if name.endswith("cnn4") else Sine(5, 5).to("cpu", F64)
    learner = new(MAKE[name], family)
    learner.set_mapping(mapping, "cpu")
    return learner


@pytest.mark.parametrize("mapping", ["vmap", 4, "loop"])
def test_the_gradient_of_what_is_in_full_precision_is_too(mapping):
    """The forward pass uses no half precision here; the backward pass once did, since autocast was active around it."""
    draw = torch.Generator().manual_seed(0)
    episodes = Episode(*(Examples(torch.randn(10, 6, 5, generator=draw), torch.randn(10, 6, 3)) for _ in range(2)),
                       torch.arange(10), {})  # fmt: skip

    def function(params, episode):
        with full_precision(episode.support.x, params["w"]) as (x, w):
            return torch.sin(x @ w).square().mean(), {}

    params = {"w": torch.randn(5, 3, generator=draw)}
    exact = mean_gradient(function, params, episodes, mapping)[0]["w"]
    with torch.autocast("cpu", torch.bfloat16):
        found = mean_gradient(function, params, episodes, mapping)[0]["w"]
    assert (found - exact).abs().max() < 1e-6 * exact.abs().max()


@pytest.mark.parametrize("name", MAKE)
def test_strategies_agree_and_repeat(name):
    """Gradient, loss and logs agree to 1e-12 between strategies, and bit for bit between two runs of one strategy."""
    found = {}
    for mapping in MAPPINGS:
        learner = made(name, mapping)
        batch = learner.train_batch(torch.arange(10))._replace(info={})
        first, second = (learner.meta_gradient(parameters(learner), batch) for _ in range(2))
        again = made(name, mapping).meta_gradient(parameters(learner), batch)
        leaves = [torch.utils._pytree.tree_leaves(result) for result in (first, second, again)]
        for other in leaves[1:]:
            assert all(torch.equal(a, b) for a, b in zip(leaves[0], other, strict=True))
        found[mapping] = first
    for mapping in MAPPINGS[:-1]:
        assert largest_difference(found[mapping], found["loop"]) < 1e-12, mapping


@pytest.mark.parametrize("name", ["maml", "reptile", "maml_cnn4"])
def test_scores_are_the_same_whatever_the_strategy_and_the_chunk(name):
    scores = {}
    for mapping in ("vmap", 4, "loop"):
        for chunk in (3, 11, 100):
            scores[mapping, chunk] = evaluate(made(name, mapping), "test", 11, ["queries", "single", "support"], chunk)
    first = scores["loop", 100]
    assert len(first.arrays) == (3 if name.endswith("cnn4") else 1)
    for found in scores.values():
        assert found.query_sha256 == first.query_sha256
        for metric, values in first.arrays.items():
            assert values.shape == (11, {"maml": 3, "reptile": 6, "maml_cnn4": 3}[name])
            assert abs(found.arrays[metric] - values).max() < 1e-12


@pytest.mark.parametrize("name", ["maml", "maml_cnn4"])
def test_plain_backward_gives_the_same_gradient(name):
    """`learner(episode)` is differentiable without the outer loop."""
    for mapping in ("vmap", 4, "loop"):
        learner = made(name, mapping)
        batch = learner.train_batch(torch.arange(10))._replace(info={})
        gradient, value, logs = learner.meta_gradient(parameters(learner), batch)
        loss, metrics = learner(batch)
        loss.backward()
        assert largest_difference({k: p.grad for k, p in learner.meta_parameters().items()}, gradient) < 1e-12
        assert largest_difference([loss, metrics], [value, logs]) < 1e-12


def test_mean_gradient_of_a_parabola_by_hand():
    episodes = Sine(2, 2).to("cpu", F64).sample("train", torch.arange(5))._replace(info={})
    w = torch.tensor(1.5, dtype=F64)

    def loss(p, episode):
        return (p["w"] * episode.query.x.sum() - 1) ** 2, {"x": episode.query.x.sum()}

    x = episodes.query.x.sum((1, 2))
    for mapping in ("vmap", 2, "loop"):
        gradient, value, logs = mean_gradient(loss, {"w": w}, episodes, mapping)
        assert abs(float(gradient["w"] - (2 * (w * x - 1) * x).mean())) < 1e-12
        assert abs(float(value - ((w * x - 1) ** 2).mean())) < 1e-12
        assert abs(float(logs["x"] - x.mean())) < 1e-13
        assert torch.equal(map_tasks(lambda e: e.query.x.sum(), episodes, mapping), x)
    assert abs(float(mean_over_pieces(lambda e: e.query.x.sum(), episodes, 1) - x.mean())) < 1e-13


def test_the_choice_by_model_and_device():
    small, large = MLP((1,), 1), CNN4((1, 28, 28), 5)
    assert choose("auto", small, "cpu") == "vmap"
    assert choose("auto", large, "cpu") == "loop"
    assert choose("auto", large, torch.device("cuda")) == "vmap"
    assert choose("vmap", large, "cpu") == "vmap"
    assert choose("loop", small, "cpu") == "loop"
    assert choose(8, small, "cpu") == 8
    for wrong in ("chunk", 0, -1, True):
        with pytest.raises(ValueError, match=f"mapping={wrong}: must be auto, vmap, loop or a number of tasks above 0"):
            choose(wrong, small, "cpu")


def test_norms_use_the_native_kernel_in_a_loop_only():
    family = pictures(side=16)
    for mapping, native in (("vmap", False), (3, False), ("loop", True), ("auto", True)):
        learner = MAML(family, partial(CNN4, filters=2), mapping=mapping)
        assert [m.native for m in learner.modules() if isinstance(m, Norm)] == [native] * 4
        learner.set_mapping("vmap", "cpu")
        assert not any(m.native for m in learner.modules() if isinstance(m, Norm))
