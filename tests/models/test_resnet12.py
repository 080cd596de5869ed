"""The residual network: size, forward pass against an independent composition, gradients in every form of a step."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.func import functional_call, grad, vmap

from metaexp.algos.protonet import ProtoNet
from metaexp.config.settings import load
from metaexp.contract import check_model, pictures
from metaexp.evaluation.scores import evaluate
from metaexp.models.norms import adopt, in_mode, prepare
from metaexp.models.resnet12 import ResNet12
from metaexp.outer.loaders import Span
from metaexp.training.build import Experiment

SMALL = partial(ResNet12, channels=[2, 3, 2, 3])


def independent(w: dict[str, torch.Tensor], x: torch.Tensor, norm: str, readout: str) -> torch.Tensor:
    def normed(z: torch.Tensor, name: str) -> torch.Tensor:
        if norm == "none":
            return z
        scale, shift = w[f"{name}.weight"], w[f"{name}.bias"]
        if norm == "batch":
            return F.batch_norm(z, None, None, scale, shift, True)
        if norm == "layer":
            return F.group_norm(z, 1, scale, shift)
        return F.instance_norm(z, weight=scale, bias=shift)

    for b in range(4):
        z = x
        for i in range(3):
            z = normed(F.conv2d(z, w[f"blocks.{b}.convolutions.{i}.weight"], padding=1), f"blocks.{b}.norms.{i}")
            z = torch.maximum(z, 0.1 * z) if i < 2 else z
        z = z + normed(F.conv2d(x, w[f"blocks.{b}.shortcut.weight"]), f"blocks.{b}.shortcut_norm")
        x = F.max_pool2d(torch.maximum(z, 0.1 * z), 2)
    z = x.mean((2, 3)) if readout == "mean" else x.flatten(1)
    return z @ w["head.weight"].T + w["head.bias"]


@pytest.mark.parametrize("norm", ["batch", "instance", "layer", "none"])
@pytest.mark.parametrize("readout", ["mean", "flatten"])
def test_forward_is_an_independent_composition(norm: str, readout: str) -> None:
    torch.manual_seed(0)
    model = SMALL((2, 33, 35), 4, norm=norm, readout=readout).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    x = torch.randn(5, 2, 33, 35).double()
    wanted = independent(dict(model.named_parameters()), x, norm, readout)
    for native in (False, True):
        prepare(model, native)
        assert (model(x) - wanted).abs().max() < 1e-12


def test_parameters() -> None:
    """12,424,320 in the body of Lee and others; weights of convolutions have their standard deviation."""
    torch.manual_seed(0)
    model = ResNet12((3, 84, 84), 5)
    body = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("head"))
    widths = [(3, 64), (64, 160), (160, 320), (320, 640)]
    assert body == sum(9 * i * o + 18 * o * o + i * o + 8 * o for i, o in widths) == 12_424_320
    assert model.head.in_features == 640
    assert ResNet12((3, 84, 84), 5, channels=[2, 2, 2, 2], readout="flatten").head.in_features == 2 * 25
    weight = model.blocks[1].convolutions[2].weight
    assert abs(float(weight.detach().std()) / (2 / 1.0001 / (160 * 9)) ** 0.5 - 1) < 0.01
    assert abs(float(model.blocks[3].shortcut.weight.detach().std()) / (2 / 1.0001 / 640) ** 0.5 - 1) < 0.01


def test_contract() -> None:
    for norm in ("instance", "layer", "none"):
        check_model(partial(SMALL, norm=norm), (2, 33, 32))


def test_gradients_are_equal_under_vmap_loop_and_compile() -> None:
    """Second-order, of a step of gradient descent, against autograd through the independent composition."""
    torch.manual_seed(0)
    model = adopt(SMALL((1, 16, 16), 3).double())
    w = {name: p.detach() for name, p in model.named_parameters()}
    x, y = torch.randn(2, 6, 1, 16, 16).double(), torch.randn(2, 6, 3).double()

    def second(forward, w, x, y):
        def loss(w):
            return ((forward(w, x) - y) ** 2).mean()

        def after(w):
            gradient = grad(loss)(w)
            return loss({name: p - 0.1 * gradient[name] for name, p in w.items()})

        return grad(after)(w)

    def ours(w, x):
        return functional_call(model, w, (x,))

    wanted = [second(lambda w, x: independent(w, x, "batch", "mean"), w, x[i], y[i]) for i in range(2)]
    prepare(model, False)
    mapped = vmap(partial(second, ours), (None, 0, 0))(w, x, y)
    prepare(model, True)
    looped = [second(ours, w, x[i], y[i]) for i in range(2)]
    for name in w:
        for i in range(2):
            scale = wanted[i][name].abs().max() + 1e-9
            assert (mapped[name][i] - wanted[i][name]).abs().max() / scale < 1e-9, name
            assert (looped[i][name] - wanted[i][name]).abs().max() / scale < 1e-9, name


@pytest.mark.parametrize("mode", ["queries", "single", "support"])
def test_modes_of_normalisation(mode: str) -> None:
    torch.manual_seed(0)
    model = SMALL((1, 16, 16), 3).double()
    support, x = torch.randn(4, 1, 16, 16).double(), torch.randn(3, 1, 16, 16).double()
    found = in_mode(mode, model, model, support, x)
    w = dict(model.named_parameters())
    if mode == "queries":
        assert (found - independent(w, x, "batch", "mean")).abs().max() < 1e-12
    if mode == "single":
        alone = [independent(w, torch.cat((support, x[i : i + 1])), "batch", "mean")[-1] for i in range(3)]
        assert (found - torch.stack(alone)).abs().max() < 1e-12
    if mode == "support":  # a query's result does not depend on the other queries
        assert (found[1:2] - in_mode(mode, model, model, support, x[1:2])).abs().max() < 1e-12


def test_a_learner_in_every_mode() -> None:
    learner = ProtoNet(pictures(side=16), SMALL).double()
    scores = evaluate(learner, "val", 3, ["queries", "single", "support"])
    assert all(values.shape[0] == 3 for values in scores.arrays.values())


@pytest.mark.tier("long")  # compiling takes minutes
@pytest.mark.parametrize("drop", [0.0, 0.3])
def test_a_compiled_step_is_the_eager_one(tmp_path: Path, drop: float) -> None:
    for i in range(12):
        for j in range(4):
            path = tmp_path / str(i) / f"{j}.png"
            path.parent.mkdir(exist_ok=True)
            pixels = np.random.default_rng(4 * i + j).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    found = []
    for compile in ("true", "false"):
        typed = ["algo=maml", "task=images", f"task.root={tmp_path}", "task.size=16", "task.ways=2", "task.queries=2"]
        typed += [
            "model=resnet12",
            "model.channels=[2,3,2,3]",
            f"model.drop_rate={drop}",
            "model.drop_steps=2",
            "meta_batch=2",
            "device=cpu",
            "device.precision=64-true",
        ]
        parts = Experiment(load([*typed, "cache=off", "steps=3", f"compile={compile}"]))
        assert parts.training.compiled == (compile == "true")
        assert parts.training.run(Span(0, 3)) == 3
        found.append({name: p.detach().clone() for name, p in parts.learner.named_parameters()})
    for name, value in found[0].items():
        assert (value - found[1][name]).abs().max() < 1e-9, name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNet12((4,), 1), "x_shape=(4,): resnet12 needs pictures"),
        (lambda: ResNet12((1, 15, 28), 1), "x_shape=(1, 15, 28): too small for four halvings; at least 16 x 16"),
        (lambda: ResNet12((1, 16, 16), 1, channels=[1, 2, 3]), "channels=[1, 2, 3]: must be four numbers"),
        (lambda: ResNet12((1, 16, 16), 1, channels=[1, 2, 3, 0]), "channels=[1, 2, 3, 0]: each must be at least 1"),
        (lambda: ResNet12((1, 16, 16), 1, readout="max"), "readout=max: must be mean | flatten"),
    ],
)
def test_refusals(make, message) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value).startswith(message)
