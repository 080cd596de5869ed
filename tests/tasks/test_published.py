"""Published picture sets in their authors' layouts: which file is in which class and split, and what is refused."""

import csv
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metaexp.config.settings import load
from metaexp.errors import DataError
from metaexp.system import cache
from metaexp.tasks.data import published
from metaexp.tasks.data.published import find_published, read_list, tiered_lists
from metaexp.tasks.images import Images

# Of the classes in the order of the authors' train.csv, val.csv, test.csv
MINI = "251f0efc95e7f9085a6a85043c24491fae150074ee821b19c89fd814d4f7e15f"
SIZES = {"size": 4, "ways": 2, "shots": 1, "queries": 1}


@pytest.fixture(autouse=True)
def _no_cache():
    cache.choose("off")
    yield
    cache.choose(None)


def picture(path: Path, grey: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (2, 2), grey).save(path, "PNG")  # Pillow knows it by its content, whatever its name


def test_the_lists_are_the_authors() -> None:
    """The list of tiered-ImageNet gives the authors' files back, byte for byte."""
    content = read_list("tiered_imagenet")
    for split in ("train", "val", "test"):
        text = "".join(f"{label},{above}\n" for above, labels in content[split].items() for label in labels)
        assert hashlib.sha256(text.encode()).hexdigest() == content["files_sha256"][f"{split}.csv"]
    assert {split: len(labels) for split, labels in tiered_lists().items()} == {"train": 351, "val": 97, "test": 160}
    above = [set(content[split]) for split in ("train", "val", "test")]
    assert [len(part) for part in above] == [20, 6, 8]
    assert not above[0] & above[1] | above[0] & above[2] | above[1] & above[2]
    mini = read_list("mini_imagenet")
    assert [len(mini[split]) for split in ("train", "val", "test")] == [64, 16, 20]
    assert len({label for split in ("train", "val", "test") for label in mini[split]}) == 100
    joined = "\n".join(label for split in ("train", "val", "test") for label in mini[split])
    assert hashlib.sha256(joined.encode()).hexdigest() == MINI


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All classes of mini-ImageNet with 2 pictures each."""
    root = tmp_path_factory.mktemp("mini")
    content = read_list("mini_imagenet")
    for split in ("train", "val", "test"):
        for label in content[split]:
            for i in range(2):
                picture(root / label / f"{label}_{i}.JPEG", 100 * i)
    return root


def test_mini_imagenet_by_folders(folders: Path, tmp_path: Path) -> None:
    family = Images(str(folders), preset="mini_imagenet", **SIZES)
    content = read_list("mini_imagenet")
    for split in ("train", "val", "test"):
        assert sorted(family.names[i] for i in family.splits[split].tolist()) == sorted(content[split])
    assert family.protocol == {
        "split": "mini_imagenet", "size": 4, "fit": "crop", "channels": 3, "classes": [64, 16, 20],
        "preset": "mini_imagenet",
    }  # fmt: skip
    # In folders of splits; a class in another one than the authors' is refused.
    for split in ("train", "val", "test"):
        (tmp_path / split).mkdir()
        for label in content[split]:
            (tmp_path / split / label).symlink_to(folders / label)
    assert Images(str(tmp_path), preset="mini_imagenet", **SIZES).names == family.names
    moved = content["test"][0]
    (tmp_path / "test" / moved).rename(tmp_path / "train" / moved)
    with pytest.raises(DataError, match=rf"train/{moved}: the authors' list has class {moved} in test; move it there"):
        Images(str(tmp_path), preset="mini_imagenet", **SIZES)
    (tmp_path / "train" / moved).unlink()
    with pytest.raises(
        DataError, match=rf"1 of 100 classes have no folder \({moved}\); it needs the training pictures"
    ):
        Images(str(tmp_path), preset="mini_imagenet", **SIZES)


def test_mini_imagenet_by_the_authors_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows name a file, or the number of a picture in ILSVRC's folder; numbers there have gaps."""
    labels = {"train": ["n01", "n02"], "val": ["n03", "n04"], "test": ["n05", "n06"]}
    sums = {}
    for split, members in labels.items():
        text = io.StringIO(newline="")
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["filename", "label"])
        for label in members:
            for number in (2, 3):
                rows.writerow([f"{label}0000000{number}.jpg", label])
        (tmp_path / f"{split}.csv").write_text(text.getvalue())
        sums[f"{split}.csv"] = hashlib.sha256(text.getvalue().encode()).hexdigest()
        for label in members:
            for place, number in enumerate((7, 30, 200), 1):  # 200 sorts before 30 as text
                picture(tmp_path / "train" / label / f"{label}_{number}.JPEG", 10 * place)
    monkeypatch.setattr(published, "read_list", lambda name: labels | {"source": "https://x", "files_sha256": sums})
    for name in ("ilsvrc", "renamed"):
        family = Images(str(tmp_path), preset="mini_imagenet", channels=1, **SIZES)
        assert family.data[:, 0, 0, 0].tolist() == [20, 30] * 6, name
        for members in labels.values():  # the same pictures under the names of the lists
            for label in members:
                for number in (2, 3):
                    picture(tmp_path / "images" / f"{label}0000000{number}.jpg", 10 * number)
    (tmp_path / "images" / "n0500000003.jpg").unlink()
    (tmp_path / "train" / "n05" / "n05_200.JPEG").unlink()
    with pytest.raises(
        DataError, match=r"test.csv: n0500000003.jpg is picture 3 of n05, and .* has 2 of them; it needs"
    ):
        find_published("mini_imagenet", tmp_path, False)
    (tmp_path / "val.csv").write_text("filename,label\n")
    with pytest.raises(DataError, match=r"val.csv: sha256 is .*; get it from https://x, or use task=images"):
        find_published("mini_imagenet", tmp_path, False)
    (tmp_path / "val.csv").unlink()
    monkeypatch.setattr(
        published, "fetch_checked", lambda url, path, kind, wanted: asked.append((url, path.name, wanted))
    )
    asked: list[tuple[str, str, str]] = []
    find_published("mini_imagenet", tmp_path, True)
    assert asked == [(f"https://x/{name}", name, sums[name]) for name in ("train.csv", "val.csv", "test.csv")]


