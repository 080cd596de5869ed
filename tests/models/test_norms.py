"""Norms under every mapping against finite differences of the whole meta-loss, and in every mode at test."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from metaexp.algos.maml import MAML
from metaexp.contract import finite_differences, largest_difference, parameters, pictures
from metaexp.models.cnn4 import CNN4
from metaexp.models.mlp import MLP
from metaexp.models.norms import Frozen, LayerNorm, Norm, adopt, depends_on_batch, prepare, statistics_from

F64 = torch.float64
MAPPINGS = ("vmap", 2, "loop")


class Conv(nn.Module):
    """A user's network with a norm of torch; smooth, so that finite differences are clean."""

    def __init__(self, norm: Callable[[], nn.Module], out: int = 3):
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.norm = norm()
        self.head = nn.Linear(4 * 16, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.softplus(self.norm(self.convolution(x))).flatten(1))


class Flat(nn.Module):
    """The same with norms of vectors."""

    def __init__(self, norm: Callable[[], nn.Module], out: int = 3):
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(64, 6), norm(), nn.Linear(6, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.body(x.flatten(1)))))


USERS = {
    "BatchNorm2d": lambda: Conv(lambda: nn.BatchNorm2d(4)),
    "BatchNorm2d_plain": lambda: Conv(lambda: nn.BatchNorm2d(4, affine=False, track_running_stats=False)),
    "BatchNorm1d": lambda: Flat(lambda: nn.BatchNorm1d(6)),
    "InstanceNorm2d": lambda: Conv(lambda: nn.InstanceNorm2d(4, affine=True)),
    "InstanceNorm2d_plain": lambda: Conv(lambda: nn.InstanceNorm2d(4)),
    "GroupNorm": lambda: Conv(lambda: nn.GroupNorm(2, 4)),
    "LayerNorm": lambda: Flat(lambda: nn.LayerNorm(6)),
    "LayerNorm_maps": lambda: Conv(lambda: nn.LayerNorm([4, 4, 4])),
    "LayerNorm_plain": lambda: Flat(lambda: nn.LayerNorm(6, elementwise_affine=False)),
    "LayerNorm_no_bias": lambda: Flat(lambda: nn.LayerNorm(6, bias=False)),
    "frozen": lambda: Conv(lambda: nn.BatchNorm2d(4).eval()),
}


