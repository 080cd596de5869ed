"""Any map-style data set as episodes; what a family was trained on."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metaexp.errors import DataError
from metaexp.tasks.arrays import Arrays
from metaexp.tasks.data.items import as_item
from metaexp.tasks.dataset import DatasetTasks
from metaexp.tasks.placeholder import check_data
from metaexp.tasks.sine import Sine

SPLITS = ("train", "val", "test")


X = np.zeros((30, 2))


class Blobs:
    """A map-style data set: 10 classes of 6 + class items."""

    def __init__(self, kind: str = "float"):
        self.kind = kind
        self.items = [(c, e) for e in range(16) for c in range(10) if e < 6 + c]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        c, e = self.items[i]
        if self.kind == "pil":
            return Image.fromarray(np.full((8, 8, 3), (c, e, 255), np.uint8)), f"class {c}"
        if self.kind == "bytes":
            return torch.tensor([[c, e], [0, 0]], dtype=torch.uint8), torch.tensor(c)
        if self.kind == "palette":
            image = Image.new("P", (2, 2))
            image.putpalette([10 * c, 20, 30] + [0] * 765)
            return image, c
        if self.kind == "nan":
            return np.array([c, e, np.nan if i == 7 else 0.25]), c
        if self.kind == "damaged":
            if i == 5:
                raise Image.UnidentifiedImageError("cannot identify image file")
            return np.zeros(3), c
        if self.kind == "ragged":
            return np.zeros(3 + c), c
        if self.kind == "unlabelled":
            return np.zeros(3), [c]
        return np.array([c, e, 0.25]), np.int64(c)


@pytest.mark.parametrize(("kind", "x_shape"), [("float", (3,)), ("bytes", (1, 2, 2)), ("pil", (3, 8, 8))])
def test_any_data_set_becomes_episodes(kind, x_shape):
    family = DatasetTasks(Blobs(kind), shots=2, queries=3, ways=2)
    assert family.x_shape == x_shape
    assert (family.data.dtype == torch.uint8) == (kind != "float")
    assert [family.count(split) for split in SPLITS] == [6, 2, 2]
    for split in SPLITS:
        episode = family.sample(split, torch.arange(200))
        x = torch.cat([part.x.view(200, 2, -1, *x_shape) for part in (episode.support, episode.query)], 2).flatten(3)
        label, example = (x[..., 0], x[..., 1]) if kind != "pil" else (x[..., 0], x[..., 64])
        scale = 1 if kind == "float" else 255
        names = [family.names[c] for c in episode.info["classes"].flatten().tolist()]
        assert names == [
            f"class {round(c)}" if kind == "pil" else c for c in (label * scale)[..., 0].flatten().tolist()
        ]
        assert ((example * scale).round().sort(-1).values.diff() > 0).all()


def test_listed_classes():
    listed = {"train": [9, 8, 7], "val": [0, 1], "test": [2, 3]}
    family = DatasetTasks(Blobs(), 1, 2, 2, classes=listed)
    assert {split: family.splits[split].tolist() for split in SPLITS} == listed
    for change, message in (
        ({"val": [9]}, "classes.val: 9 is already in train"),
        ({"val": [11]}, "classes.val: 11 is not a label of the data"),
        ({"val": None}, "classes.val=null: where classes are listed"),
    ):
        with pytest.raises(ValueError, match=message):
            DatasetTasks(Blobs(), 1, 2, 2, classes=listed | change)


def test_pictures_with_a_palette_have_its_colours():
    family = DatasetTasks(Blobs("palette"), shots=2, queries=3, ways=2)
    assert family.x_shape == (3, 2, 2)
    colours = {tuple(x[:, 0, 0].tolist()) for x in family.data}
    assert colours == {(10 * c, 20, 30) for c in range(10)}


def test_what_a_family_was_trained_on_is_known_by_names_and_contents(tmp_path):
    class Fewer(Blobs):
        def __init__(self):
            super().__init__()
            self.items = [(c, e) for c, e in self.items if c > 0]

    whole, fewer = DatasetTasks(Blobs(), 1, 2, 2), DatasetTasks(Fewer(), 1, 2, 2)
    assert whole.trained_on == DatasetTasks(Blobs(), 5, 1, 2).trained_on
    assert whole.trained_on != fewer.trained_on
    check_data(whole, {"trained_on": whole.trained_on})
    check_data(whole, {})  # a checkpoint of before
    with pytest.raises(DataError, match="not those that this run was trained on"):
        check_data(fewer, {"trained_on": whole.trained_on})
    (tmp_path / "moved").mkdir()
    for folder, x in ((tmp_path, X), (tmp_path / "moved", X)):
        np.savez(folder / "a.npz", x=x, y=x, task=np.arange(30) // 3)
    first, moved = Arrays(str(tmp_path / "a.npz"), 1, 1), Arrays(str(tmp_path / "moved/a.npz"), 1, 1)
    assert first.trained_on == moved.trained_on
    np.savez(tmp_path / "a.npz", x=X + 1e-3, y=X, task=np.arange(30) // 3)
    assert Arrays(str(tmp_path / "a.npz"), 1, 1).trained_on != moved.trained_on
    assert Sine().trained_on is None


def test_bad_data_sets_are_named():
    for dataset, message in (
        (Blobs("ragged"), r"item 1 of Blobs is \[4\], item 0 \[3\]"),
        (Blobs("unlabelled"), r"item 0 of Blobs is not \(input, label\)"),
        (Blobs("nan"), "item 7 of Blobs has values that are inf or NaN"),
        (Blobs("damaged"), "item 5 of Blobs cannot be read: cannot identify image file"),
        (iter([]), "is not map-style"),
        ([], "list is empty"),
    ):
        with pytest.raises(DataError, match=message):
            DatasetTasks(dataset)
    with pytest.raises(ValueError, match="dataset=null: name a map-style data set"):
        DatasetTasks()
    with pytest.raises(ValueError, match=r'ways=5: split "val" has 2 classes'):
        DatasetTasks(Blobs(), 1, 2)


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((6, 8, 3), (3, 6, 8)),
        ((6, 8, 1), (1, 6, 8)),
        ((3, 6, 8), (3, 6, 8)),
        ((1, 6, 4), (1, 6, 4)),
        ((6, 8), (1, 6, 8)),
    ],
)
def test_arrays_of_bytes_with_channels_last_are_pictures(shape, wanted):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    found = as_item(array).x
    assert found.shape == wanted
    straight = array if array.ndim == 3 else array[None]
    assert np.array_equal(found.numpy(), straight if straight.shape == wanted else straight.transpose(2, 0, 1))
    assert as_item(torch.from_numpy(array)).x.shape == (shape if len(shape) == 3 else wanted)  # a tensor's are first
