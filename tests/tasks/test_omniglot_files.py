"""Omniglot's files: every form gives the same drawings, damage is named, downloads are checked; the real data."""

import hashlib
import http.server
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_omniglot import write_packed
from PIL import Image

from metaexp.errors import DataError
from metaexp.tasks.data import omniglot as files
from metaexp.tasks.data.download import fetch
from metaexp.tasks.omniglot import Omniglot, vinyals

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_packed(tmp_path_factory.mktemp("omniglot"))


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """7 + 2 alphabets of 1 to 2 characters of random strokes: packed, as the authors' folders, and as their zips."""
    rng = np.random.default_rng(0)
    roots = {form: tmp_path_factory.mktemp(form) for form in ("packed", "folder", "zip")}
    ink: dict[str, np.ndarray] = {}
    for part, alphabets in (("background", 7), ("evaluation", 2)):
        characters = [f"{part}_{a}/character{i + 1:02d}" for a in range(alphabets) for i in range(1 + a % 2)]
        ink[part] = rng.random((len(characters), 20, 15, 15)).repeat(7, -1).repeat(7, -2) < 0.3
        bits = np.packbits(ink[part].reshape(-1, 20, 105 * 105), axis=-1)
        np.savez_compressed(roots["packed"] / f"omniglot105_{part}.npz", bits=bits, names=np.array(characters))
        with zipfile.ZipFile(roots["zip"] / f"images_{part}.zip", "w") as archive:
            archive.writestr("__MACOSX/._note", "x")
            for c in reversed(range(len(characters))):
                folder = roots["folder"] / f"images_{part}" / characters[c]
                folder.mkdir(parents=True)
                for d in range(20):
                    file = folder / f"{c + 1:04d}_{d + 1:02d}.png"
                    Image.fromarray(np.where(ink[part][c, d], 0, 255).astype(np.uint8)).convert("1").save(file)
                    archive.write(file, f"images_{part}/{characters[c]}/{file.name}")
    return {"roots": roots, "ink": np.concatenate(list(ink.values()))}


@pytest.mark.parametrize("form", ["packed", "folder", "zip"])
def test_every_form_gives_the_same_pixels(small, form):
    """Nearest is what Pillow makes of the 1-bit drawing, Lanczos what it makes of the grey one."""
    root = small["roots"][form]
    for size in (20, 28, 105):
        for resize, mode, method in (("nearest", "1", Image.NEAREST), ("lanczos", "L", Image.LANCZOS)):
            found, images = files.read(root, resize, size, verify=False)
            assert [len(part) for part in found.values()] == [10, 3]
            assert images.shape == (13, 20, size, size)
            for c, d in ((0, 0), (4, 19), (12, 7)):
                drawing = Image.fromarray(small["ink"][c, d].astype(np.uint8) * 255).convert(mode)
                expected = np.asarray(drawing.resize((size, size), method)).astype(np.uint8)
                assert np.array_equal(images[c, d], expected * (255 if mode == "1" else 1))


def test_an_incomplete_copy_is_refused_unless_asked_for(small):
    root = str(small["roots"]["zip"])
    with pytest.raises(DataError, match=r"10 background characters, expected 964.*task.verify=false"):
        Omniglot(root=root, split="lake")
    with pytest.raises(DataError, match="13 characters; split=random1200 needs all 1623"):
        Omniglot(root=root, verify=False)
    family = Omniglot(root=root, split="lake", verify=False, ways=2, resize="nearest")
    assert [family.count(split) for split in SPLITS] == [8, 2, 3]
    assert set(family.sample("val", torch.arange(9)).support.x.unique().tolist()) == {0.0, 1.0}


def damage_zip(root: Path) -> Path:
    path = root / "images_background.zip"
    path.write_bytes(path.read_bytes()[:-3000])
    return path


def bad_member(name: str, content: bytes) -> Callable[[Path], Path]:
    def change(root: Path) -> Path:
        path = root / "images_background.zip"
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, content)
        return path

    return change