def unlike_one(model: nn.Module) -> nn.Module:
    """Scales and shifts away from 1 and 0, where errors in them would not show."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model.double()


def learner(model: nn.Module, mapping: str | int, **settings) -> MAML:
    return MAML(pictures(), model, inner_lr=0.3, inner_steps=2, mapping=mapping, **settings).double()


# --- meta-gradients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "norm", ["batch", *(pytest.param(n, marks=pytest.mark.tier("long")) for n in ("instance", "layer", "none"))]
)
@pytest.mark.parametrize("mapping", MAPPINGS)
def test_cnn4_equals_finite_differences(norm, mapping):
    torch.manual_seed(0)
    family = pictures(side=17)
    model = unlike_one(CNN4(family.x_shape, 3, filters=4, norm=norm))
    with torch.no_grad():
        for convolution in model.convolutions:  # without norms the signal would fade away, and units die
            convolution.weight.mul_(2)
            convolution.bias.fill_(0.1)
    made = MAML(family, model, inner_lr=0.3, inner_steps=2, mapping=mapping).double()
    batch = made.train_batch(torch.arange(3))
    assert made.meta_gradient(parameters(made), batch)[0]["model.convolutions.0.weight"].abs().max() > 1e-3
    error = finite_differences(made, batch)
    assert error < 1e-6


@pytest.mark.parametrize("user", USERS)
def test_a_users_network_equals_finite_differences(user):
    found = {}
    for mapping in MAPPINGS:
        torch.manual_seed(0)
        made = learner(unlike_one(USERS[user]()), mapping)
        batch = made.train_batch(torch.arange(3))
        error = finite_differences(made, batch)
        assert error < 1e-6
        found[mapping] = made.meta_gradient(parameters(made), batch)
    assert largest_difference(found["vmap"], found["loop"]) < 1e-12
    assert largest_difference(found[2], found["loop"]) < 1e-12


@pytest.mark.parametrize("user", ["BatchNorm2d_plain", "InstanceNorm2d", "LayerNorm", "LayerNorm_maps"])
def test_torchs_own_norms_are_wrong_under_vmap(user):
    """The reason for `adopt`. Where this is skipped, torch has mended it and `adopt` may hand back the native layer."""
    torch.manual_seed(0)
    model = unlike_one(USERS[user]())
    params = {k: p.detach() for k, p in model.named_parameters()}
    batch = pictures().sample("train", torch.arange(3))

    def loss(p: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return ((functional_call(model, p, (x,)) - y) ** 2).mean()

    def outer(p: dict[str, Tensor], *data: Tensor) -> Tensor:
        gradient = grad(loss)(p, *data[:2])
        return loss({k: v - 0.3 * gradient[k] for k, v in p.items()}, *data[2:])

    data = (*batch.support, *batch.query)
    mapped = grad(lambda p: vmap(outer, (None, 0, 0, 0, 0))(p, *data).sum())(params)
    looped = grad(lambda p: sum(outer(p, *(t[i] for t in data)) for i in range(3)))(params)
    values = vmap(outer, (None, 0, 0, 0, 0))(params, *data)
    assert largest_difference(values, torch.stack([outer(params, *(t[i] for t in data)) for i in range(3)])) < 1e-12
    wrong = max(float((mapped[k] - looped[k]).abs().max() / looped[k].abs().max()) for k in looped)
    if wrong < 1e-10:
        pytest.skip(f"vmap of {user} has the right second order in torch {torch.__version__}")
    assert wrong > 1e-4


# --- the layers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("native", [True, False])
def test_adopted_layers_compute_what_torchs_do(user, native):
    torch.manual_seed(0)
    model = unlike_one(USERS[user]())
    x = torch.randn(7, 1, 8, 8, dtype=F64)
    names = [name for name, _ in model.named_parameters()]
    expected = model(x)
    adopted = adopt(model)
    prepare(adopted, native)
    assert largest_difference(adopted(x), expected) < 1e-12
    assert [name for name, p in adopted.named_parameters() if p.requires_grad] == names
    assert depends_on_batch(adopted) == user.startswith("BatchNorm")
    alone = adopted(x[:1])
    assert (largest_difference(alone, expected[:1]) < 1e-12) == (not user.startswith("BatchNorm"))


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d])
@pytest.mark.parametrize("affine", [True, False])
def test_frozen_equals_a_batch_norm_in_eval_mode(kind, affine):
    torch.manual_seed(0)
    layer = unlike_one(kind(4, affine=affine, eps=1e-3))
    space = {nn.BatchNorm1d: (), nn.BatchNorm2d: (3, 3), nn.BatchNorm3d: (2, 3, 3)}[kind]
    for _ in range(5):
        layer(3 + 2 * torch.randn(8, 4, *space, dtype=F64))
    layer.eval()
    x = torch.randn(6, 4, *space, dtype=F64)
    frozen = adopt(layer)
    assert isinstance(frozen, Frozen)
    assert largest_difference(frozen(x), layer(x)) < 1e-13
    assert largest_difference(frozen(x[:1]), layer(x)[:1]) < 1e-13
    assert not depends_on_batch(frozen)


def test_an_instance_norm_with_running_statistics_stays_fixed_in_eval_mode():
    torch.manual_seed(0)
    layer = nn.InstanceNorm2d(4, affine=True, track_running_stats=True).double()
    layer(3 + 2 * torch.randn(8, 4, 5, 5, dtype=F64))
    layer.eval()
    x = torch.randn(6, 4, 5, 5, dtype=F64)
    assert largest_difference(adopt(layer)(x), layer(x)) < 1e-13


def test_adopt_finds_layers_wherever_they_are():
    norm = nn.BatchNorm2d(4)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ModuleDict({"a": norm, "b": nn.Sequential(nn.LayerNorm(6))}), norm)
    keys = set(dict(model.named_parameters()))
    assert adopt(model) is model
    assert isinstance(model[1]["a"], Norm)
    assert model[2] is model[1]["a"]  # shared stays shared
    assert isinstance(model[1]["b"][0], LayerNorm)
    assert set(dict(model.named_parameters())) == keys
    assert model[1]["a"].weight is norm.weight


def test_one_example_is_normalised_to_the_shift_under_every_mapping():
    torch.manual_seed(0)
    layer = unlike_one(Norm(4, over_batch=True))
    for native in (True, False):
        layer.native = native
        out = layer(torch.randn(1, 4, dtype=F64))
        assert largest_difference(out[0], layer.bias.detach()) < 1e-12
        assert layer(torch.zeros(0, 4, dtype=F64)).shape == (0, 4)


# --- modes at test --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping", ["vmap", "loop"])
def test_modes_against_a_computation_by_hand(mapping):
    """One batch norm on the flattened picture and a linear head: every mode written out."""
    torch.manual_seed(0)
    family = pictures(queries=3)
    model = unlike_one(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3)))
    scale, shift = model[1].weight, model[1].bias
    made = learner(model, mapping)
    assert made.modes(["queries", "single", "support"]) == {
        "_transductive": "queries",
        "": "single",
        "_support": "support",
    }
    episode = family.sample("test", torch.tensor([0]))
    support = type(episode.support)(*(t[0] for t in episode.support))
    x = episode.query.x[0]

    def by_hand(value: Tensor, statistics: Tensor) -> Tensor:
        value, statistics = value.flatten(1), statistics.flatten(1)
        z = (value - statistics.mean(0)) / torch.sqrt(statistics.var(0, correction=0) + 1e-5)
        return model[2](z * scale + shift)

    expected = {
        "queries": by_hand(x, x),
        "support": by_hand(x, support.x),
        "single": torch.cat([by_hand(q[None], torch.cat((support.x, q[None]))) for q in x]),
    }
    with torch.no_grad():
        for mode, by in expected.items():
            assert largest_difference(made.predict_as(mode, {}, support, x), by) < 1e-12
        assert largest_difference(expected["single"], expected["queries"]) > 1e-3
        for mode in expected:
            assert made.predict_as(mode, {}, support, x[:0]).shape == (0, 3)
        alone = made.predict_as("single", {}, support, x[:1])  # no query sees another
        assert largest_difference(alone, expected["single"][:1]) < 1e-12


@pytest.mark.parametrize("norm", ["instance", "layer", "none"])
def test_one_figure_where_a_network_does_not_look_at_the_batch(norm):
    torch.manual_seed(0)
    family = pictures(side=17)
    made = MAML(family, partial(CNN4, filters=4, norm=norm)).double()
    assert made.modes(["queries", "single", "support"]) == {"": "queries"}
    episode = family.sample("test", torch.tensor([0]))
    support, x = type(episode.support)(*(t[0] for t in episode.support)), episode.query.x[0]
    with torch.no_grad():
        values = [made.predict_as(mode, {}, support, x) for mode in ("queries", "single", "support")]
    assert largest_difference(values[1], values[0]) < 1e-12
    assert largest_difference(values[2], values[0]) < 1e-12


def test_statistics_from_ends_with_its_block():
    model = nn.Sequential(Norm(4, over_batch=True)).double()
    x = torch.randn(6, 4, dtype=F64)
    expected = model(x)
    with statistics_from(model, 2):
        assert largest_difference(model(x), expected) > 1e-3
    assert torch.equal(model(x), expected)
    with pytest.raises(ZeroDivisionError), statistics_from(model, 2):
        model(x / (1 // 0))
    assert torch.equal(model(x), expected)


def test_a_linear_network_of_vectors_has_one_figure():
    assert MAML(pictures(), partial(MLP, hidden=[4])).modes(["queries"]) == {"": "queries"}