def test_mini_imagenet_needs_lists_for_whole_classes(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label = read_list("mini_imagenet")["val"][3]
    every = published.pictures_of
    monkeypatch.setattr(published, "pictures_of", lambda f: every(f) * (301 if f.name == label else 1))
    with pytest.raises(
        DataError, match=rf"class {label} has 602 pictures, .* task.download=true, or fetch them from http"
    ):
        find_published("mini_imagenet", folders, False)


def test_tiered_imagenet(tmp_path: Path) -> None:
    lists = tiered_lists()
    every = [label for members in lists.values() for label in members]
    source = tmp_path / "one" / "x.png"
    picture(source)
    for label in [*every, "n00000000"]:  # ILSVRC has more classes, and folders of its own
        folder = tmp_path / "set" / "train" / label
        folder.mkdir(parents=True)
        (folder / f"{label}_1.JPEG").symlink_to(source)
    picture(tmp_path / "set" / "val" / "ILSVRC2012_val_1.JPEG")
    found, listed = find_published("tiered_imagenet", tmp_path / "set", False)
    assert listed == lists
    assert {p.label for p in found} == set(every)
    assert all(p.label in lists[str(p.split)] for p in found)
    (tmp_path / "set" / "train_images_png.pkl").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"the archive of pickled pictures is not read; point task.root= at the training"
    ):
        find_published("tiered_imagenet", tmp_path / "set", False)


def test_cub(tmp_path: Path) -> None:
    names = [f"{i:03d}.Bird_{i}" for i in range(1, 201)]
    base = tmp_path / "CUB_200_2011"
    lines = []
    for i, name in enumerate(names, 1):
        for j in range(2):
            picture(base / "images" / name / f"{j}.jpg", i)
            lines.append(f"{len(lines) + 1} {name}/{j}.jpg")
    (base / "images.txt").write_text("\n".join(lines))
    family = Images(str(tmp_path), preset="cub", channels=1, **SIZES)
    numbers = {split: [int(family.names[i][:3]) for i in part.tolist()] for split, part in family.splits.items()}
    assert numbers == {"train": [*range(1, 200, 2)], "val": [*range(2, 201, 4)], "test": [*range(4, 201, 4)]}
    episode = family.sample("test", torch.arange(20))
    classes = episode.info["classes"].repeat_interleave(1, 1)
    np.testing.assert_allclose(episode.support.x[:, :, 0, 0, 0] * 255, (classes + 1).float(), atol=1e-4)
    (base / "images" / names[7] / "1.jpg").unlink()
    with pytest.raises(DataError, match=r"images.txt: line 16: no file .*008.Bird_8/1.jpg; unpack the archive again"):
        Images(str(tmp_path), preset="cub", **SIZES)
    (base / "images" / names[7]).rename(base / "images" / "8.Bird")
    with pytest.raises(DataError, match=r"200 folders, expected 001. to 200.; the first that differs is"):
        Images(str(tmp_path), preset="cub", **SIZES)
    with pytest.raises(DataError, match=r"has no images/ or CUB_200_2011/images/; unpack CUB_200_2011.tgz from https"):
        Images(str(base / "images"), preset="cub", **SIZES)
    with pytest.raises(ValueError, match=r"preset=cub: brings its own lists"):
        Images(str(tmp_path), preset="cub", lists=["train.csv"], **SIZES)


def test_sizes_and_kinds_of_the_presets() -> None:
    for name, size in {"mini_imagenet": 84, "fc100": 32}.items():
        config = load(["algo=maml", f"task={name}"])
        assert (config["task"]["size"], config["task"].get("channels", 3), config["choices"]["model"]) == (
            size,
            3,
            "cnn4",
        )
        assert config["meta_batch"] == 32  # of the kind pictures
