"""Dropout and DropBlock by the task's key: closed forms of what is kept, squares, and where anything is dropped."""

import copy
import io
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import vmap

from metaexp.algos.imaml import IMAML
from metaexp.algos.joint import Joint
from metaexp.algos.maml import MAML
from metaexp.algos.protonet import ProtoNet
from metaexp.audit.measures import finite_differences
from metaexp.contract import largest_difference, new, parameters, pictures
from metaexp.evaluation.scores import evaluate
from metaexp.models.cnn4 import NORMS
from metaexp.models.dropping import DropBlock, Dropout, dropping, dropping_layers
from metaexp.models.layers import Convolution, MaxPool
from metaexp.models.resnet12 import ResNet12
from metaexp.outer.meta_training import MetaTraining
from metaexp.random import task_keys

SMALL = partial(ResNet12, channels=[2, 3, 2, 3], norm="none")
KEYS = task_keys(0, "train", torch.arange(400))


class Net(nn.Module):
    """A convolution whose maps lose squares, and a head."""

    def __init__(self, x_shape, out, drop=0.4, steps=0, norm="none"):
        super().__init__()
        self.convolution, self.norm, self.pool = Convolution(1, 3, 3, padding=1), NORMS[norm](3), MaxPool()
        self.block, self.single = DropBlock(drop, 2, steps), Dropout(drop / 2)
        self.head = nn.Linear(3, out)

    def features(self, x):
        return self.single(self.pool(self.block(torch.tanh(self.norm(self.convolution(x))))).mean((2, 3)))

    def forward(self, x):
        return self.head(self.features(x))


def dropped(layer, key, x, step=0):
    with dropping([layer], key, torch.tensor(step)):
        return layer(x)


@pytest.mark.parametrize(("size", "height", "width"), [(5, 10, 10), (3, 7, 9), (5, 5, 5), (5, 3, 6), (1, 4, 4)])
def test_share_kept_is_the_closed_form(size: int, height: int, width: int) -> None:
    """A pixel that n squares reach is kept with probability (1 - gamma)^n."""
    rate, high, wide = 0.3, min(size, height), min(size, width)
    places = (height - high + 1) * (width - wide + 1)
    gamma = rate * height * width / (high * wide * places)
    reach = [[sum(max(0, i - s + 1) <= a <= min(i, n - s) for a in range(n)) for i in range(n)]
             for n, s in ((height, high), (width, wide))]  # fmt: skip
    wanted = torch.tensor([[(1 - gamma) ** (a * b) for b in reach[1]] for a in reach[0]])
    layer = DropBlock(rate, size)
    found = vmap(lambda key: layer.mask(key, (10, 4, height, width)))(KEYS).mean((0, 1, 2))
    error = (wanted * (1 - wanted) / (len(KEYS) * 40)).sqrt()
    assert ((found - wanted).abs() < 5 * error).all()
    assert wanted.mean() >= 1 - rate - 1e-6  # squares that overlap drop less
    if size == 1 or min(height, width) == 5 == size:
        assert abs(float(wanted.mean()) - (1 - rate)) < 1e-6


@pytest.mark.parametrize("size", [2, 3])
def test_what_is_dropped_are_squares_within_the_map(size: int) -> None:
    """Every dropped pixel lies in a dropped square of this side; a mask of one square has size^2 pixels."""
    layer = DropBlock(0.15, size)
    gone = 1 - vmap(lambda key: layer.mask(key, (2, 3, 8, 9)))(KEYS[:50]).flatten(0, 1)
    full = F.avg_pool2d(gone, size, stride=1) == 1  # where a whole square is gone
    again = torch.zeros_like(gone)
    for i in range(size):
        for j in range(size):
            again[..., i : i + full.shape[2], j : j + full.shape[3]] += full
    assert torch.equal(gone, again.clamp(max=1))
    assert int((gone.sum((2, 3)) == size**2).sum()) > 10


