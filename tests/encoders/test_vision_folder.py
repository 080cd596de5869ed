"""A folder of pictures through a frozen backbone: vectors, cache, raw pictures, other folders, changed weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import train

from metaexp.encoders.vision import Vision
from metaexp.errors import MetaexpError
from metaexp.estimator import load
from metaexp.evaluate import evaluate
from metaexp.run.restore import open_config, restore

SIZE = 24  # of the stored pictures; the networks see them at 32
BACKBONES = {"timm": "resnet18", "torchvision": "mobilenet_v3_small"}


def pictures(root: Path, classes: range, each: int = 6) -> Path:
    """One folder per class, a colour with noise; sizes, modes and formats differ, names have spaces and umlauts."""
    for c in classes:
        draw, folder = np.random.default_rng(c), root / f"Bäume {c:02}"
        folder.mkdir(parents=True)
        colour = draw.integers(40, 216, 3)
        for i in range(each):
            shape = (SIZE + 7 * (i % 3), SIZE + 5 * (i % 2), 3)
            image = Image.fromarray((colour + draw.integers(-30, 30, shape)).clip(0, 255).astype(np.uint8))
            mode = ("RGB", "L", "RGBA")[i % 3]
            image.convert(mode).save(folder / f"bild {i}.{('png', 'jpg', 'webp')[0 if mode == 'RGBA' else i % 2]}")
    return root


def weights(kind: str, file: Path) -> Path:
    """A file with random weights of the backbone."""
    torch.manual_seed(7)
    if kind == "timm":
        import timm

        network = timm.create_model(BACKBONES[kind], pretrained=False, num_classes=0)
    else:
        from torchvision import models

        network = models.get_model(BACKBONES[kind], weights=None)
    torch.save(network.state_dict(), file)
    return file


def told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


@pytest.mark.tier("encoders")
@pytest.mark.parametrize("kind", list(BACKBONES))
def test_a_folder_of_pictures_from_training_to_a_new_task(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(kind)
    monkeypatch.setenv("METAEXP_CACHE", str(tmp_path / "cache"))
    root, file = pictures(tmp_path / "trees", range(12)), weights(kind, tmp_path / "w.pt")
    encoder = [f"encoder={kind}", f"encoder.name={BACKBONES[kind]}", f"encoder.weights={file}", "encoder.size=32"]
    words = ["algo=protonet", "task=images", f"task.root={root}", f"task.size={SIZE}", "task.ways=2", "task.queries=2"]
    words += ["test.tasks=30", "test.curve_shots=[]", *encoder]
    folder = train(tmp_path / "out", *words)

    family: Any = restore(folder, open_config(folder)).parts.family
    pixels = torch.from_numpy(np.ascontiguousarray(family._pixels)).float() / 255
    x = torch.nn.functional.interpolate(pixels, (32, 32), mode="bilinear", antialias=True)
    network = family.encoder.network
    with torch.no_grad():
        mean, std = family.encoder.mean.view(3, 1, 1), family.encoder.std.view(3, 1, 1)
        features = network((x - mean) / std).double().numpy()
    members = np.isin(np.repeat(np.arange(12), 6), family.splits["train"].numpy())
    centre = features[members].mean(0)
    scale = np.sqrt(np.square(features[members] - centre).mean())
    assert np.allclose(family.data.numpy(), (features - centre) / scale, atol=2e-3)

    made = []
    monkeypatch.setattr(Vision, "encode", lambda self, examples: made.append(len(examples)))
    again = train(tmp_path / "again", *words)  # from the cache: no picture is encoded
    assert made == []
    assert told(again)["test"] == told(folder)["test"]
    monkeypatch.undo()
    monkeypatch.setenv("METAEXP_CACHE", str(tmp_path / "cache"))

    learner, spans = load(folder), family.starts.tolist()
    files = sorted((root / family.names[3]).iterdir())
    opened = [Image.open(one) for one in files]
    assert torch.allclose(
        learner._source.inputs(opened).float(), family.data[spans[3] : spans[3] + 6].float(), atol=2e-3
    )
    support = [Image.open(sorted((root / name).iterdir())[0]) for name in family.names[:2]]
    query = [Image.open(one) for name in family.names[:2] for one in sorted((root / name).iterdir())[1:]]
    assert set(learner.fit(support, ["a", "b"]).predict(query)) <= {"a", "b"}

    other = pictures(tmp_path / "other", range(50, 53))
    assert evaluate([f"run={folder}", "task=images", f"task.root={other}"]) == 0
    found = told(folder / "evaluations/1")["evaluation"]
    assert (found["mark"], found["seen"]["classes"]) == ("cross-domain", 0)
    moved = shutil.copytree(root, tmp_path / "moved")
    assert evaluate([f"run={folder}", f"task.root={moved}"]) == 0
    assert told(folder / "evaluations/2")["test"] == told(folder)["test"]
    capsys.readouterr()

    state = torch.load(file, weights_only=True)
    name = next(name for name, value in state.items() if value.dtype.is_floating_point)
    torch.save(state | {name: state[name] + 1}, file)
    with pytest.raises(MetaexpError, match="is not what this run was trained with, its weights changed since"):
        load(folder).fit(support, ["a", "b"])


@pytest.mark.tier("encoders")
@pytest.mark.parametrize("kind", list(BACKBONES))
def test_weights_that_do_not_fit_are_one_line(kind: str, tmp_path: Path) -> None:
    pytest.importorskip(kind)
    root, file = pictures(tmp_path / "trees", range(6)), tmp_path / "w.pt"
    torch.save({"nothing": torch.zeros(3)}, file)
    with pytest.raises(MetaexpError) as caught:
        train(tmp_path / "out", "algo=protonet", "task=images", f"task.root={root}", "task.ways=2", "task.queries=2",
              f"encoder={kind}", f"encoder.name={BACKBONES[kind]}", f"encoder.weights={file}", "cache=off")  # fmt: skip
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
