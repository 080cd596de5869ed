"""Raw examples become the inputs that the training made of the same examples, also from inputs.json alone."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from small_runs import train
from torch import Tensor

import metaexp
from metaexp.encoders.ngrams import NGrams
from metaexp.errors import CheckpointError, ConfigError, DataError
from metaexp.estimator import Classifier
from metaexp.system import cache
from metaexp.tasks.arrays import Arrays
from metaexp.tasks.base import TaskFamily
from metaexp.tasks.data.omniglot import drawing
from metaexp.tasks.data.raw import ArrayInputs, RawInputs, restore
from metaexp.tasks.data.raw_pictures import DrawingInputs, ItemInputs
from metaexp.tasks.dataset import DatasetTasks
from metaexp.tasks.images import Images
from metaexp.tasks.text import Text

THIRDS = (0.34, 0.33, 0.33)
TEXTS = [f"sentence {i} of {label}" for label in "abcdef" for i in range(4)]


@pytest.fixture(autouse=True)
def _no_cache() -> Iterator[None]:
    cache.choose("off")
    yield
    cache.choose(None)


def kept(family: TaskFamily, task: dict[str, Any] | None = None) -> RawInputs:
    """What a run makes of the family's settings, without the family."""
    return restore(json.loads(json.dumps({"format": 1, **family.raw_inputs().settings()})), task or {})


