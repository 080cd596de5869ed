"""Pictures from folders: right pixels in every format, splits, damage, augmentation from the task's key."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metaexp.errors import DataError
from metaexp.random import fold
from metaexp.system import cache
from metaexp.system.cache import Cache
from metaexp.tasks.data.augment import augment
from metaexp.tasks.data.pictures import decode, find, read
from metaexp.tasks.images import Images


@pytest.fixture(autouse=True)
def _no_cache():
    cache.choose("off")
    yield
    cache.choose(None)


def tree(root: Path, classes: int = 6, each: int = 3, size: tuple[int, int] = (9, 7)) -> Path:
    """Class i has pictures of the colour (i, 10 i, 100) plus the number of the picture, under names with umlauts."""
    for i in range(classes):
        folder = root / f"Kl\xe4sse {i}"
        folder.mkdir(parents=True)
        for j in range(each):
            Image.new("RGB", size, (i, 10 * i, 100 + j)).save(folder / f"b\xefld {j}.png")
    return root


def test_pixels_of_every_mode(tmp_path: Path) -> None:
    ramp = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
    deep = ramp.astype(np.uint16) * 257  # 16 bits: the same grey values
    cases = {
        "L": Image.fromarray(ramp),
        "I;16": Image.fromarray(deep),
        "I": Image.fromarray(deep.astype(np.int32)),
        "RGB": Image.merge("RGB", [Image.fromarray(ramp)] * 3),
        "RGBA": Image.merge("RGBA", [Image.fromarray(ramp)] * 3 + [Image.new("L", (4, 4), 255)]),
        "LA": Image.merge("LA", [Image.fromarray(ramp), Image.new("L", (4, 4), 255)]),
        "P": Image.fromarray(ramp).convert("P"),
    }
    for name, image in cases.items():
        path = tmp_path / f"{name.replace(';', '')}.{'tiff' if name == 'I' else 'png'}"
        image.save(path)
        for channels in (1, 3):
            np.testing.assert_array_equal(decode(path, 4, "crop", channels), np.stack([ramp] * channels), err_msg=name)
    Image.fromarray(ramp.astype(np.float32) / 255).save(tmp_path / "f.tiff")
    np.testing.assert_array_equal(decode(tmp_path / "f.tiff", 4, "crop", 1)[0], ramp)
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert decode(tmp_path / "clear.png", 4, "crop", 3).min() == 255  # transparent is white
    Image.fromarray(ramp > 100).save(tmp_path / "one.png")
    np.testing.assert_array_equal(decode(tmp_path / "one.png", 4, "crop", 1)[0], (ramp > 100) * 255)


def test_fits(tmp_path: Path) -> None:
    wide = np.zeros((4, 8), np.uint8)
    wide[:, 2:6] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (decode(tmp_path / "wide.png", 4, "crop", 1) == 200).all()
    padded = decode(tmp_path / "wide.png", 8, "pad", 1)[0]
    assert (padded[:2] == 0).all()
    assert (padded[6:] == 0).all()
    np.testing.assert_array_equal(padded[2:6], wide)
    assert decode(tmp_path / "wide.png", 4, "stretch", 1).shape == (1, 4, 4)


def test_damage_names_the_file(tmp_path: Path) -> None:
    Image.new("RGB", (30, 30), (1, 2, 3)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    Image.effect_noise((60, 60), 50).save(tmp_path / "noise.jpg")
    noise = (tmp_path / "noise.jpg").read_bytes()
    bomb = whole[:16] + (60_000).to_bytes(4, "big") * 2 + whole[24:]
    for name, content in {
        "empty.png": b"", "text.png": b"not a picture", "cut.jpg": noise[: len(noise) // 2], "bomb.png": bomb,
        "cut.png": whole[:40], "header.png": whole[:8], "swapped.png": whole[:50] + b"\xff\xff" + whole[52:],
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            DataError, match=rf"{name}: not a readable picture \(.*\); mend it, or task.unreadable=skip"
        ) as error:
            decode(tmp_path / name, 8, "crop", 3)
        assert "\n" not in str(error.value)


def test_folders_and_their_splits(tmp_path: Path) -> None:
    family = Images(str(tree(tmp_path / "plain")), size=4, ways=2, shots=1, queries=1, split=[0.4, 0.3, 0.3])
    assert family.names == [f"Kl\xe4sse {i}" for i in range(6)]
    episode = family.sample("train", torch.arange(10))
    blue = (episode.query.x[:, :, 2] * 255).round()
    classes = episode.info["classes"]
    for task in range(10):
        for row in range(2):
            number = int(classes[task, row])
            assert torch.equal((episode.support.x[task, row, 1] * 255).round(), torch.full((4, 4), 10.0 * number))
    assert set(blue.unique().tolist()) <= {100.0, 101.0, 102.0}
    for split, numbers in (("train", (0, 1)), ("val", (2, 3)), ("test", (4, 5))):
        for i in numbers:
            (tmp_path / "parts" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / "plain" / f"Kl\xe4sse {i}").rename(tmp_path / "parts" / split / f"Kl\xe4sse {i}")
    family = Images(str(tmp_path / "parts"), size=4, ways=2, shots=1, queries=1)
    assert {split: members.tolist() for split, members in family.splits.items()} == {
        "train": [0, 1],
        "val": [2, 3],
        "test": [4, 5],
    }


def test_lists(tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    for i in range(12):
        Image.new("L", (4, 4), 20 * i).save(root / f"{i}.jpg")
    for split, numbers in (("train", range(4)), ("val", range(4, 8)), ("test", range(8, 12))):
        rows = [f"{i}.jpg,{split}{i % 2}" for i in numbers]
        (tmp_path / f"{split}.csv").write_text("\n".join(["filename,label", *rows]))
    family = Images(
        str(tmp_path), lists=["train.csv", "val.csv", "test.csv"], channels=1, size=4, ways=2, shots=1, queries=1
    )
    assert family.names == ["test0", "test1", "train0", "train1", "val0", "val1"]
    assert family.splits["val"].tolist() == [4, 5]
    (tmp_path / "train.csv").write_text("filename,label\nmissing.jpg,a\n")
    with pytest.raises(DataError, match=r"train.csv: line 2: no file .*missing.jpg"):
        find(tmp_path, ["train.csv"])


def test_unreadable_files_are_listed_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tree(tmp_path)
    bad = root / "Kl\xe4sse 2" / "b\xefld 1.png"
    bad.write_bytes(b"")
    sizes = {"size": 4, "ways": 2, "shots": 1, "queries": 1, "split": [0.4, 0.3, 0.3]}
    with pytest.raises(DataError, match=r"b\xefld 1[.]png: not a readable picture"):
        Images(str(root), **sizes)
    with caplog.at_level("INFO", "metaexp"):
        family = Images(str(root), unreadable="skip", **sizes)
    assert family.counts.tolist() == [3, 3, 2, 3, 3, 3]
    assert caplog.messages == [f"left out, cannot be read: {bad}", "1 of 18 pictures left out (task.unreadable=skip)"]
    for problem, message in ((tmp_path / "none", "no such folder"), (tmp_path / "empty", "no pictures")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=message):
            Images(str(problem), **sizes)


def test_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, _ = find(tree(tmp_path / "tree"))
    first, _ = read(pictures, 4, "crop", 3, False, Cache(tmp_path / "cache"))
    monkeypatch.setattr("metaexp.tasks.data.pictures.decode", None)
    again, bad = read(pictures, 4, "crop", 3, False, Cache(tmp_path / "cache"))
    np.testing.assert_array_equal(first, again)
    assert (again.shape, bad) == ((18, 3, 4, 4), [])
    Image.new("RGB", (9, 7), (9, 9, 9)).save(pictures[0].path)
    with pytest.raises(TypeError):  # a changed file is decoded again
        read(find(tmp_path / "tree")[0], 4, "crop", 3, False, Cache(tmp_path / "cache"))


def test_augmentation_is_a_function_of_the_key() -> None:
    x = torch.rand(200, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    keys = fold(torch.arange(200), 5)
    made = augment(x, keys, ("crop", "flip", "colour"))
    assert torch.equal(made[7:9], augment(x[7:9], keys[7:9], ("crop", "flip", "colour")))
    flipped = augment(x, keys, ("flip",))
    mirrored = (flipped == x.flip(-1)).flatten(1).all(1)
    assert torch.equal(mirrored | (flipped == x).flatten(1).all(1), torch.ones(200, dtype=torch.bool))
    assert 70 < int(mirrored.sum()) < 130
    cropped = augment(x, keys, ("crop",))
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="reflect")
    places = [
        [(d, r) for d in range(5) for r in range(5) if torch.equal(cropped[i], padded[i, :, d : d + 16, r : r + 16])]
        for i in range(200)
    ]
    assert all(len(found) == 1 for found in places)
    assert len({found[0] for found in places}) == 25
    assert made.min() >= 0
    assert made.max() <= 1


def test_only_training_pictures_change(tmp_path: Path) -> None:
    root = str(tree(tmp_path, size=(16, 16)))
    sizes = {"size": 16, "ways": 2, "shots": 1, "queries": 1, "split": [0.4, 0.3, 0.3]}
    plain, changed = Images(root, **sizes), Images(root, augment=["colour"], **sizes)
    for split in ("val", "test"):
        assert torch.equal(plain.sample(split, torch.arange(5)).query.x, changed.sample(split, torch.arange(5)).query.x)
    one, other = (family.sample("train", torch.arange(5)) for family in (plain, changed))
    assert not torch.equal(one.query.x, other.query.x)
    assert torch.equal(one.query.y, other.query.y)
    assert torch.equal(other.query.x[3], changed.sample("train", torch.tensor([3])).query.x[0])
    with pytest.raises(ValueError, match=r"augment=\['flip'\]: encoded pictures do not change"):
        Images(root, augment=["flip"], encoder=object(), **sizes)