def replace_npz(**arrays: np.ndarray) -> Callable[[Path], Path]:
    def change(root: Path) -> Path:
        path = root / "omniglot105_background.npz"
        np.savez(path, **arrays)
        return path

    return change


def cut_npz(root: Path) -> Path:
    path = root / "omniglot105_background.npz"
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)
    return path


def lose_a_drawing(root: Path) -> Path:
    next((root / "images_background").rglob("*.png")).unlink()
    return root / "images_background"


def break_a_drawing(root: Path) -> Path:
    next((root / "images_background").rglob("*.png")).write_bytes(b"\x89PNG\r\n\x1a\n half")
    return root / "images_background"


def other_size(root: Path) -> Path:
    Image.new("1", (90, 90)).save(next((root / "images_background").rglob("*.png")))
    return root / "images_background"


NAMES = np.array(["A/character01"])


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        ("zip", damage_zip, "damaged"),
        ("zip", bad_member("../evil.png", b"x"), "refused, its member '../evil.png'"),
        ("zip", bad_member("/abs/character01/0001_01.png", b"x"), "refused, its member '/abs"),
        ("zip", bad_member("A/character01/0001_01.png", bytes(1 << 20)), r"refused, .*1048576 bytes"),
        ("zip", bad_member("A/character01/0001_01.png", b"x"), "damaged at or after A/character01/0001_01.png"),
        ("packed", cut_npz, "damaged or not an Omniglot npz"),
        ("packed", replace_npz(bits=np.zeros((1, 20, 1379), np.uint8)), "damaged or not an Omniglot npz"),
        ("packed", replace_npz(names=NAMES, bits=np.zeros((1, 20, 1378), np.uint8)), r"expected uint8 \[1, 20, 1379\]"),
        ("packed", replace_npz(names=NAMES, bits=np.zeros((1, 20, 1379))), "bits is float64"),
        ("packed", replace_npz(names=NAMES, bits=np.array([{}], dtype=object)), "Object arrays cannot be loaded"),
        ("folder", lose_a_drawing, "has 19 drawings, expected 20"),
        ("folder", break_a_drawing, "damaged at or after"),
        ("folder", other_size, "90x90 pixels, expected 105x105"),
    ],
)
def test_damage_is_named_with_its_file(small, tmp_path, form, change, message):
    for source in small["roots"][form].rglob("*.*"):
        target = tmp_path / "copy" / source.relative_to(small["roots"][form])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    path = change(tmp_path / "copy")
    with pytest.raises(DataError, match=message) as caught:
        Omniglot(root=str(tmp_path / "copy"), split="lake", verify=False)
    assert str(caught.value).startswith(str(path))
    assert caught.value.exit_code == 3
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_missing_data_name_the_places_and_the_two_ways(tmp_path, monkeypatch, fake):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METAEXP_DATA", str(tmp_path / "sets"))
    with pytest.raises(DataError) as caught:
        Omniglot()
    for part in (f"{tmp_path}/sets/omniglot and ", f"{tmp_path}/data/omniglot", "task.download=true", "task.root="):
        assert part in str(caught.value)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "omniglot").symlink_to(fake)
    assert len(Omniglot().names) == 1623
    with pytest.raises(DataError, match=r"in none of the usable forms omniglot105_background.npz, images_background,"):
        Omniglot(resize="nearest")


