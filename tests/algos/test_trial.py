"""A learner is tried on two tasks: what vmap cannot take is mapped by a loop, what learns nothing is refused."""

import copy
import logging
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from references import sines
from torch import nn

from metaexp.algos.anil import ANIL
from metaexp.algos.imaml import IMAML
from metaexp.algos.maml import MAML
from metaexp.algos.metasgd import MetaSGD
from metaexp.algos.reptile import Reptile
from metaexp.algos.scratch import Scratch
from metaexp.contract import largest_difference, new, parameters
from metaexp.errors import NothingLearnedError
from metaexp.evaluation.scores import evaluate
from metaexp.metric_names import metric_name
from metaexp.outer.meta_training import MetaTraining

MAKE = partial(MAML, inner_lr=0.05, inner_steps=2)


def finite_difference(learner, episodes, step=1e-3):
    """Relative error of the meta-gradient along one direction, against a difference of fifth order."""
    start = parameters(learner)
    draw = torch.Generator().manual_seed(0)
    along = {k: torch.randn(p.shape, generator=draw, dtype=p.dtype) for k, p in start.items()}

    def at(h):
        return float(learner.meta_gradient({k: p + h * along[k] for k, p in start.items()}, episodes)[1])

    # Central differences of the order 6: its error is of the order step^6.
    numeric = sum(w * (at(k * step) - at(-k * step)) for k, w in ((1, 45), (2, -9), (3, 1))) / (60 * step)
    gradient = learner.meta_gradient(start, episodes)[0]
    exact = float(sum((gradient[k] * along[k]).sum() for k in start))
    return abs(numeric - exact) / abs(exact)


class Recurrent(nn.Module):
    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.cell, self.head = kind(1, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.cell(torch.stack((x, x**2), 1) / 5)[0][:, -1])


class Cell(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cell, self.head = kind(1, 4), nn.Linear(4, 1)

    def forward(self, x):
        z = self.cell(x / 5)
        z = self.cell(x**2 / 5, z)
        return self.head(z[0] if isinstance(z, tuple) else z)


class Net(nn.Module):
    """One hidden layer, and `f` on it."""

    def __init__(self, f=lambda z, x: z):
        super().__init__()
        self.body, self.head, self.f = nn.Linear(1, 6), nn.Linear(6, 1), f

    def features(self, x):
        return self.f(torch.tanh(self.body(x)), x)

    def forward(self, x):
        return self.head(self.features(x))


def negative_zeroed(z, x):
    z = z.clone()
    z[x.squeeze(-1) < 0] = 0
    return z


UNMAPPABLE = {
    "lstm": Recurrent,
    "gru": partial(Recurrent, nn.GRU),
    "rnn": partial(Recurrent, nn.RNN),
    "lstm_cell": partial(Cell, nn.LSTMCell),
    "branch": partial(Net, lambda z, x: z if x.sum() > 0 else -z),
    "item": partial(Net, lambda z, x: z * x.abs().max().item()),
    "index": partial(Net, negative_zeroed),
}


@pytest.mark.parametrize("name", UNMAPPABLE)
def test_what_vmap_cannot_take_is_mapped_by_the_loop(name, caplog):
    learner, loop = (new(lambda f, m=m: MAKE(f, UNMAPPABLE[name](), mapping=m), sines()) for m in ("auto", "loop"))
    episodes = learner.family.sample("train", torch.arange(3))
    before, generator = copy.deepcopy(learner.state_dict()), torch.get_rng_state()
    with caplog.at_level(logging.WARNING):
        losses = [learner(episodes)[0], learner(episodes)[0], loop(episodes)[0]]
    assert learner.mapping == "loop"
    assert [r.getMessage().count("\n") for r in caplog.records] == [0]
    assert caplog.records[0].getMessage().startswith("mapping=auto: vmap cannot take this learner (")
    assert torch.equal(losses[0], losses[2])
    assert torch.equal(losses[1], losses[2])
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[key]) for key, value in learner.state_dict().items())
    assert finite_difference(learner, episodes._replace(info={})) < 1e-6
    typed = new(lambda f: MAKE(f, UNMAPPABLE[name](), mapping="vmap"), sines())
    for use in (lambda: typed(episodes), lambda: evaluate(typed, "val", 2, ["queries"])):
        with pytest.raises(ValueError, match=r"^mapping=vmap: .*mapping=loop") as caught:
            use()
        assert "\n" not in str(caught.value)