def same(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and torch.equal(found.float(), wanted.float())


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Text:
    file = tmp_path_factory.mktemp("text") / "data.csv"
    rows = [f"{sentence},{sentence[-1]}" for sentence in TEXTS]
    file.write_text("\n".join(["says,label", *rows]))
    cache.choose("off")
    return Text(str(file), text="says", ways=2, queries=1, split=THIRDS, encoder=NGrams(dimensions=64))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Images]:
    root, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(6):
        (root / f"class{i}").mkdir()
        for j in range(3):
            pixels = random.integers(0, 255, (9 + i, 12 - j, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"class{i}" / f"{j}.png")
    cache.choose("off")
    return root, Images(str(root), size=8, ways=2, queries=1, split=THIRDS)


def test_sentences_are_encoded_as_at_training(text: Text) -> None:
    node = {"_target_": "metaexp.encoders.ngrams.NGrams", "dimensions": 64}
    raw = kept(text, {"encoder": node})
    assert raw.names == ["says"]
    shuffled = list(reversed(text.texts))
    frame = pandas.DataFrame({"more": range(len(shuffled)), "says": shuffled})
    for given in (shuffled, tuple(shuffled), np.array(shuffled), frame, frame["says"]):
        assert same(raw(given), text.data.flip(0))
    vectors = text.data.numpy()
    for ready in (vectors, text.data, vectors.tolist(), pandas.DataFrame(vectors)):
        assert same(raw(ready), text.data)
    assert raw([]).shape == (0, 64)


def test_another_encoder_is_refused(text: Text) -> None:
    node = {"_target_": "metaexp.encoders.ngrams.NGrams", "dimensions": 64, "words": 1}
    with pytest.raises(DataError, match=r"encoder: NGrams is not what this run was trained with, its words changed"):
        kept(text, {"encoder": node})(TEXTS)


def test_pictures_are_scaled_and_cropped_as_at_training(pictures: tuple[Path, Images]) -> None:
    root, family = pictures
    raw = kept(family)
    files = sorted(root.glob("*/*.png"))
    wanted = family.data.float() / 255
    images = [Image.open(file) for file in files]
    arrays: list[Any] = [np.asarray(image) for image in images]
    arrays[1] = torch.from_numpy(np.array(images[1]))
    frame = pandas.DataFrame({"filename": [str(file) for file in files]})
    for given in (files, list(map(str, files)), images, arrays, frame, [*files[:4], *images[4:9], *arrays[9:]]):
        assert same(raw(given), wanted)
    assert same(raw(family.data), wanted)  # ready: bytes of the right shape
    assert same(raw(wanted.numpy()), wanted)
    one_size = np.stack([np.asarray(Image.open(file).resize((20, 10))) for file in files[:3]])
    assert same(raw(one_size), raw([Image.fromarray(pixels) for pixels in one_size]))
    assert same(raw(one_size.transpose(0, 3, 1, 2)), raw(one_size))


def test_drawings_are_those_of_the_training() -> None:
    random = np.random.default_rng(1)
    ink = random.random((3, 105, 105)) < 0.2
    images = [Image.fromarray(~one) for one in ink]
    for resize, invert in (("lanczos", True), ("nearest", False)):
        raw = DrawingInputs(ArrayInputs((1, 28, 28), 255), 28, resize, invert)
        wanted = torch.from_numpy(np.stack([drawing(one, resize, 28) for one in ink])).unsqueeze(1)
        wanted = wanted if invert else 255 - wanted
        assert same(raw(images), wanted.float() / 255)
        again = restore(json.loads(json.dumps(raw.settings())), {})
        assert same(again([np.asarray(image.convert("L")) for image in images]), wanted.float() / 255)
    filter_ = Image.Resampling.NEAREST
    expected = np.asarray(Image.fromarray(ink[0] * np.uint8(255)).resize((28, 28), filter_))
    assert np.array_equal(drawing(ink[0], "nearest", 28), expected)


class Grey:
    """16-bit pictures of 6 classes."""

    def __len__(self) -> int:
        return 18

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        return Image.fromarray(np.full((4, 5), 3500 * i, np.uint16)), i // 3


def test_items_of_a_data_set() -> None:
    dataset, family = Grey(), DatasetTasks(Grey(), ways=2, shots=1, queries=1, split=THIRDS)
    raw = kept(family)
    images = [dataset[i][0] for i in range(len(dataset))]
    assert family.white == 65535
    assert same(raw(images), family.data)
    assert torch.allclose(family.data[:, 0, 0, 0], torch.arange(18) * 3500.0 / 65535)
    assert same(raw(np.stack([np.asarray(image)[None] for image in images])), family.data)


def test_arrays_in_the_units_of_training(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x, y = 5 + 3 * random.normal(size=(40, 2)).astype(np.float32), random.normal(size=40).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, y=y, task=np.repeat([0, 1, 2, 3], 10))
    family = Arrays(str(tmp_path / "a.npz"), shots=3, queries=3, standardise="xy")
    assert torch.allclose(kept(family)(x).float(), family.x, atol=1e-6)
    assert torch.equal(kept(family)(x), family.raw_inputs()(x))


BAD: list[tuple[Any, str]] = [
    (["ok", 3.5], r"x: item 1 is 3.5; each must be a sentence"),
    (["ok", None], r"x: item 1 is nothing"),
    (["ok", float("nan")], r"x: item 1 is nothing"),
    ([" "], r"x: item 0 is ' '"),
    ("one", r"x: is one str; it must be a list of examples, \[x\]"),
    (pandas.DataFrame({"a": ["b"]}), r"x: has no column says; it has a"),
    (np.zeros((2, 63)), r"x has shape \[2, 63\]: must be \[n, 64\]"),
]


def test_what_is_no_sentence_is_named(text: Text) -> None:
    raw = text.raw_inputs()
    for given, says in BAD:
        with pytest.raises(ValueError, match=f"^{says}"):
            raw(given)


def test_what_is_no_picture_is_named(pictures: tuple[Path, Images], tmp_path: Path) -> None:
    raw, good = pictures[1].raw_inputs(), next(iter(sorted(pictures[0].glob("*/*.png"))))
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(good.read_bytes()[:60])
    with pytest.raises(DataError, match=r"damaged.png: not a readable picture"):
        raw([good, damaged])
    with pytest.raises(DataError, match=r"nowhere.png: not a readable picture .*No such file"):
        raw([good, tmp_path / "nowhere.png"])
    with pytest.raises(ValueError, match=r"^x: item 1: a dict; each must be a picture \(PIL\), a file, or an array"):
        raw([good, {}])
    with pytest.raises(ValueError, match=r"^x: item 0: float64 \[4, 4\]; an array of a picture is uint8"):
        raw([np.zeros((4, 4))])
    with pytest.raises(ValueError, match=r"^x has shape \[2, 5\]: must be \[n, 3, 8, 8\]"):
        raw(np.zeros((2, 5)))
    drawings = DrawingInputs(ArrayInputs((1, 28, 28), 255), 28, "lanczos", True)
    with pytest.raises(ValueError, match=r"^x: item 0: 5 x 4 pixels; a drawing is square"):
        drawings([Image.new("L", (5, 4))])
    items = ItemInputs(ArrayInputs((3, 8, 8), 255))
    with pytest.raises(ValueError, match=r"^x: item 0, .*0.png: a picture .* of \[3, 9, 12\]; the run's are \[3, 8, 8"):
        items([good])


def test_settings_name_no_other_class(text: Text) -> None:
    for target in ("metaexp.tasks.text.Text", "os.system", "metaexp.tasks.data.raw.torch.load"):
        with pytest.raises(ConfigError):
            restore({"_target_": target}, {})


def test_a_run_takes_sentences_without_its_data(tmp_path: Path) -> None:
    """Through a real run: the file of sentences is gone, and predictions have the bits of those on encoded vectors."""
    file = tmp_path / "data.csv"
    rows = [f"{sentence},{sentence[-1]}" for sentence in TEXTS]
    file.write_text("\n".join(["says,label", *rows]))
    sizes = ["task.ways=2", "task.queries=1", "task.split=[0.34,0.33,0.33]", "encoder.dimensions=64", "cache=off"]
    run = train(tmp_path, "algo=protonet", "task=text", f"task.file={file}", "task.text=says", "encoder=ngrams", *sizes)
    assert json.loads((run / "inputs.json").read_text())["text"] == "says"
    file.unlink()
    model = metaexp.load(run)
    assert isinstance(model, Classifier)
    support, labels = ["good and fine", "fine and good", "bad and poor", "a poor one"], ["+", "+", "-", "-"]
    queries = ["fine", "a bad one", "good"]
    found = model.fit(support, labels).predict_proba(queries)
    assert model.predict(queries).tolist() == ["+", "-", "+"]
    assert not hasattr(model, "feature_names_in_")
    encoder = NGrams(dimensions=64)
    ready = metaexp.load(run).fit(encoder.encode(support), labels).predict_proba(encoder.encode(queries))
    assert np.array_equal(found, ready)
    frame = pandas.DataFrame({"id": range(4), "says": support})
    assert list(model.fit(frame, labels).feature_names_in_) == ["says"]
    assert model.n_features_in_ == 1
    assert np.array_equal(model.predict_proba(pandas.DataFrame({"says": queries})), found)
    with pytest.raises(ValueError, match=r"x: has no column says; it has text"):
        model.predict(pandas.DataFrame({"text": queries}))
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict_proba(pandas.DataFrame({"says": queries})), found)
    (run / "inputs.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"inputs.json: cannot be read"):
        metaexp.load(run)
