"""Damaged and unusual pictures in a folder: refused by name, or listed and left out; others as Pillow has them."""

import errno
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from metaexp.errors import DataError, SpaceError
from metaexp.system import cache
from metaexp.system.cache import Cache
from metaexp.tasks.data.pictures import decode, find, read
from metaexp.tasks.images import Images

SIZES = {"size": 8, "ways": 2, "shots": 1, "queries": 1, "split": [0.4, 0.3, 0.3]}
NOISE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _no_cache():
    cache.choose("off")
    yield
    cache.choose(None)


def tree(root: Path, classes: int = 6, each: int = 3) -> Path:
    for i in range(classes):
        (root / f"class {i}").mkdir(parents=True)
        for j in range(each):
            Image.fromarray((NOISE + 7 * i + j).astype(np.uint8)).save(root / f"class {i}" / f"{j}.png")
    return root


def test_unusual_pictures_are_as_pillow_has_them(tmp_path: Path) -> None:
    image = Image.fromarray(NOISE)
    image.convert("CMYK").save(tmp_path / "cmyk.tiff")
    frames = [image.convert("P"), image.rotate(90).convert("P")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "turned.png", exif=exif)
    image.save(tmp_path / "png.jpg", "PNG")  # known by its content
    Image.new("RGB", (1, 1), (9, 8, 7)).save(tmp_path / "one pixel \xe4\xf6\xfc.png")
    palette = image.convert("P")
    palette.info["transparency"] = 0
    palette.save(tmp_path / "clear.png", transparency=0)
    wanted = {}
    for path in tmp_path.iterdir():
        with Image.open(path) as opened:
            opened.load()
            wanted[path.name] = ImageOps.exif_transpose(opened)
    rgba = wanted["clear.png"].convert("RGBA")
    wanted["clear.png"] = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    wanted["one pixel \xe4\xf6\xfc.png"] = Image.new("RGB", (8, 8), (9, 8, 7))
    for name, picture in wanted.items():
        found = decode(tmp_path / name, 8, "crop", 3).transpose(1, 2, 0)
        assert np.array_equal(found, picture.convert("RGB")), name
    assert np.array_equal(decode(tmp_path / "turned.png", 8, "crop", 3).transpose(1, 2, 0), np.rot90(NOISE, -1))


def bomb() -> bytes:
    """A PNG that claims 60,000 x 60,000 pixels."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def test_damage_is_named_or_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tree(tmp_path / "set")
    whole = (root / "class 0" / "0.png").read_bytes()
    bad = root / "class 2" / "bad \xe4.png"
    for content in (b"", whole[: len(whole) // 2], b"text", bomb()):
        bad.write_bytes(content)
        with pytest.raises(DataError, match=r"class 2/bad \xe4.png: not a readable picture"):
            Images(str(root), **SIZES)
    (root / "class 1" / "loop.png").symlink_to("loop.png")
    (root / "class 1" / "gone.png").symlink_to(tmp_path / "nothing")
    (root / "class 1" / "around").symlink_to(root)  # a loop of folders
    (root / "class 3" / ".DS_Store").write_bytes(b"x")
    (root / "class 3" / ".hidden.png").write_bytes(b"x")
    (root / "class 3" / "Thumbs.db").write_bytes(b"x")
    (root / ".cache").mkdir()
    (root / "empty").mkdir()
    with pytest.raises(DataError, match=r"set/empty: no pictures in it; remove this folder, or task.unreadable=skip"):
        Images(str(root), **SIZES)
    with caplog.at_level("INFO", "metaexp"):
        family = Images(str(root), unreadable="skip", **SIZES)
    assert family.counts.tolist() == [3] * 6
    assert caplog.messages == [
        f"left out, no pictures in it: {root / 'empty'}",
        *(f"left out, cannot be read: {root / name}" for name in ("class 1/gone.png", "class 1/loop.png")),
        f"left out, cannot be read: {bad}",
        "3 of 21 pictures left out (task.unreadable=skip)",
    ]
    plain = tree(tmp_path / "plain")
    assert np.array_equal(family.data, Images(str(plain), **SIZES).data)
    with pytest.raises(ValueError, match=r"together more than the 1 examples .* \(class class \d\)"):
        Images(str(tree(tmp_path / "few", each=1)), **SIZES)


def test_skipped_pictures_are_not_copied_into_memory(tmp_path: Path) -> None:
    root = tree(tmp_path / "set")
    (root / "class 2" / "1.png").write_bytes(b"")
    pictures, _ = find(root, skip=True)
    pixels, bad = read(pictures, 8, "crop", 3, True, Cache(tmp_path / "cache"))
    base = pixels
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    assert (len(pixels), bad) == (17, [7])


def test_a_changed_file_of_equal_size_and_date_is_noticed(tmp_path: Path) -> None:
    root = tree(tmp_path / "set")
    pictures, _ = find(root)
    first, _ = read(pictures, 8, "crop", 3, False, Cache(tmp_path / "cache"))
    first = np.array(first)
    path = pictures[0].path
    before = path.stat()
    content = path.read_bytes()
    Image.fromarray(NOISE[::-1].copy()).save(path)
    new = path.read_bytes()
    path.write_bytes(new + b"\0" * max(0, len(content) - len(new)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    again, _ = read(pictures, 8, "crop", 3, False, Cache(tmp_path / "cache"))
    assert np.array_equal(again[0].transpose(1, 2, 0), NOISE[::-1])
    assert np.array_equal(again[1:], first[1:])


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    root = tree(tmp_path / "set")
    os.rename(root / "class 4", os.fsencode(root) + b"/caf\xe9")
    family = Images(str(root), **SIZES)
    assert os.fsencode(family.names[0]) == b"caf\xe9"
    assert len(str(family.trained_on)) == 64


def test_a_full_disk_while_caching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    root = tree(tmp_path / "set")
    cache.choose(str(tmp_path / "cache"))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(SpaceError, match=rf"cannot write {tmp_path}/cache/.*: no space \(needs 0.0 MB, has "):
        Images(str(root), **SIZES)
    monkeypatch.undo()
    assert Images(str(root), **SIZES).counts.tolist() == [3] * 6  # what was begun is made again