class Altered(torch.autograd.Function):
    """The identity, with a rule for vmap that is not."""

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient

    @staticmethod
    def vmap(info, in_dims, x):
        return 1.001 * x, in_dims[0]


def test_another_result_under_vmap_is_noticed():
    learner = new(lambda f: MAKE(f, Net(lambda z, x: Altered.apply(z))), sines())
    episodes = learner.family.sample("train", torch.arange(3))._replace(info={})
    learner.settle(episodes)
    assert learner.mapping == "loop"
    assert learner.mapping_reason.startswith("under vmap the meta-gradient is wrong by ")
    assert finite_difference(learner, episodes) < 1e-8
    typed = new(lambda f: MAKE(f, Net(lambda z, x: Altered.apply(z)), mapping=2), sines())
    with pytest.raises(ValueError, match=r"^mapping=2: under vmap .*mapping=loop"):
        typed.settle(episodes)


class CalledNorm(nn.Module):
    """Batch norm as a function with scale and shift: torch 2.13 differentiates it twice wrongly under vmap."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(1, 8), nn.Linear(8, 1)
        self.scale, self.shift = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))

    def forward(self, x):
        return self.head(torch.tanh(F.batch_norm(self.body(x), None, None, self.scale, self.shift, training=True)))


def test_a_wrong_second_derivative_under_vmap_is_noticed():
    typed, learner = (new(lambda f, m=m: MAKE(f, CalledNorm(), mapping=m), sines()) for m in ("vmap", "auto"))
    episodes = learner.family.sample("train", torch.arange(3))
    message = r"^mapping=vmap: under vmap the meta-gradient is wrong by .*take mapping=loop"
    with pytest.raises(ValueError, match=message):
        typed(episodes)
    learner(episodes)
    assert learner.mapping == "loop"
    assert finite_difference(learner, episodes._replace(info={}), step=1e-4) < 1e-6


def test_the_modes_of_the_test_with_a_recurrent_network_and_batch_norm():
    """Each query apart with the support set, one after the other: the value against a loop written here."""

    class Both(Recurrent):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x):
            return self.head(self.norm(self.cell(torch.stack((x, x**2), 1) / 5)[0][:, -1]))

    learner = new(lambda f: MAKE(f, Both()), sines())
    scores = evaluate(learner, "test", 2, ["queries", "single", "support"])
    episode = learner.family.sample("test", torch.arange(2))
    for i in range(2):
        support, query = (type(part)(part.x[i], part.y[i]) for part in (episode.support, episode.query))
        adapted = learner.path(support, episode.key[i], 2)[-1]
        made = [learner.predict(adapted, torch.cat((support.x, x[None])))[-1] for x in query.x]
        error = float(((torch.stack(made) - query.y) ** 2).mean().detach())
        (suffix,) = learner.modes(["single"])
        assert abs(scores.arrays[metric_name("mse", suffix)][i, -1] - error) < 1e-12
    test_only = new(lambda f: Scratch(f, Recurrent(), test_epochs=1), sines())
    assert evaluate(test_only, "test", 2, ["queries"]).arrays["mse"].shape == (2, 2)
    assert test_only.mapping == "loop"


# -- attention ---------------------------------------------------------------------------------------------------------


class Attention(Net):
    def __init__(self):
        super().__init__()
        self.body, self.attend, self.head = (
            nn.Linear(1, 8),
            nn.MultiheadAttention(8, 2, batch_first=True),
            nn.Linear(8, 1),
        )

    def features(self, x):
        z = torch.tanh(self.body(x))[None]
        return self.attend(z, z, z, need_weights=False)[0][0]


class Encoder(Net):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(1, 8), nn.Linear(8, 1)
        layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, activation="gelu", batch_first=True)
        self.attend = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def features(self, x):
        return self.attend(self.body(x)[None])[0]


ATTENTION = {
    "layer": Attention,
    "encoder": Encoder,
    "encoder_eval": lambda: Encoder().eval(),
    "function": partial(Net, lambda z, x: F.scaled_dot_product_attention(z[None], z[None], z[None])[0]),
}
METHODS = (MAKE, partial(ANIL, inner_lr=0.05, inner_steps=2), partial(MetaSGD, inner_lr=0.05))


@pytest.mark.parametrize("mapping", ["loop", "vmap"])
@pytest.mark.parametrize("model", ATTENTION)
def test_the_meta_gradient_through_attention(model, mapping):
    for make in METHODS:
        learner = new(lambda f, make=make: make(f, ATTENTION[model](), mapping=mapping), sines())
        assert finite_difference(learner, learner.family.sample("train", torch.arange(2))._replace(info={})) < 1e-9
        assert learner.mapping == mapping


def test_the_implicit_gradient_through_attention():
    """Exactly solved inner problems: the meta-gradient is the derivative of where they end."""
    settings = {"strength": 50.0, "inner_lr": 0.018, "inner_steps": 25, "cg_steps": 15, "least_curvature": 0.0}
    found = []
    for mapping in ("loop", "vmap"):
        learner = new(lambda f, m=mapping: IMAML(f, ATTENTION["function"](), mapping=m, **settings), sines())
        episodes = learner.family.sample("train", torch.arange(2))._replace(info={})
        found.append(learner.meta_gradient(parameters(learner), episodes)[:2])
        if mapping == "loop":
            assert finite_difference(learner, episodes) < 1e-6
    assert largest_difference(*found) < 1e-9


# -- what is learned ---------------------------------------------------------------------------------------------------


class Unused(Net):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(2, 2)


class FromZero(Net):
    """A product of matrices of which one starts at zero: the other one's gradient is zero at the start alone."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(6, 2, bias=False), nn.Linear(2, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        z = self.features(x)
        return self.head(z) + self.up(self.down(z))


