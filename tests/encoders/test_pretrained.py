"""Encoders of other packages, which the tier installs; weights are random, or those that a package ships."""

from pathlib import Path

import numpy as np
import pytest
import torch

from metaexp.errors import ConfigError, DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 1, 20, 20)).astype(np.uint8)


@pytest.mark.tier("encoders")
def test_sentences_of_one_meaning_are_near() -> None:
    pytest.importorskip("sentence_transformers")
    from metaexp.encoders.sentence import Sentence

    encoder = Sentence()
    texts = ["where is my card", "my card has not arrived yet", "play some jazz music"]
    made = encoder.encode(texts)
    assert made.shape == (3, 384)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    assert made[0] @ made[1] > 0.5 > made[0] @ made[2]
    np.testing.assert_allclose(Sentence(batch=1).encode(texts), encoder.encode(texts), atol=1e-5)
    assert Sentence().settings() == encoder.settings()


@pytest.mark.tier("encoders")
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_timm_gives_its_own_features(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    from metaexp.encoders.timm import Timm

    encoder = Timm(name, pretrained=False)
    made = encoder.encode(PIXELS)
    network = timm.create_model(name, num_classes=0).eval()
    network.load_state_dict(encoder.network.state_dict())
    mean, std = encoder.mean.view(3, 1, 1), encoder.std.view(3, 1, 1)
    x = torch.nn.functional.interpolate(
        torch.from_numpy(PIXELS).expand(-1, 3, -1, -1) / 255, (224, 224), mode="bilinear", antialias=True
    )
    with torch.no_grad():
        np.testing.assert_allclose(made, network((x - mean) / std).numpy(), atol=1e-5)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    assert Timm(name, weights=str(tmp_path / "w.pt")).settings() == encoder.settings()


@pytest.mark.tier("encoders")
def test_torchvision_leaves_out_the_classifier() -> None:
    pytest.importorskip("torchvision")
    from metaexp.encoders.torchvision import TorchVision

    for name, width in (("resnet18", 512), ("mobilenet_v3_small", 1024)):
        assert TorchVision(name, pretrained=False, size=64).encode(PIXELS).shape == (3, width)
    with pytest.raises(ConfigError, match=r"encoder.name=resnet: torchvision has no such classification network"):
        TorchVision("resnet")


@pytest.mark.tier("encoders")
def test_a_model_that_cannot_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers")
    from metaexp.encoders.sentence import Sentence

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match=r"encoder.name=nobody/nothing: no such folder, and not to be had"):
        Sentence("nobody/nothing")


@pytest.mark.tier("encoders")
def test_a_network_that_there_is_not_is_one_line() -> None:
    pytest.importorskip("timm")
    from metaexp.encoders.timm import Timm

    with pytest.raises(ConfigError, match=r"encoder.name=resnet_18: timm has no such network"):
        Timm("resnet_18")


def test_a_missing_package_names_the_extra() -> None:
    from metaexp.encoders.weights import need

    with pytest.raises(
        ConfigError, match=r"encoder=x: the package not-there is not installed; pip install 'metaexp\[text\]'"
    ):
        need("not_there", "x", "text")
