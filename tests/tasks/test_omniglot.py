"""Omniglot: what episodes hold, how drawings are read, and what is said when the data are not right."""

import hashlib
import http.server
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_omniglot import decode, names, write_packed
from PIL import Image

from metaexp.errors import DataError
from metaexp.tasks.data import omniglot as files
from metaexp.tasks.data.download import fetch
from metaexp.tasks.omniglot import Omniglot, vinyals

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_packed(tmp_path_factory.mktemp("omniglot"))


@pytest.fixture(scope="module")
def family(fake: Path) -> Omniglot:
    return Omniglot(root=str(fake), ways=5, shots=3, queries=4, rotation="per_class", test={"rotation": "none"})


# --- episodes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_an_episode_is_what_it_says(family, split):
    episode = family.sample(split, torch.arange(60))
    assert episode.support.x.shape == (60, 15, 1, 28, 28)
    assert episode.query.x.shape == (60, 20, 1, 28, 28)
    allowed = set(family.splits[split].tolist())
    drawers = {}
    for name, k in (("support", 3), ("query", 4)):
        examples = getattr(episode, name)
        character, drawer, turns = (values.reshape(60, 5, k) for values in decode(examples.x))
        assert (character == episode.info["classes"].numpy()[..., None]).all()  # class-major, the class that info says
        assert (turns == episode.info["rotation"].numpy()[..., None]).all()  # a whole class is turned alike
        assert torch.equal(examples.y, torch.eye(5).repeat_interleave(k, 0).expand(60, -1, -1))
        assert set(character.flatten().tolist()) <= allowed
        drawers[name] = drawer
    both = np.concatenate([drawers["support"], drawers["query"]], -1)
    assert (np.diff(np.sort(both, -1), axis=-1) > 0).all()  # 7 different drawings of each class
    assert (np.diff(np.sort(episode.info["classes"].numpy(), -1), axis=-1) > 0).all()


def test_labels_and_classes_are_drawn_uniformly(family):
    classes = family.sample("val", torch.arange(4000), 1, 0).info["classes"]
    members = family.splits["val"].tolist()
    for label in range(5):
        counts = classes[:, label].bincount(minlength=1623)[members]
        assert counts.sum() == 4000
        assert ((counts - 40).double() ** 2 / 40).sum() < 99 + 4 * (2 * 99) ** 0.5


def test_every_drawer_is_drawn_equally_often(family):
    episode = family.sample("train", torch.arange(200))
    for examples in (episode.support, episode.query):
        counts = np.bincount(decode(examples.x)[1].flatten(), minlength=20)
        expected = counts.sum() / 20
        assert ((counts - expected) ** 2 / expected).sum() < 19 + 4 * 38**0.5


def test_shots_are_nested_and_leave_the_queries_alone(family):
    index = torch.arange(30)
    five, one = family.sample("test", index, 5, 15), family.sample("test", index, 1, 15)
    assert torch.equal(five.query.x, one.query.x)
    assert torch.equal(five.support.x.view(30, 5, 5, -1)[:, :, :1].flatten(1, 2), one.support.x.flatten(2))
    few = family.sample("test", index, 5, 2)
    assert torch.equal(five.support.x, few.support.x)
    assert torch.equal(five.query.x.view(30, 5, 15, -1)[:, :, :2].flatten(1, 2), few.query.x.flatten(2))
    twenty = family.sample("test", index, 1, 1, 20)
    assert torch.equal(twenty.info["classes"][:, :5], one.info["classes"])
    assert torch.equal(twenty.support.x[:, :5], one.support.x)


def test_a_split_may_use_every_drawing(family):
    episode = family.sample("train", torch.arange(8), 5, 15)
    drawers = [decode(part.x)[1].reshape(8, 5, -1) for part in (episode.support, episode.query)]
    assert (np.sort(np.concatenate(drawers, -1), -1) == np.arange(20)).all()


