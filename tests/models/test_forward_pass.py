"""What a forward pass returns and what it changes: refused in one line, or right."""

from functools import partial

import pytest
import torch
from references import close, sines
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

from metaexp.algos.anil import ANIL
from metaexp.algos.maml import MAML
from metaexp.contract import finite_differences, new, pictures
from metaexp.models.functional import check_module, check_output, check_state, functional_call

MAKE = partial(MAML, inner_lr=0.05, inner_steps=2)


class Net(nn.Module):
    """One hidden layer, and `end` on its output."""

    def __init__(self, end=lambda y: y):
        super().__init__()
        self.body, self.head, self.end = nn.Linear(1, 4), nn.Linear(4, 1), end

    def forward(self, x):
        return self.end(self.head(torch.tanh(self.body(x))))


RETURNS = {
    "tuple": (lambda y: (y, y), "returns a tuple"),
    "dict": (lambda y: {"y": y}, "returns a dict"),
    "none": (lambda y: None, "returns None"),
    "number": (lambda y: 1.0, "returns a float"),
    "scalar": (lambda y: y.mean(), r"returns the shape \[\] for 6 inputs"),
    "flat": (lambda y: y[:, 0], r"returns the shape \[6\] for 6 inputs; .*unsqueeze"),
    "turned": (lambda y: y.T, r"returns the shape \[1, 6\]"),
    "fewer": (lambda y: y[:2], r"returns the shape \[2, 1\]"),
    "wide": (lambda y: torch.cat([y, y], 1), r"the prediction has the shape \[6, 2\], the loss needs \[6, 1\]"),
    "classes": (lambda y: y.round().long(), "returns int64 numbers"),
    "complex": (lambda y: y + 0j, "returns complex128 numbers"),
    "float32": (lambda y: y.float(), "returns float32 for inputs in float64"),
}


@pytest.mark.parametrize("mapping", ["auto", "loop"])
@pytest.mark.parametrize("name", RETURNS)
def test_only_a_tensor_with_a_row_per_input_is_a_prediction(name, mapping):
    end, message = RETURNS[name]
    learner = new(lambda f: MAKE(f, Net(end), mapping=mapping), sines())
    episodes = learner.family.sample("train", torch.arange(2))
    for use in (learner, lambda e: learner.adapt(type(e.support)(e.support.x[0], e.support.y[0]), e.key[0])):
        with pytest.raises(Exception, match=f"^model: .*{message}") as caught:
            use(episodes)
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, ValueError) or name == "wide"


def test_features_are_looked_at_too():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(64, 4), nn.Linear(4, 3)

        def features(self, x):
            return self.body(x.flatten(1)), x

        def forward(self, x):
            return self.head(self.features(x)[0])

    family = pictures()
    learner = new(lambda f: ANIL(f, Pair()), family)
    with pytest.raises(ValueError, match=r"^model: features returns a tuple"):
        learner(family.sample("train", torch.arange(2)))
    x = torch.zeros(3, 2)
    with torch.autocast("cpu", torch.bfloat16):
        check_output(x.bfloat16(), x)
    with pytest.raises(ValueError, match="bfloat16"):
        check_output(x.bfloat16(), x)


class Counter(Net):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Average(Net):
    """Keeps a moving average: as a buffer, as a plain tensor, in a dict, in place."""

    def __init__(self, how):
        super().__init__()
        self.how, self.kept = how, {"mean": torch.zeros(4)}
        if how == "buffer":
            self.register_buffer("mean", torch.zeros(4))
        else:
            self.mean = torch.zeros(4)

    def forward(self, x):
        z = torch.tanh(self.body(x))
        mean = z.mean(0).detach()
        if self.how == "dict":
            self.kept["mean"] = 0.9 * self.kept["mean"] + mean
            return self.head(z - self.kept["mean"])
        if self.how == "in place":
            self.mean.lerp_(mean, 0.1)
        else:
            self.mean = self.mean.lerp(mean, 0.1)
        return self.head(z - self.mean)


class Cached(Net):
    """A weight is taken once and read in later passes, when another one is in its place."""

    def __init__(self):
        super().__init__()
        self.weight = None

    def forward(self, x):
        if self.weight is None:
            self.weight = 2 * self.head.weight
        return torch.tanh(self.body(x)) @ self.weight.T


class History(Net):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return super().forward(x)


class Late(Net):
    def forward(self, x):
        if not hasattr(self, "late"):
            self.late = nn.Parameter(torch.ones(1))
        return self.late * super().forward(x)


class LateLayer(Net):
    def forward(self, x):
        if not hasattr(self, "late"):
            self.late = nn.Linear(1, 1)
        return self.late(super().forward(x))


class Range(Net):
    """Widens its range only where an input lies outside, on the given side."""

    def __init__(self, side):
        super().__init__()
        self.side = side
        self.register_buffer("most", torch.tensor(5.0))

    def forward(self, x):
        if (reached := (self.side * x).max()) > self.most:
            self.most.copy_(reached)
        return super().forward(x)


class Clamped(Net):
    def forward(self, x):
        with torch.no_grad():
            self.head.weight.clamp_(-0.01, 0.01)
        return super().forward(x)