def test_the_mean_is_kept() -> None:
    """DropBlock keeps the mean of a constant exactly, in every task; both layers keep any mean on average."""
    torch.manual_seed(0)
    x = torch.rand(6, 4, 9, 9, dtype=torch.float64)
    for layer in (DropBlock(0.2, 3), Dropout(0.2)):
        for key in KEYS[:5]:
            constant = dropped(layer, key, torch.full_like(x, 3.0))
            kept = (constant > 0).double().mean()
            if isinstance(layer, DropBlock):
                assert abs(float(constant.mean()) - 3) < 1e-6
                assert (constant - torch.where(constant > 0, 3 / kept, 0)).abs().max() < 1e-6
            else:
                assert constant.unique().sub(torch.tensor([0, 3 / 0.8])).abs().max() < 1e-6
        found = vmap(lambda key, layer=layer: dropped(layer, key, x))(KEYS).mean((1, 2, 3, 4))
        assert abs(found.mean() - x.mean()) < 4 * found.std() / len(KEYS) ** 0.5
    assert not dropped(DropBlock(1.0, 9), KEYS[0], x).any()  # all of it
    assert not dropped(Dropout(1.0), KEYS[0], x).any()
    assert dropped(DropBlock(0.5, 3), KEYS[0], x[:0]).shape == (0, 4, 9, 9)


def test_share_of_dropout() -> None:
    kept = vmap(lambda key: dropped(Dropout(0.3), key, torch.ones(1000)))(KEYS) > 0
    assert abs(float(kept.double().mean()) - 0.7) < 4 * (0.21 / 400_000) ** 0.5


def test_the_rate_rises_over_the_steps() -> None:
    layer = DropBlock(0.1, 5, steps=10)
    for step, rate in ((0, 0.01), (4, 0.05), (9, 0.1), (1000, 0.1)):
        with dropping([layer], KEYS[0], torch.tensor(step)):
            assert abs(float(layer.rate_now()) - rate) < 1e-8
    assert DropBlock(0.1).rate_now() == 0.1
    x = torch.ones(8, 4, 9, 9)
    first, last = (vmap(lambda key, s=step: dropped(layer, key, x, s))(KEYS[:100]) == 0 for step in (0, 9))
    assert 7 < last.sum() / first.sum() < 12


def test_masks_are_those_of_task_layer_and_pass() -> None:
    """The same in a loop and under vmap; others for another task, layer or pass."""
    layers, x = [DropBlock(0.3, 2), DropBlock(0.3, 2)], torch.ones(3, 2, 8, 8)

    def passes(key):
        with dropping(layers, key, torch.tensor(0)):
            return torch.stack([layer(x) for layer in (*layers, *layers)])

    mapped = vmap(passes)(KEYS[:3])
    assert torch.equal(mapped, torch.stack([passes(key) for key in KEYS[:3]]))
    masks = mapped.flatten(0, 1)
    assert all(not torch.equal(masks[i], masks[j]) for i in range(12) for j in range(i))