def test_evaluation_tasks_do_not_depend_on_the_seed(fake):
    index = torch.arange(20)
    a, b, c = (Omniglot(root=str(fake), seed=s, eval_seed=e) for s, e in ((0, 0), (1, 0), (0, 1)))
    for split in ("val", "test"):
        assert torch.equal(a.sample(split, index).query.x, b.sample(split, index).query.x)
        assert not torch.equal(a.sample(split, index).query.x, c.sample(split, index).query.x)
    assert not torch.equal(a.sample("train", index).query.x, b.sample("train", index).query.x)
    assert torch.equal(a.sample("train", index).query.x, c.sample("train", index).query.x)


# --- rotation -------------------------------------------------------------------------------------------------------


def test_rotation_is_drawn_per_class_in_training_only(family):
    counts = family.sample("train", torch.arange(2000), 1, 0).info["rotation"].flatten().bincount(minlength=4)
    assert ((counts - 2500.0) ** 2 / 2500).sum() < 16
    assert (family.sample("test", torch.arange(50)).info["rotation"] == 0).all()


def test_rotated_copies_as_classes(fake):
    family = Omniglot(root=str(fake), rotation="as_classes", test={"rotation": "none", "ways": 100})
    assert [family.count(split) for split in SPLITS] == [4400, 100, 423]
    assert family.pool_dim == 4400
    episode = family.sample("train", torch.arange(300), 1, 1, 20)
    both = episode.info["classes"] * 4 + episode.info["rotation"]
    assert (both.sort(-1).values.diff() > 0).all()
    assert (decode(episode.query.x)[2] == episode.info["rotation"].numpy()).all()
    assert (episode.info["rotation"].flatten().bincount() > 1300).all()


