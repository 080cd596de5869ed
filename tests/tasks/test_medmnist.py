"""MedMNIST: which pictures an episode holds, several sets, sizes and colours, damage, and the download."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metaexp.contract import check_family
from metaexp.errors import DataError
from metaexp.tasks.data import medmnist as files
from metaexp.tasks.medmnist import MedMNIST

SPLITS = ("train", "val", "test")
COUNTS = {"train": 9, "val": 5, "test": 6}  # pictures of each class


def write(root: Path, name: str, side: int = 28, **changes: Any) -> Path:
    """A tiny set: the first row of a picture says what it is (split, label, number), the rest is a ramp."""
    known, arrays, draw = files.SETS[name], {}, np.random.default_rng(1)
    for s, (split, count) in enumerate(COUNTS.items()):
        labels = draw.permutation(np.repeat(np.arange(len(known.labels)), count))
        shape = (len(labels), side, side, *((3,) if known.channels == 3 else ()))
        pixels = np.broadcast_to(
            np.arange(side, dtype=np.uint8)[None, :, None, *([None] * (known.channels == 3))], shape
        )
        pixels = pixels.copy()
        for i, label in enumerate(labels):
            pixels[i, 0, 0], pixels[i, 0, 1], pixels[i, 0, 2] = s, label, (labels[:i] == label).sum()
        arrays |= {f"{split}_images": pixels, f"{split}_labels": labels[:, None].astype(np.uint8)}
    path = root / (f"{name}.npz" if side == 28 else f"{name}_{side}.npz")
    np.savez_compressed(path, **(arrays | changes))
    return path


def decoded(x: torch.Tensor) -> np.ndarray:
    """(split, label, number) of each picture [..., channels, side, side]."""
    return (x[..., 0, 0, :3] * 255).round().long().numpy()


def test_support_of_training_pictures_queries_of_the_splits_own(tmp_path: Path) -> None:
    write(tmp_path, "pneumoniamnist")
    family = MedMNIST(str(tmp_path), shots=3, queries=4)
    assert family.protocol["new_classes"] is False
    assert family.protocol["official_files"] is False
    for s, split in enumerate(SPLITS):
        episode = family.sample(split, torch.arange(40))
        support, query = decoded(episode.support.x), decoded(episode.query.x)  # [40, ways x shots, 3]
        assert (support[..., 0] == 0).all()
        assert (query[..., 0] == s).all()
        for part, x in ((episode.support, support), (episode.query, query)):
            label = np.take_along_axis(x[..., 1].reshape(40, 2, -1)[..., 0], part.y.argmax(-1).numpy(), 1)
            assert (label == x[..., 1]).all()  # one class each, as its target says
        assert {tuple(row) for row in support[:, ::3, 1].tolist()} == {(0, 1), (1, 0)}  # labels are shuffled
        assert set(query[..., 2].flatten().tolist()) == set(range(COUNTS[split]))
        if split == "train":
            both = np.concatenate([support, query], 1)
            assert all(len({tuple(row) for row in task.tolist()}) == 14 for task in both)  # disjoint
    # The largest sizes that there are: 9 training pictures, and 5 for validation.
    episode = family.sample("test", torch.arange(5), shots=9, queries=6)
    assert sorted(decoded(episode.support.x)[0][:9, 2].tolist()) == list(range(9))
    with pytest.raises(ValueError, match=r"queries=6: more than the 5 examples there are for these in split .val."):
        MedMNIST(str(tmp_path), shots=3, queries=6)
    with pytest.raises(ValueError, match=r"test.shots=10: more than the 9 examples there are for these"):
        MedMNIST(str(tmp_path), queries=2, test={"shots": 10})


def test_contract(tmp_path: Path) -> None:
    write(tmp_path, "breastmnist")
    check_family(MedMNIST(str(tmp_path), set="breastmnist", shots=2, queries=3))


def test_an_episode_is_of_one_set(tmp_path: Path) -> None:
    for name in ("pneumoniamnist", "octmnist", "bloodmnist"):
        write(tmp_path, name)
    sets = {"train": ["octmnist", "bloodmnist"], "val": "octmnist"}
    family = MedMNIST(str(tmp_path), sets=sets, shots=1, queries=2, ways=2)
    assert (family.count("train"), family.count("val"), family.count("test")) == (12, 4, 2)
    assert family.protocol["new_classes"] is True
    classes = family.sample("train", torch.arange(2000)).info["classes"]
    names = [[family.names[c].split("/")[0] for c in row] for row in classes.tolist()]
    assert all(len(set(row)) == 1 for row in names)
    first = [row[0] for row in names]
    assert abs(first.count("octmnist") - 1000) < 4 * 22.4  # each set as often
    chosen = classes[[name == "bloodmnist" for name in first]].flatten().bincount(minlength=9)
    assert chosen[8:].sum() == 0
    expected = chosen.sum() / 8
    assert ((chosen[:8] - expected) ** 2 / expected).sum() < 7 + 4 * 14**0.5  # and each of its classes
    # A set with too few classes for an episode gives none.
    family = MedMNIST(str(tmp_path), set=["pneumoniamnist", "octmnist"], shots=1, queries=2, ways=3)
    used = family.sample("test", torch.arange(50)).info["classes"].flatten().tolist()
    assert {family.names[c].split("/")[0] for c in used} == {"octmnist"}
    with pytest.raises(ValueError, match='ways=5: split "train" has at most, in one group, 4 classes'):
        MedMNIST(str(tmp_path), set=["pneumoniamnist", "octmnist"], queries=2, ways=5)
    with pytest.raises(ValueError, match="rotation=as_classes"):
        MedMNIST(str(tmp_path), queries=2, rotation="as_classes")


def test_sizes_and_colours_are_pils(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    colour = draw.integers(0, 256, (45, 28, 28, 3), dtype=np.uint8)
    write(tmp_path, "retinamnist", train_images=colour)
    labels = np.load(tmp_path / "retinamnist.npz")["train_labels"].ravel()
    order = np.argsort(labels, kind="stable")
    small = MedMNIST(str(tmp_path), set="retinamnist", size=20, channels=1, queries=2)
    same = MedMNIST(str(tmp_path), set="retinamnist", channels=3, queries=2)
    for row, i in enumerate(order):
        image = Image.fromarray(colour[i])
        assert np.array_equal(small.data[row, 0], image.convert("L").resize((20, 20), Image.Resampling.LANCZOS))
        assert np.array_equal(same.data[row].permute(1, 2, 0), colour[i])
    write(tmp_path, "breastmnist")
    grey = MedMNIST(str(tmp_path), set="breastmnist", channels=3, queries=2)
    assert torch.equal(grey.data[:, 0], grey.data[:, 2])
    # The file with the fewest pixels that are enough.
    write(tmp_path, "breastmnist", side=64)
    assert files.locate(tmp_path, "breastmnist", 28, False).side == 28
    assert files.locate(tmp_path, "breastmnist", 29, False).side == 64
    assert files.locate(tmp_path, "breastmnist", 100, False).side == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"val_images": np.zeros((10, 27, 28), np.uint8)},
            r"val_images is uint8 \[10, 27, 28\], expected uint8 \[n, 28",
        ),
        ({"test_images": np.zeros((12, 28, 28))}, r"test_images is float64 \[12, 28, 28\]"),
        (
            {"train_labels": np.zeros((17, 1), int)},
            r"train_labels is int64 \[17, 1\], expected whole numbers \[18, 1\]",
        ),
        ({"train_labels": np.full((18, 1), 2)}, r"train_labels\[0\] is 2; pneumoniamnist has 2 classes"),
        ({"train_labels": np.zeros((18, 1), int)}, r"train_labels has no 1 \(pneumonia\)"),
        ({"train_labels": np.array([{}] * 18, dtype=object)}, "Object arrays cannot be loaded"),
    ],
)
def test_a_file_of_another_form(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    path = write(tmp_path, "pneumoniamnist", **changes)
    with pytest.raises(DataError, match=message) as caught:
        MedMNIST(str(tmp_path), queries=2)
    assert str(caught.value).startswith(str(path))


def test_damage_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "pneumoniamnist")
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:300] + bytes(200) + whole[500:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"pneumoniamnist.npz: damaged or no npz of arrays"):
            MedMNIST(str(tmp_path), queries=2)
    path.write_bytes(whole)
    monkeypatch.setattr(files, "memory_limit", lambda: 5000)
    with pytest.raises(DataError, match=r"train_images takes 0.0 GB of memory, more than there is"):
        MedMNIST(str(tmp_path), queries=2)
    for name, message in (("pneumonia", "did you mean pneumoniamnist"), ("chestmnist", "several labels"),
                          ("organmnist3d", "three dimensions")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            MedMNIST(str(tmp_path), set=name)
    with pytest.raises(
        DataError, match=r"octmnist.npz: no such file; task.download=true fetches it, or put there http"
    ):
        MedMNIST(str(tmp_path), set="octmnist")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{service.server_address[1]}", folder
        service.shutdown()
        thread.join()


def test_download(server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, folder = server
    content = write(folder, "breastmnist").read_bytes()
    monkeypatch.setattr(files, "SOURCE", address)
    root = tmp_path / "new" / "medmnist"
    with pytest.raises(DataError, match=r"download failed \(its md5 is .*put that file at .*breastmnist.npz by hand"):
        MedMNIST(str(root), set="breastmnist", queries=2, download=True)
    assert not list(root.iterdir())
    md5 = hashlib.md5(content).hexdigest()
    monkeypatch.setitem(files.SETS, "breastmnist", files.SETS["breastmnist"]._replace(md5=(md5, *[""] * 3)))
    family = MedMNIST(str(root), set="breastmnist", queries=2, download=True)
    assert family.protocol["official_files"] is True
    assert [path.name for path in root.iterdir()] == ["breastmnist.npz"]
    monkeypatch.setattr(files, "SOURCE", "http://127.0.0.1:9")  # not asked again
    MedMNIST(str(root), set="breastmnist", queries=2, download=True)


def test_the_real_files(data_folder: Path) -> None:
    family = MedMNIST(str(data_folder / "medmnist"), set="pneumoniamnist")
    assert family.counts.tolist() == [1214, 3494, 135, 389, 234, 390]
    family = MedMNIST(str(data_folder / "medmnist"), set="breastmnist", test={"shots": 20})
    assert family.sample("test", torch.arange(3)).support.x.shape == (3, 40, 1, 28, 28)