LEARNERS = {
    "maml": lambda f: MAML(f, Net, inner_lr=0.3, inner_steps=2),
    "protonet": lambda f: ProtoNet(f, partial(Net, norm="batch", steps=3)),
    "joint": lambda f: Joint(f, Net, batch=6, test_lr=0.1),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_meta_gradients_drop_alike_in_every_form(name: str) -> None:
    learner = new(LEARNERS[name], pictures())
    batch, found = learner.train_batch(torch.arange(4))._replace(info={}), {}
    for mapping in ("vmap", 3, "loop"):
        learner.set_mapping(mapping, "cpu", tried=True)
        found[mapping] = learner.meta_gradient(parameters(learner), batch)[:2]
    assert max(largest_difference(found[m], found["loop"]) for m in ("vmap", 3)) < 1e-12
    assert abs(float(learner(batch)[0].detach()) - float(found["loop"][1])) < 1e-12
    assert finite_differences(learner, batch, step=[1e-5, 1e-6]) < 1e-6
    apart = {layer: layer.rate for layer in dropping_layers(learner)}
    for layer in apart:
        layer.rate = 0.0
    assert largest_difference(learner.meta_gradient(parameters(learner), batch)[:2], found["loop"]) > 1e-3


@pytest.mark.parametrize("name", LEARNERS)
def test_nothing_is_dropped_at_test(name: str) -> None:
    learner = new(LEARNERS[name], pictures())
    arrays = evaluate(learner, "test", 5, ["queries"]).arrays
    plain = copy.deepcopy(learner)
    for layer in dropping_layers(plain):
        layer.rate = 0.0
    for metric, values in evaluate(plain, "test", 5, ["queries"]).arrays.items():
        assert (values == arrays[metric]).all()
    batch = learner.train_batch(torch.arange(4))._replace(info={})
    assert torch.equal(learner.eval()(batch)[0], plain(batch)[0])


def loop(compiled: bool) -> MetaTraining:
    """Prototypes with a rate that rises for three steps."""
    learner = new(LEARNERS["protonet"], pictures())
    optimizer = torch.optim.SGD(learner.meta_parameters().values(), lr=0.1, momentum=0.9)
    return MetaTraining(learner, optimizer, meta_batch=3, compiled=compiled)


def run(loop: MetaTraining, steps: range) -> dict[str, torch.Tensor]:
    for i in steps:
        loop.advance(i)
    loop.check()
    return loop.learner.state_dict()


def test_training_goes_on_to_the_bit() -> None:
    """Four steps against two, and two more from what was saved then."""
    whole, first, second, file = run(loop(False), range(4)), loop(False), loop(False), io.BytesIO()
    run(first, range(2))
    torch.save((first.learner.state_dict(), first.optimizer.state_dict()), file)
    file.seek(0)
    learner, optimizer = torch.load(file, weights_only=True)
    second.learner.load_state_dict(learner)
    second.optimizer.load_state_dict(optimizer)
    gone_on = run(second, range(2, 4))
    assert all(torch.equal(gone_on[name], value) for name, value in whole.items())


def test_a_traced_step_is_the_eager_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its operations one by one; as machine code in test_resnet12.py."""
    for part in ("ahead", "_inductor"):
        monkeypatch.setattr(f"metaexp.outer.compiler.{part}", lambda graph, _: lambda *tensors: list(graph(*tensors)))
    torch.compiler.reset()
    graph = loop(True)
    made, eager = run(graph, range(4)), run(loop(False), range(4))
    assert graph.compiled
    assert max((eager[name] - value).abs().max() for name, value in made.items()) < 1e-10


def test_resnet12_drops_as_its_settings_say() -> None:
    layers = dropping_layers(SMALL((1, 32, 32), 3, drop_rate=0.1, drop_size=4, drop_steps=7))
    assert [str(layer) for layer in layers] == [
        "Dropout(rate=0.1)", "Dropout(rate=0.1)",
        "DropBlock(rate=0.1, steps=7, size=4)", "DropBlock(rate=0.1, steps=7, size=4)",
    ]  # fmt: skip
    assert dropping_layers(SMALL((1, 32, 32), 3)) == []
    torch.manual_seed(0)
    plain = SMALL((1, 64, 64), 3)
    torch.manual_seed(0)
    dropper = SMALL((1, 64, 64), 3, drop_rate=0.2)
    x = torch.randn(4, 1, 64, 64)
    assert torch.equal(plain(x), dropper(x))
    assert plain.state_dict().keys() == dropper.state_dict().keys()
    seen = {}
    for number, block in enumerate(dropper.blocks):
        block.register_forward_hook(lambda m, args, made, n=number: seen.__setitem__(n, made))
    with dropping(dropping_layers(dropper), KEYS[0], torch.tensor(0)):
        dropper(x)
    for number, maps in seen.items():  # a whole map of 4 x 4 is a square
        whole = (maps == 0).float().mean((2, 3)).flatten()
        assert bool((maps == 0).any())
        assert number < 3 or set(whole.tolist()) == {0.0, 1.0}


def test_refusals() -> None:
    with pytest.raises(ValueError) as caught:
        IMAML(pictures(), Net)
    assert str(caught.value) == (
        "model: DropBlock(rate=0.4, size=2) draws anew at every pass, and IMAML needs one function"
    )
    with pytest.raises(ValueError) as caught:
        MAML(pictures(), Net, checkpoint=True)
    assert str(caught.value).startswith("checkpoint=true: steps are computed twice, and DropBlock(rate=0.4, size=2) ")
    IMAML(pictures(), partial(Net, drop=0.0))
    for make, message in (
        (lambda: DropBlock(1.5), "rate=1.5: must be from 0 to 1"),
        (lambda: DropBlock(0.1, 0), "size=0: must be at least 1"),
        (lambda: Dropout(0.1, -1), "steps=-1: must be at least 0"),
        (lambda: SMALL((1, 16, 16), 1, drop_rate=-0.1), "drop_rate=-0.1: must be from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