# --- download -------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(small, tmp_path) -> Iterator[tuple[str, Path]]:
    """The small zips on a loopback server: its address and its folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    for part in files.PARTS:
        (folder / f"images_{part}.zip").write_bytes((small["roots"]["zip"] / f"images_{part}.zip").read_bytes())

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{service.server_address[1]}", folder
        service.shutdown()
        thread.join()


@pytest.fixture
def expected(small, monkeypatch) -> None:
    """Makes the small set the one that a download must give."""
    bits = [np.load(small["roots"]["packed"] / f"omniglot105_{part}.npz")["bits"] for part in files.PARTS]
    monkeypatch.setattr(files, "PARTS", {"background": 10, "evaluation": 3})
    monkeypatch.setattr(files, "CONTENT", hashlib.sha256(b"".join(b.tobytes() for b in bits)).hexdigest())


@pytest.mark.usefixtures("expected")
def test_download_checks_and_keeps_the_zips(server, tmp_path, monkeypatch):
    root = tmp_path / "new" / "omniglot"
    monkeypatch.setattr(files.download, "__defaults__", (server[0], 10.0))
    family = Omniglot(root=str(root), download=True, split="lake", ways=2)
    assert sorted(path.name for path in root.iterdir()) == ["images_background.zip", "images_evaluation.zip"]
    monkeypatch.setattr(files.download, "__defaults__", ("http://127.0.0.1:9", 1.0))  # not asked again
    assert torch.equal(Omniglot(root=str(root), download=True, split="lake", ways=2).data, family.data)


def swap(folder: Path) -> None:
    (folder / "images_evaluation.zip").write_bytes((folder / "images_background.zip").read_bytes())


def change_a_pixel(folder: Path) -> None:
    path = folder / "images_evaluation.zip"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    first, second = [name for name in members if name.endswith(".png")][:2]
    members[first], members[second] = members[second], members[first]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.usefixtures("expected")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "images_evaluation.zip").unlink(), "HTTP Error 404"),
        (lambda folder: (folder / "images_evaluation.zip").write_bytes(b"half"), "not a zip file"),
        (swap, "10 evaluation characters, expected 3"),
        (change_a_pixel, "sha256 of the drawings is .*, expected"),
        (lambda folder: bad_member("../../evil.png", b"x")(folder), "refused, its member '../../evil.png'"),
    ],
)
def test_a_bad_download_leaves_nothing(server, tmp_path, change, message):
    address, folder = server
    change(folder)
    with pytest.raises(DataError, match=message):
        files.download(tmp_path / "new", address, 10.0)
    assert list((tmp_path / "new").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "served"]


def test_a_download_without_network_or_cut_short(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"download into .* failed .*task.root="):
        files.download(tmp_path / "new", "http://127.0.0.1:9", 2.0)
    source = tmp_path / "source"
    source.write_bytes(bytes(100))
    with pytest.raises(OSError, match="larger than 10 bytes"):
        fetch(source.as_uri(), tmp_path / "target", 2.0, most=10)


# --- the real data --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(data_folder: Path) -> Path:
    if not files.is_there(data_folder / "omniglot"):
        pytest.skip(f"no Omniglot in {data_folder}")
    return data_folder / "omniglot"


def test_the_real_set_is_complete_and_as_the_authors_gave_it(real):
    found, images = files.read(real, "nearest", 28, verify=True)  # checks the sha256 of every drawing
    assert [len(part) for part in found.values()] == [964, 659]
    assert set(np.unique(images)) == {0, 255}
    assert 0.05 < (images > 0).mean() < 0.2


def test_the_ready_images_are_lanczos_of_the_drawings(real):
    with np.load(real / "omniglot105_evaluation.npz") as file:
        bits = file["bits"][::40]
    with np.load(real / "omniglot28_evaluation.npz") as file:
        assert np.array_equal(files._shrink(bits, "lanczos", 28), file["images"][::40])


def test_the_authors_zip_has_the_packed_drawings(real):
    path = real / "images_background_small1.zip"
    part = files._read_pngs(path, files._zip_pngs(path))
    assert len(part.names) == 136
    with np.load(real / "omniglot105_background.npz") as file:
        place = {name: i for i, name in enumerate(file["names"].tolist())}
        assert np.array_equal(part.pixels, file["bits"][[place[name] for name in part.names]])


def test_the_real_vinyals_split(real, tmp_path):
    family = Omniglot(root=str(real), split="vinyals")
    assert [family.count(split) for split in SPLITS] == [1028, 172, 423]
    assert (real / "splits_vinyals.json").exists()  # the published list, which the family has read
    without = vinyals({"all": family.names}, tmp_path)
    assert without == {split: family.splits[split].tolist() for split in SPLITS}
    with np.load(real / "omniglot28_background.npz") as file:
        place = family.names.index(str(file["names"][17]))
        assert np.array_equal(family.data[place * 20 + 3, 0].numpy(), file["images"][17, 3])