def layers(*more):
    return nn.Sequential(nn.Linear(1, 4), nn.Tanh(), *more)


CARRIES = {
    "counter": (Counter, "Counter changes self.calls"),
    "buffer": (partial(Average, "buffer"), "Average changes its buffer mean"),
    "tensor": (partial(Average, "tensor"), "Average sets self.mean, which a later pass reads"),
    "dict": (partial(Average, "dict"), "Average sets self.kept"),
    "in place": (partial(Average, "in place"), "Average sets self.mean"),
    "cache": (Cached, "Cached sets self.weight, which a later pass reads"),
    "history": (History, "History changes self.seen"),
    "parameter": (Late, "of Late makes or takes away its parameter late: call it on an example"),
    "layer": (LateLayer, "of LateLayer makes or takes away its layer late: call it on an example"),
    "clamp": (Clamped, r"head \(Linear\) changes its parameter weight"),
    "below": (partial(Range, -1), "Range changes its buffer most"),
    "above": (partial(Range, 1), "Range changes its buffer most"),
    "spectral": (lambda: layers(parametrizations.spectral_norm(nn.Linear(4, 1))), "changes its buffer _[uv]"),
    "old spectral": (lambda: layers(old_spectral_norm(nn.Linear(4, 1))), "changes its buffer weight_[uv]"),
    "lazy": (lambda: layers(nn.LazyLinear(1)), r"2\.weight has no shape yet"),
    "lazy norm": (lambda: layers(nn.LazyBatchNorm1d(), nn.Linear(4, 1)), "has no shape yet"),
}  # fmt: skip


@pytest.mark.parametrize("name", CARRIES)
def test_what_one_task_would_hand_to_the_next_is_refused(name):
    make, message = CARRIES[name]
    model = make()
    state, generator = {k: v for k, v in vars(model).items() if not k.startswith("_")}, torch.get_rng_state()
    weights = [(p, None if hasattr(p, "materialize") else p.clone()) for p in model.parameters()]
    with pytest.raises(ValueError, match=f"^model: .*{message}") as caught:
        MAKE(sines().to("cpu", torch.float32), model)
    assert "\n" not in str(caught.value)
    assert torch.equal(torch.get_rng_state(), generator)
    assert {k: v for k, v in vars(model).items() if not k.startswith("_")} == state  # as it was before the trial
    assert all(
        p is q and (w is None or torch.equal(p, w)) for p, (q, w) in zip(model.parameters(), weights, strict=True)
    )


class Shown(Net):
    """Keeps what it computed last, for a picture; nothing reads it."""

    def forward(self, x):
        self.shape, self.last = x.shape, torch.tanh(self.body(x))
        return self.head(self.last)


def pruned():
    model = layers(nn.Linear(4, 1))
    prune.l1_unstructured(model[2], "weight", 0.5)
    return model


RIGHT = {
    "shown": Shown,
    "weight_norm": lambda: layers(parametrizations.weight_norm(nn.Linear(4, 3)), nn.Linear(3, 1)),
    "weight_norm, all": lambda: layers(parametrizations.weight_norm(nn.Linear(4, 3), dim=None), nn.Linear(3, 1)),
    "old weight_norm": lambda: layers(old_weight_norm(nn.Linear(4, 3), dim=1), nn.Linear(3, 1)),
    "orthogonal": lambda: layers(parametrizations.orthogonal(nn.Linear(4, 4)), nn.Linear(4, 1)),
    "spectral, eval": lambda: layers(parametrizations.spectral_norm(nn.Linear(4, 4)).eval(), nn.Linear(4, 1)),
    "old spectral, eval": lambda: layers(old_spectral_norm(nn.Linear(4, 4)).eval(), nn.Linear(4, 1)),
    "pruned": pruned,
}


@pytest.mark.parametrize("mapping", ["loop", "vmap"])
@pytest.mark.parametrize("name", RIGHT)
def test_what_is_computed_anew_in_every_pass_is_right(name, mapping):
    learner = new(lambda f: MAKE(f, RIGHT[name](), mapping=mapping), sines())
    episodes = learner.family.sample("train", torch.arange(3))._replace(info={})
    first, second = learner(episodes)[0], learner(episodes)[0]
    assert torch.equal(first, second)
    assert finite_differences(learner, episodes) < 1e-6


def test_weight_norm_has_the_values_of_torch():
    """Its own second derivative is wrong in torch 2.13, in plain autograd too."""
    torch.manual_seed(0)
    model = layers(parametrizations.weight_norm(nn.Linear(4, 3)), old_weight_norm(nn.Linear(3, 1))).double()
    x = torch.randn(5, 1, dtype=torch.float64)
    before, names = model(x), list(model.state_dict())
    learner = MAKE(sines(), model)
    close(learner.model(x), before)
    assert list(learner.model.state_dict()) == names
    assert learner.adopted == {"weight_norm": 2}


def test_a_network_that_is_called_otherwise_is_left_alone():
    class Two(nn.Module):
        def forward(self, x, context):
            return x + context

    check_module(Two(), (1,))
    check_state(Two(), (1,))
    close(functional_call(Two(), {}, (torch.ones(1), torch.ones(1))), 2 * torch.ones(1))