class Cut(Net):
    def forward(self, x):
        return super().forward(x).detach()


def test_a_network_that_no_gradient_reaches_is_refused():
    episodes = sines().sample("train", torch.arange(4))
    for make in (MAKE, partial(Reptile, inner_lr=0.05)):
        learner = new(lambda f, make=make: make(f, Cut()), sines())
        with pytest.raises(NothingLearnedError, match=r"exactly zero for all 4 learned tensors") as caught:
            learner(episodes)
        assert isinstance(caught.value, ValueError)
        assert caught.value.exit_code == 2
        learner = new(lambda f, make=make: make(f, Cut()), sines())
        loop = MetaTraining(learner, torch.optim.SGD(learner.parameters(), lr=0.1), meta_batch=3)
        with pytest.raises(NothingLearnedError):
            loop.step(0)
    own_loss = new(lambda f: MAKE(f, Net(), loss=lambda p, y: ((p - y).detach() ** 2).mean()), sines())
    with pytest.raises(NothingLearnedError):
        own_loss(episodes)


def test_the_first_step_of_known_parts_is_looked_at_too():
    learner = new(lambda f: MAKE(f, nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1, bias=False))), sines())
    with torch.no_grad():
        learner.model[0].weight.zero_()
        learner.model[0].bias.fill_(-1.0)  # every unit is dead
    loop = MetaTraining(learner, torch.optim.SGD(learner.parameters(), lr=0.1), meta_batch=3)
    with pytest.raises(NothingLearnedError):
        loop.step(0)


def test_parameters_without_a_gradient_are_named_once(caplog):
    learner = new(lambda f: MAKE(f, Unused()), sines())
    episodes = learner.family.sample("train", torch.arange(4))
    with caplog.at_level(logging.WARNING):
        learner(episodes)
        learner(episodes)
    assert [r.getMessage() for r in caplog.records] == [
        "model: no gradient reaches model.spare.weight, model.spare.bias; it keeps its initial value"
    ]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        new(lambda f: MAKE(f, FromZero()), sines())(episodes)
        scratch = new(lambda f: Scratch(f, Unused(), test_epochs=1), sines())
        evaluate(scratch, "test", 2, ["queries"])
    assert caplog.records == []
