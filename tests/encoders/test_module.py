"""A network of the user's own as encoder: right features, frozen, weights from a file, and every wrong file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from metaexp.encoders.module import Module
from metaexp.errors import DataError


class Net(nn.Module):
    """Two features of a picture, and a head that an encoder leaves out."""

    def __init__(self, channels: int = 3):
        super().__init__()
        torch.manual_seed(1)
        self.body, self.norm, self.head = nn.Conv2d(channels, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 5)

    def features(self, x):
        return torch.relu(self.norm(self.body(x)))

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


PIXELS = np.random.default_rng(0).integers(0, 256, (7, 3, 6, 6)).astype(np.uint8)


def test_features_are_the_networks_own_in_evaluation_mode() -> None:
    net = Net()
    net.train()
    made = Module(net, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4], batch=2).encode(PIXELS)
    x = (torch.from_numpy(PIXELS) / 255 - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.2, 0.3, 0.4]
    ).view(3, 1, 1)
    with torch.no_grad():
        wanted = net.eval().features(x).mean((2, 3))
    np.testing.assert_allclose(made, wanted.numpy(), atol=1e-6)
    assert not any(p.requires_grad for p in net.parameters())
    assert int(net.norm.num_batches_tracked) == 0


def test_settings_follow_weights_and_units(tmp_path: Path) -> None:
    first = Module(Net()).settings()
    assert Module(Net()).settings() == first
    other = Net()
    with torch.no_grad():
        other.body.bias[0] += 1e-6
    assert Module(other).settings() != first
    assert Module(Net(), mean=[0.1]).settings() != first
    assert Module(Net(), size=8).settings() != first
    torch.save(other.state_dict(), tmp_path / "net.pt")
    loaded = Module(Net(), weights=str(tmp_path / "net.pt"))
    assert loaded.settings() == Module(other).settings()
    torch.save({"state_dict": other.state_dict(), "epoch": 3}, tmp_path / "checkpoint.pt")
    assert Module(Net(), weights=str(tmp_path / "checkpoint.pt")).settings() == loaded.settings()


class Bent(Net):
    """The same weights, used differently: its text and weights are those of Net."""

    def features(self, x):
        return torch.tanh(self.norm(self.body(x)))

    def _get_name(self):
        return "Net"


def test_settings_follow_the_code() -> None:
    one, other = Module(Net()), Module(Bent())
    assert str(one.network) == str(other.network)
    assert one.settings()["weights"] == other.settings()["weights"]
    assert not np.allclose(one.encode(PIXELS), other.encode(PIXELS))
    assert one.settings() != other.settings()


def test_wrong_files_are_one_line(tmp_path: Path) -> None:
    files = {
        "none.pt": (None, "no such file"),
        "text.pt": (b"not weights", "holds more than a state dict, or is damaged|cannot be read"),
        "empty.pt": (b"", "cannot be read"),
    }
    torch.save(Net(1).state_dict(), tmp_path / "narrow.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(Net(), tmp_path / "pickled.pt")  # the whole object: code, not data
    for name, (content, _) in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    wanted = {name: message for name, (_, message) in files.items()} | {
        "narrow.pt": "does not fit the network: size mismatch for body.weight",
        "list.pt": "is not a state dict, name -> tensor",
        "pickled.pt": "holds more than a state dict",
    }
    for name, message in wanted.items():
        with pytest.raises(DataError, match=rf"^encoder.weights=.*{name}: .*({message})") as error:
            Module(Net(), weights=str(tmp_path / name)).network  # noqa: B018
        assert "\n" not in str(error.value)


def test_wrong_networks_are_one_line() -> None:
    with pytest.raises(ValueError, match="module=null: name your network"):
        Module(None)
    with pytest.raises(ValueError, match=r"std=\[0.0\]: must be numbers above 0"):
        Module(Net(), std=[0.0])
    with pytest.raises(DataError, match=r"the network does not take pictures \[3, 6, 6\]"):
        Module(Net(1)).encode(PIXELS)

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(DataError, match="the network gives tuple; it must give one vector per picture"):
        Module(Pair()).encode(PIXELS)
