"""Items of data sets: pictures of every mode, and damaged ones."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metaexp.errors import DataError
from metaexp.tasks.data.npz import read_tasks
from metaexp.tasks.dataset import DatasetTasks


class Vectors:
    """Twelve vectors of six classes."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        return np.array([i, 0.25]), i % 6


# -- pictures of every mode --------------------------------------------------------------------------------------------

GREY16 = np.array([[0, 1, 255], [256, 40_000, 65_535]], np.uint16)


class Opened:
    """Twelve picture files of six classes; each is opened when its item is asked for, and decoded by the family."""

    def __init__(self, folder: Path, end: str, write: Callable[[Path], object]):
        self.paths = [folder / f"{i}.{end}" for i in range(12)]
        for path in self.paths:
            write(path)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return Image.open(self.paths[i]), i % 6


def family_of(dataset: Any) -> DatasetTasks:
    return DatasetTasks(dataset, 1, 1, 2, classes={"train": [0, 1], "val": [2, 3], "test": [4, 5]})


def all_inputs(family: DatasetTasks) -> np.ndarray:
    """The different inputs of many training episodes: [inputs, *x_shape]."""
    x = family.sample("train", torch.arange(64)).support.x.flatten(0, 1)
    return np.unique(x.double().numpy(), axis=0)


def high_first(path: Path) -> None:
    Image.frombytes("I;16B", (3, 2), GREY16.astype(">u2").tobytes()).save(path)


def unsigned32(path: Path) -> None:
    """A TIFF of 32 bits without a sign, written by hand: Pillow writes them with one."""
    pixels = np.array([[0, 1, 2**31], [2**32 - 1, 2**16, 7]], "<u4").tobytes()
    tags = [(256, 3), (257, 2), (258, 32), (259, 1), (262, 1), (273, 8), (277, 1), (278, 2), (279, 24), (339, 1)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 32) + pixels + struct.pack("<H", len(tags)) + entries + b"\0" * 4)


PICTURES: dict[str, tuple[str, Callable[[Path], object], Any]] = {
    "16 bits, png": ("png", lambda path: Image.fromarray(GREY16).save(path), GREY16[None] / 65535),
    "16 bits, tiff": ("tiff", lambda path: Image.fromarray(GREY16).save(path), GREY16[None] / 65535),
    "16 bits, high byte first": ("tiff", high_first, GREY16[None] / 65535),
    "32 bits, signed": (
        "tiff",
        lambda path: Image.fromarray(np.array([[0, 2**31 - 1, 2**30]], np.int32)).save(path),
        np.array([[[0, 1, 2**30 / (2**31 - 1)]]]),
    ),
    "32 bits, unsigned": (
        "tiff",
        unsigned32,
        np.array([[[0, 1, 2**31], [2**32 - 1, 2**16, 7]]]) / (2**32 - 1),
    ),
    "floats": (
        "tiff",
        lambda path: Image.fromarray(np.array([[0.0, 0.25, 1.0]], np.float32)).save(path),
        np.array([[[0.0, 0.25, 1.0]]]),
    ),
    "one bit": ("png", lambda path: Image.fromarray(np.array([[True, False]])).save(path), np.array([[[1.0, 0.0]]])),
    "grey": ("png", lambda path: Image.new("L", (2, 1), 51).save(path), np.full((1, 1, 2), 0.2)),
    "grey with opacity": (
        "png",
        lambda path: Image.new("LA", (2, 1), (51, 102)).save(path),
        np.repeat([0.2, 0.4], 2).reshape(2, 1, 2),
    ),
    "colour": (
        "png",
        lambda path: Image.new("RGB", (2, 1), (255, 51, 0)).save(path),
        np.repeat([1, 0.2, 0], 2).reshape(3, 1, 2),
    ),
    "colour with opacity": (
        "png",
        lambda path: Image.new("RGBA", (2, 1), (255, 51, 0, 102)).save(path),
        np.repeat([1, 0.2, 0, 0.4], 2).reshape(4, 1, 2),
    ),
    "palette": (
        "png",
        lambda path: Image.new("RGB", (2, 1), (255, 51, 0)).convert("P", palette=Image.Palette.ADAPTIVE).save(path),
        np.repeat([1, 0.2, 0], 2).reshape(3, 1, 2),
    ),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_every_kind_of_picture_has_its_pixels_between_0_and_1(tmp_path: Path, kind: str) -> None:
    end, write, wanted = PICTURES[kind]
    family = family_of(Opened(tmp_path, end, write))
    (found,) = all_inputs(family)
    assert found.shape == wanted.shape == family.x_shape
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=0)
    assert family.white == {"floats": 0, "32 bits, signed": 2**31 - 1, "32 bits, unsigned": 2**32 - 1}.get(
        kind, 65535 if kind.startswith("16") else 255
    )


def test_pictures_that_do_not_say_their_largest_value_are_judged_together() -> None:
    """Pillow may hold 16 bits in a mode of 32."""

    def family(largest: int) -> DatasetTasks:
        values = [np.array([[7 * i, largest]], np.int32) for i in range(12)]
        return family_of([(Image.fromarray(value), i % 6) for i, value in enumerate(values)])

    for largest, white in ((65_535, 65_535), (300, 65_535), (65_536, 2**31 - 1)):
        made = family(largest)
        assert made.white == white
        np.testing.assert_allclose(made.data[0].numpy(), [[[0, largest / white]]], rtol=1e-7)
    with pytest.raises(DataError, match="item 0 of list is a picture with values below 0"):
        family(-1)


