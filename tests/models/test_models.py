"""Networks: shapes, gradients, sizes, initial weights, and what they refuse."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from metaexp.contract import check_model
from metaexp.models.cnn4 import CNN4
from metaexp.models.linear import Linear
from metaexp.models.mlp import MLP


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("make", "x_shape"),
    [
        (Linear, (4,)),
        (partial(Linear, bias=False), (1, 3, 3)),
        (MLP, (2,)),
        (partial(MLP, hidden=[8], activation="tanh"), (1, 4, 4)),
        (partial(MLP, hidden=[], init_std=0.1), (3,)),
        *(
            (partial(CNN4, filters=4, down=down, readout=readout, norm=norm), (2, 17, 20))
            for down in ("stride", "pool")
            for readout in ("mean", "flatten")
            for norm in ("instance", "layer", "none")
        ),
    ],
)
def test_contract(make, x_shape):
    check_model(make, x_shape)


@pytest.mark.parametrize("down", ["stride", "pool"])
def test_a_batch_norm_takes_the_convolutions_biases_away(down):
    """So their gradient is 0; every other parameter has one."""
    torch.manual_seed(0)
    model = CNN4((1, 20, 20), 3, filters=4, down=down).double()
    (model(torch.randn(6, 1, 20, 20).double()) * torch.randn(6, 3)).sum().backward()
    for name, p in model.named_parameters():
        biases = name.startswith("convolutions") and name.endswith("bias")
        assert bool(p.grad.abs().max() < 1e-12) == biases


def test_sizes_of_the_papers_networks():
    assert parameters(MLP((1,), 1)) == 1761  # 1-40-40-1: MAML's sine network
    assert parameters(MLP((1, 28, 28), 5, hidden=[64])) == 784 * 64 + 64 + 64 * 5 + 5
    assert parameters(MLP((10,), 1, hidden=[128])) == 10 * 128 + 128 + 128 + 1
    blocks = 9 * 64 + 64 + 3 * (9 * 64 * 64 + 64) + 4 * 2 * 64
    assert parameters(CNN4((1, 28, 28), 5)) == blocks + 64 * 5 + 5  # MAML's: the mean over the last map
    assert parameters(CNN4((1, 28, 28), 5, readout="flatten")) == blocks + 2 * 2 * 64 * 5 + 5  # Reptile's
    assert parameters(CNN4((1, 28, 28), 5, down="pool", readout="flatten")) == blocks + 64 * 5 + 5
    assert parameters(Linear((2,), 1)) == 3
    assert parameters(Linear((2,), 1, bias=False)) == 2


def test_mlp_is_what_its_weights_say():
    torch.manual_seed(0)
    model = MLP((2, 3), 4, hidden=[5, 7], activation="tanh").double()
    x = torch.randn(9, 2, 3).double()
    w = dict(model.named_parameters())
    z = torch.tanh(x.reshape(9, 6) @ w["body.0.weight"].T + w["body.0.bias"])
    z = torch.tanh(z @ w["body.1.weight"].T + w["body.1.bias"])
    assert (model.features(x) - z).abs().max() < 1e-14
    assert (model(x) - (z @ w["head.weight"].T + w["head.bias"])).abs().max() < 1e-14


@pytest.mark.parametrize("down", ["stride", "pool"])
@pytest.mark.parametrize("readout", ["mean", "flatten"])
@pytest.mark.parametrize("norm", ["batch", "instance", "layer", "none"])
def test_cnn4_is_what_its_weights_say(down, readout, norm):
    torch.manual_seed(0)
    model = CNN4((1, 21, 21), 3, filters=4, down=down, readout=readout, norm=norm).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    w = dict(model.named_parameters())
    z = x = torch.randn(6, 1, 21, 21).double()
    for i in range(4):
        z = F.conv2d(z, w[f"convolutions.{i}.weight"], w[f"convolutions.{i}.bias"], 2 if down == "stride" else 1, 1)
        if norm != "none":
            scale, shift = w[f"norms.{i}.weight"], w[f"norms.{i}.bias"]
            if norm == "batch":
                z = F.batch_norm(z, None, None, scale, shift, True)
            elif norm == "instance":
                z = (z - z.mean((2, 3), True)) / (z.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
                z = z * scale.view(1, 4, 1, 1) + shift.view(1, 4, 1, 1)
            else:
                z = F.group_norm(z, 1, scale, shift)
        z = F.relu(z)
        if down == "pool":
            z = F.max_pool2d(z, 2)
    z = z.mean((2, 3)) if readout == "mean" else z.flatten(1)
    assert (model(x) - (z @ w["head.weight"].T + w["head.bias"])).abs().max() < 1e-12


def test_initial_weights():
    torch.manual_seed(0)
    model = MLP((1,), 1, hidden=[300, 300], init_std=0.01)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert not p.any()
        else:
            assert p.abs().max() <= 0.02
    middle = dict(model.named_parameters())["body.1.weight"]
    assert (
        abs(float(middle.detach().std()) - 0.01 * 0.8796) < 2e-4
    )  # standard deviation of a normal cut at two of its own


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP((1,), 1, hidden=[4, 0]), "hidden=[4, 0]: each must be at least 1"),
        (lambda: MLP((1,), 1, activation="rellu"), "activation=rellu: "),
        (lambda: MLP((1,), 1, init_std=-1.0), "init_std=-1.0: must be above 0"),
        (lambda: MLP((1,), 1, init_std=0.0), "init_std=0.0: must be above 0"),
        (lambda: CNN4((4,), 1), "x_shape=(4,): cnn4 needs pictures"),
        (lambda: CNN4((1, 15, 28), 1, down="pool"), "x_shape=(1, 15, 28): too small for four halvings"),
        (lambda: CNN4((1, 28, 28), 1, down="both"), "down=both: must be stride | pool"),
        (lambda: CNN4((1, 28, 28), 1, readout="max"), "readout=max: must be mean | flatten"),
        (lambda: CNN4((1, 28, 28), 1, norm="group"), "norm=group: must be batch | instance | layer | none"),
        (lambda: CNN4((1, 16, 16), 1, norm="instance"), "norm=instance: x_shape=(1, 16, 16) ends in maps of one pixel"),
        (lambda: CNN4((1, 28, 28), 1, filters=0), "filters=0: must be at least 1"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value).startswith(message)


def test_cnn4_takes_any_picture_with_strides():
    assert CNN4((1, 1, 1), 2, filters=2)(torch.zeros(3, 1, 1, 1)).shape == (3, 2)
