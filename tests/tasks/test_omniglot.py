"""Omniglot: what episodes hold, rotation, splits, and settings that are refused."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_omniglot import decode, names, write_packed

from metaexp.errors import DataError
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