def test_arrays_of_16_bits_are_scaled_and_other_whole_numbers_are_not() -> None:
    made = family_of([(GREY16, i % 6) for i in range(12)])
    np.testing.assert_allclose(made.data[0].numpy(), GREY16[None] / 65535, rtol=1e-7)
    made = family_of([(torch.from_numpy(GREY16), i % 6) for i in range(12)])
    np.testing.assert_allclose(made.data[0].numpy(), GREY16[None] / 65535, rtol=1e-7)
    made = family_of([(GREY16.astype(">u2"), i % 6) for i in range(12)])
    np.testing.assert_allclose(made.data[0].numpy(), GREY16[None] / 65535, rtol=1e-7)
    made = family_of([(GREY16.astype(np.int64), i % 6) for i in range(12)])
    assert np.array_equal(made.data[0].numpy(), GREY16)
    mixed = [(np.full((2, 3), 51, np.uint8) if i % 2 else np.full((2, 3), 13107, np.uint16), i % 6) for i in range(12)]
    np.testing.assert_allclose(family_of(mixed).data.numpy(), 0.2, rtol=1e-7)


# -- damage ------------------------------------------------------------------------------------------------------------


def png(change: Callable[[bytes], bytes] = lambda data: data) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8)).save(buffer, "png")
    return change(buffer.getvalue())


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb() -> bytes:
    """A picture of 40,000 by 40,000 pixels in a few bytes."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0))


DAMAGED: dict[str, bytes] = {
    "cut": png(lambda data: data[: len(data) // 2]),
    "cut in its head": png(lambda data: data[:20]),
    "empty": b"",
    "zeros": bytes(400),
    "text": b"not found",
    "another format": b"GIF89a\x01",
    "a chunk of no known kind": png(lambda data: data.replace(b"IDAT", b"IDAX")),
    "a wrong checksum": png(lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:]),
    "a bomb": bomb(),
    "a TIFF without tags": b"II*\0\x08\0\0\0\xff\xff",
    "a cut JPEG": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "a BMP without pixels": b"BM" + bytes(20),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_picture_is_named_with_its_file(tmp_path: Path, kind: str) -> None:
    dataset = Opened(tmp_path, "png", lambda path: path.write_bytes(png()))
    dataset.paths[5].write_bytes(DAMAGED[kind])
    with pytest.raises(DataError) as found:
        family_of(dataset)
    assert str(found.value).startswith(f"task.dataset: item 5 of Opened, {dataset.paths[5]} cannot be read: ")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "error",
    [
        OSError("image file is truncated"),
        SyntaxError("broken PNG file"),
        struct.error("unpack requires 4 bytes"),
        ValueError("bad\nvalue"),
        zlib.error("incorrect header check"),
        EOFError(),
        MemoryError(),
        zipfile.BadZipFile("no zip"),
        Image.DecompressionBombError("too large"),
        AttributeError("no attribute"),
        AssertionError(),
        RecursionError("too deep"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_data_set_raises_names_the_item_and_its_file(error: Exception) -> None:
    class Raises(Vectors):
        samples = [(f"folder/{i}.png", 0) for i in range(200)]

        def __getitem__(self, i: int) -> tuple[Any, Any]:
            if i == 5:
                raise error
            return super().__getitem__(i)

    for dataset, place in ((Raises(), 5), (torch.utils.data.Subset(Raises(), [3, 5, 7]), 1)):
        with pytest.raises(DataError) as found:
            DatasetTasks(dataset, 1, 1, 2)
        start = f"task.dataset: item {place} of {type(dataset).__name__}, folder/5.png cannot be read: "
        assert str(found.value).startswith(start)
        assert "\n" not in str(found.value)


def test_damaged_members_of_an_npz_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.npz"
    np.savez(whole, x=np.arange(400.0), y=np.arange(400.0), task=np.arange(400) // 40)
    data = whole.read_bytes()
    with zipfile.ZipFile(whole) as archive:
        places = {info.filename: info.header_offset for info in archive.infolist()}

    def changed(place: int, new: bytes) -> bytes:
        return data[:place] + new + data[place + len(new) :]

    magic = data.index(b"\x93NUMPY", places["y.npy"])
    for content, says in (
        (changed(magic, b"\x94NUMPY"), "its y is damaged"),
        (changed(magic + 40, b"((((((((("), "its y is damaged"),
        (changed(magic + 600, b"\xff" * 8), "its y is damaged"),
        (changed(places["y.npy"], b"PKxx"), "its y is damaged"),
        (data[: len(data) // 2], "damaged or not an npz"),
        (b"", "damaged or not an npz"),
        (bytes(500), "damaged or not an npz"),
        (b"\x80\x04N.", "damaged or not an npz"),
        (changed(len(data) - 30, b"\xff" * 16), "damaged or not an npz"),
    ):
        file = tmp_path / "damaged.npz"
        file.write_bytes(content)
        with pytest.raises(DataError, match=f"{file}: .*{says}") as found:
            read_tasks([str(file)], (0.6, 0.2, 0.2), 0)
        assert "\n" not in str(found.value)
