"""CIFAR-FS and FC100: equal tables from every form of the files, the splits, and pickles that are refused."""

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metaexp.contract import check_family
from metaexp.errors import DataError
from metaexp.tasks.cifar100 import CIFAR100
from metaexp.tasks.data import cifar100 as files

COARSE = sorted(name for members in files.FC100.values() for name in members)
FINE = [f"class_{i:02d}" for i in range(100)]  # class i is of superclass i // 5
DRAW = np.random.default_rng(0)
PIXELS = DRAW.integers(0, 256, (300, 3, 32, 32), dtype=np.uint8)
LABELS = DRAW.permutation(np.repeat(np.arange(100), 3))


def binary(root: Path) -> None:
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    for name, rows in (("train", slice(0, 250)), ("test", slice(250, 300))):
        fine = LABELS[rows]
        table = np.concatenate([(fine // 5)[:, None], fine[:, None], PIXELS[rows].reshape(-1, 3072)], 1)
        (folder / f"{name}.bin").write_bytes(table.astype(np.uint8).tobytes())
    (folder / "fine_label_names.txt").write_text("\n".join(FINE) + "\n")
    (folder / "coarse_label_names.txt").write_text("\n".join(COARSE) + "\n")


def content(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"meta": {"fine_label_names": FINE, "coarse_label_names": COARSE}}
    for name, rows in (("train", slice(0, 250)), ("test", slice(250, 300))):
        found[name] = {"data": PIXELS[rows].reshape(-1, 3072), "fine_labels": LABELS[rows].tolist(),
                       "coarse_labels": (LABELS[rows] // 5).tolist()}  # fmt: skip
    return found | changes


def python(root: Path, **changes: Any) -> None:
    (root / "cifar-100-python").mkdir(parents=True)
    for name, value in content(**changes).items():
        (root / "cifar-100-python" / name).write_bytes(pickle.dumps(value, protocol=2))


def packed(root: Path, name: str) -> None:
    with tarfile.open(root / f"{name}.tar.gz", "w:gz") as archive:
        for path in sorted((root / name).iterdir()):
            archive.add(path, f"{name}/{path.name}")
            path.unlink()
    (root / name).rmdir()


@pytest.mark.parametrize("form", ["binary", "python", "binary tar", "python tar"])
def test_every_form_gives_the_same_table(tmp_path: Path, form: str) -> None:
    {"binary": binary, "python": python}[form.split()[0]](tmp_path)
    if "tar" in form:
        packed(tmp_path, f"cifar-100-{form.split()[0]}")
    table = files.read(tmp_path, False)
    assert (table.names, table.counts) == (FINE, [3] * 100)
    assert table.superclasses == [COARSE[i // 5] for i in range(100)]
    for label in (0, 57, 99):
        assert np.array_equal(table.pixels[3 * label : 3 * label + 3], PIXELS[label == LABELS])


def test_fc100_is_divided_by_superclass(tmp_path: Path) -> None:
    binary(tmp_path)
    family = CIFAR100(str(tmp_path), split="fc100", queries=2)
    assert family.protocol == {"split": "fc100", "size": 32, "classes": [60, 20, 20]}
    for split, members in files.FC100.items():
        wanted = [i for i in range(100) if COARSE[i // 5] in members]
        assert family.splits[split].tolist() == wanted
    assert sorted(COARSE) == sorted(set(COARSE))
    # The numbers of the superclasses in the authors' code, in their order in CIFAR-100.
    codes = {"train": {1, 2, 3, 4, 5, 6, 9, 10, 15, 17, 18, 19}, "val": {8, 11, 13, 16}, "test": {0, 7, 12, 14}}
    assert {split: {COARSE.index(name) for name in members} for split, members in files.FC100.items()} == codes
    check_family(family)
    small = CIFAR100(str(tmp_path), split="fc100", queries=2, size=20)
    image = Image.fromarray(family.data[7].permute(1, 2, 0).numpy()).resize((20, 20), Image.Resampling.LANCZOS)
    assert np.array_equal(small.data[7].permute(1, 2, 0), image)


def test_cifar_fs_needs_the_authors_lists(tmp_path: Path) -> None:
    binary(tmp_path)
    with pytest.raises(DataError, match=r"splits/bertinetto/train.txt: no such file; .*github.com/bertinetto/r2d2"):
        CIFAR100(str(tmp_path), queries=2)
    place = tmp_path / "splits" / "bertinetto"
    place.mkdir(parents=True)
    order = DRAW.permutation(100).tolist()
    lists = {"train": order[:64], "val": order[64:80], "test": order[80:]}
    for split, members in lists.items():
        (place / f"{split}.txt").write_text("".join(f"{FINE[i]}\n" for i in members))
    family = CIFAR100(str(tmp_path), queries=2)
    assert {split: sorted(members) for split, members in lists.items()} == {
        split: sorted(part.tolist()) for split, part in family.splits.items()
    }
    # The authors' own folder of pictures gives the same.
    for i, label in enumerate(LABELS):
        path = tmp_path / "authors" / "cifar100" / "data" / FINE[label] / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS[i].transpose(1, 2, 0)).save(path)
    os.renames(tmp_path / "splits", tmp_path / "authors" / "cifar100" / "splits")
    assert torch.equal(CIFAR100(str(tmp_path / "authors"), queries=2).data, family.data)
    with pytest.raises(DataError, match=r"these pictures do not tell the superclasses"):
        CIFAR100(str(tmp_path / "authors"), split="fc100", queries=2)
    (tmp_path / "authors" / "cifar100" / "splits" / "bertinetto" / "val.txt").write_text("class_01\n")
    with pytest.raises(DataError, match=r"lists 64 / 1 / 20 classes, CIFAR-FS has 64 / 16 / 20"):
        CIFAR100(str(tmp_path / "authors"), queries=2)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_a_pickle_that_names_anything_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train", "meta"):
        python(tmp_path / name, **{name: Evil()})
        with pytest.raises(DataError, match=rf"cifar-100-python/{name}: not accepted .*it names (posix|nt).mkdir"):
            files.read(tmp_path / name, False)
    assert not (tmp_path / "evil").exists()
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "keys": ({"test": {"data": []}}, r"of another form \(KeyError"),
        "type": ({"meta": 3}, "of another form"),
        "dtype": ({"train": content()["train"] | {"data": np.zeros((250, 3072))}}, "data is float64"),
        "count": ({"test": content()["test"] | {"fine_labels": [0]}}, "labels and pictures of CIFAR-100 do not fit"),
        "two": ({"test": content()["test"] | {"coarse_labels": [19] * 50}}, "is in two superclasses"),
    }
    for name, (changes, message) in cases.items():
        python(tmp_path / name, **changes)
        with pytest.raises(DataError, match=message):
            files.read(tmp_path / name, False)


def test_damage_and_absence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no CIFAR-100 there .* task.download=true fetches https://www.cs.toronto.edu"):
        files.read(tmp_path, False)
    binary(tmp_path)
    train = tmp_path / "cifar-100-binary" / "train.bin"
    train.write_bytes(train.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"train.bin: 768495 bytes, not a multiple of 3074"):
        files.read(tmp_path, False)
    packed(tmp_path, "cifar-100-binary")
    path = tmp_path / "cifar-100-binary.tar.gz"
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(DataError, match=r"cifar-100-binary.tar.gz: damaged, or without"):
        files.read(tmp_path, False)
    evil = io.BytesIO()
    with tarfile.open(fileobj=evil, mode="w:gz") as archive:  # a link instead of a file
        member = tarfile.TarInfo("cifar-100-binary/train.bin")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    path.write_bytes(evil.getvalue())
    with pytest.raises(DataError, match=r"cifar-100-binary.tar.gz: damaged, or without train.bin"):
        files.read(tmp_path, False)