def test_pool_numbers_the_classes_of_the_split(fake):
    for rotation in ("none", "per_class", "as_classes"):
        family = Omniglot(root=str(fake), rotation=rotation)
        pool = family.pool("train", torch.arange(20), 64)
        assert pool.x.shape == (20, 64, 1, 28, 28)
        assert pool.y.shape == (20, 64, family.pool_dim)
        assert (pool.y.sum(-1) == 1).all()
        character, _, turns = decode(pool.x)
        label = pool.y.argmax(-1)
        assert (family.splits["train"][label % 1100].numpy() == character).all()
        expected = {"none": np.zeros_like(turns), "per_class": turns, "as_classes": (label // 1100).numpy()}[rotation]
        assert (turns == expected).all()
        assert (len(np.unique(turns)) == 4) == (rotation != "none")
        assert torch.equal(family.pool("train", torch.tensor([7]), 64).x[0], pool.x[7])


# --- splits ---------------------------------------------------------------------------------------------------------


def test_random1200_is_fixed_for_ever(family):
    members = [family.splits[split].tolist() for split in SPLITS]
    assert [len(part) for part in members] == [1100, 100, 423]
    assert sorted(i for part in members for i in part) == list(range(1623))
    digest = hashlib.sha256(json.dumps(members).encode()).hexdigest()
    assert digest == "65d1120e873902aad86e565ec1f74b6a68ba7e75a0f357d2de2868865e70635c"


def test_lake_holds_out_every_sixth_background_alphabet(fake):
    family = Omniglot(root=str(fake), split="lake")
    alphabets = {split: {family.names[i].split("/")[0] for i in family.splits[split].tolist()} for split in SPLITS}
    assert alphabets["val"] == {f"background{i:02d}" for i in (5, 11, 17, 23, 29)}
    assert alphabets["train"] == {f"background{i:02d}" for i in range(30)} - alphabets["val"]
    assert alphabets["test"] == {f"evaluation{i:02d}" for i in range(20)}
    assert sum(len(part) for part in family.splits.values()) == 1623


def test_vinyals_reads_the_file(fake, tmp_path):
    for part in ("background", "evaluation"):
        (tmp_path / f"omniglot28_{part}.npz").symlink_to(fake / f"omniglot28_{part}.npz")
    with pytest.raises(DataError, match=r"split=vinyals needs the authors' 1623 characters under their names"):
        Omniglot(root=str(tmp_path), split="vinyals")
    every = names("background") + names("evaluation")
    parts = {"train": every[::2], "val": every[1:400:2], "test": every[401::2]}
    path = tmp_path / "splits_vinyals.json"
    path.write_text(json.dumps(parts))
    family = Omniglot(root=str(tmp_path), split="vinyals")
    assert {s: [family.names[i] for i in family.splits[s].tolist()] for s in SPLITS} == parts
    path.write_text(json.dumps(parts | {"val": every[:9]}))
    with pytest.raises(DataError, match="a character is listed twice"):
        Omniglot(root=str(tmp_path), split="vinyals")
    path.write_text(json.dumps(parts | {"val": ["Elvish/character01"]}))
    with pytest.raises(DataError, match="'Elvish/character01' is not among the characters"):
        Omniglot(root=str(tmp_path), split="vinyals")
    path.write_text("{")
    with pytest.raises(DataError, match="damaged"):
        Omniglot(root=str(tmp_path), split="vinyals")


def test_vinyals_without_the_file_goes_by_alphabets(tmp_path):
    sizes = {"Armenian": 41, "Bengali": 46, "Early_Aramaic": 22, "Hebrew": 22, "Mkhedruli_(Georgian)": 41}
    sizes |= {"Kannada": 41, "Keble": 26, "Malayalam": 47, "Manipuri": 40, "Mongolian": 30, "Oriya": 46, "Sylheti": 28}
    sizes |= {"Old_Church_Slavonic_(Cyrillic)": 45, "Syriac_(Serto)": 23, "Tengwar": 25, "Tibetan": 42, "ULOG": 26}
    sizes |= {"Gurmukhi": 45, "Latin": 987}
    every = [f"{alphabet}/character{i + 1:02d}" for alphabet, count in sizes.items() for i in range(count)]
    parts = vinyals({"background": every[::2], "evaluation": every[1::2]}, tmp_path)
    ordered = every[::2] + every[1::2]
    found = {split: [ordered[i] for i in members] for split, members in parts.items()}
    assert {name.split("/")[0] for name in found["train"]} == {"Gurmukhi", "Latin"}
    assert {name.split("/")[0] for name in found["val"]} == set(list(sizes)[:5])
    assert [name for name in found["test"] if "Gurmukhi" in name] == [f"Gurmukhi/character{i}" for i in range(42, 46)]
    assert {split: (len(members), members == sorted(members)) for split, members in found.items()} == {
        "train": (1028, True),
        "val": (172, True),
        "test": (423, True),
    }
    with pytest.raises(DataError, match="needs the authors' 1623 characters under their names"):
        vinyals({"background": every[:-1], "evaluation": []}, tmp_path)


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ways": 500}, 'ways=500: split "val" has 100 classes'),
        ({"test": {"ways": 424, "rotation": "none"}}, 'test.ways=424: split "val" has 100 classes'),
        ({"ways": 1101, "test": {"ways": 5}}, 'ways=1101: split "train" has 1100 classes'),
        ({"ways": 1}, "ways=1: must be at least 2"),
        ({"shots": 6}, "shots=6 and queries=15: together more than the 20 examples of the smallest class"),
        ({"test": {"shots": 6}}, "test.shots=6 and queries=15: together more than the 20 examples"),
        ({"rotation": "left"}, "rotation=left: must be none | per_class | as_classes"),
        ({"test": {"rotation": "left"}}, "test.rotation=left: must be none | per_class | as_classes"),
        ({"split": "mine"}, "split=mine: must be random1200 | vinyals | lake"),
        ({"resize": "cubic"}, "resize=cubic: must be lanczos | nearest"),
        ({"size": 106}, "size=106: must be from 1 to 105"),
    ],
)
def test_settings_out_of_range_are_named(fake, settings, message):
    with pytest.raises(ValueError) as caught:
        Omniglot(root=str(fake), **settings)
    assert str(caught.value).startswith(message)


def test_asking_sample_for_too_much_is_refused(family):
    with pytest.raises(ValueError, match=r"shots=18 and queries=4"):
        family.sample("train", torch.arange(2), shots=18)


def test_inverted_and_in_double_precision(fake):
    index = torch.arange(3)
    ink, paper = (Omniglot(root=str(fake), invert=invert).to("cpu", torch.float64) for invert in (True, False))
    x = ink.sample("train", index).support.x
    assert x.dtype == torch.float64
    assert (x + paper.sample("train", index).support.x - 1).abs().max() < 1e-15
    assert ink.data.dtype == torch.uint8


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
