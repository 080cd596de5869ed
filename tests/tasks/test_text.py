"""Sentences from files as episodes: every form of file, every kind of damage, every way to split the classes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from metaexp.encoders.ngrams import NGrams
from metaexp.errors import ConfigError, DataError
from metaexp.system import cache
from metaexp.tasks.data.text import read_texts
from metaexp.tasks.text import Text

ROWS = [(f'sentence {i} of {label}, say "{label}"', label) for label in "abcdef" for i in range(4)]


@pytest.fixture(autouse=True)
def _no_cache():
    cache.choose("off")
    yield
    cache.choose(None)


def write(path: Path, form: str) -> Path:
    if form == "json":
        path.write_text(json.dumps([{"text": text, "label": label} for text, label in ROWS]))
    elif form == "parts.json":
        path.write_text(json.dumps({"train": ROWS[::2], "test": ROWS[1::2]}))
    elif form == "jsonl":
        path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in ROWS) + "\n\n")
    else:
        mark = "\t" if form == "tsv" else ","
        quoted = [mark.join(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row) for row in ROWS]
        path.write_text("\n".join([f"text{mark}label", *quoted]), encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("form", ["csv", "tsv", "json", "parts.json", "jsonl"])
def test_every_form_gives_the_same_sentences(form: str, tmp_path: Path) -> None:
    texts, labels = read_texts([str(write(tmp_path / f"data.{form}", form))], "text", "label")
    assert sorted(zip(texts, labels, strict=True)) == sorted(ROWS)
    assert labels == sorted(labels)


BAD = {
    "nowhere.csv": (None, r"nowhere.csv: no such file; task.file= names a CSV"),
    "data.txt": ("a", r"data.txt: sentences are read from .csv, .tsv, .json and .jsonl"),
    "empty.csv": ("  \n", r"empty.csv: is empty"),
    "header.csv": ("text,label\n", r"header.csv: has no rows"),
    "column.csv": ("text,lable\na,b\n", r"column.csv: has no column label; did you mean lable\?; set task.label="),
    "mark.csv": ("text;label\na;b\n", r"mark.csv: its columns are separated by ';', not ','"),
    "double.csv": ("text,text,label\na,b,c\n", r"double.csv: two columns are named text; rename one"),
    "short.csv": ("text,label\na,b\nc\n", r"short.csv: line 3 has 1 columns, the header 2"),
    "gap.csv": ("text,label\na,b\n,c\n", r"gap.csv: line 3 has nothing as text; complete the row or remove it"),
    "latin.csv": ("text,label\na,b\nk\xe4se,c\n".encode("latin-1"), r"latin.csv: line 3 is not UTF-8; save the file"),
    "open.json": ("[", r"open.json: not valid JSON"),
    "number.json": ("3", r"number.json: must be a list of rows"),
    "item.json": ('[["a", "b"], 5]', r"item.json: item 1 is neither an object nor \[text, label\] but 5"),
    "key.jsonl": ('{"text": "a"}', r"key.jsonl: line 1 has no label; it has text; set task.label="),
    "null.jsonl": ('{"text": null, "label": "b"}', r"null.jsonl: line 1 has nothing as text"),
    "list.jsonl": ('{"text": ["a"], "label": "b"}', r"list.jsonl: line 1 has \['a'\] as text"),
    "line.jsonl": ('{"text": "a", "label": "b"}\n{"text":', r"line.jsonl: line 2 is not valid JSON: Expecting value"),
    "deep.json": ("[" * 100_000, r"deep.json: not valid JSON: maximum recursion depth exceeded"),
    "half.csv": (
        'text,label\n"' + "a" * 140_000 + ",b\n",
        r"half.csv: line 2: field larger .*; close the quote before",
    ),
    "quote.csv": ('text,label\n"a" b,c\n', r"quote.csv: line 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_line(name: str, tmp_path: Path) -> None:
    content, message = BAD[name]
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message) as error:
        read_texts([str(path)], "text", "label")
    assert "\n" not in str(error.value)


def test_episodes_hold_vectors_of_their_classes(tmp_path: Path) -> None:
    file = str(write(tmp_path / "data.csv", "csv"))
    classes = {"train": ["a", "b"], "val": ["c", "d"], "test": ["e", "f"]}
    family = Text(file=file, ways=2, shots=2, queries=2, classes=classes, encoder=NGrams(dimensions=32))
    assert family.x_shape == (32,)
    for split in classes:
        episode = family.sample(split, torch.arange(20))
        for part in (episode.support, episode.query):
            for task in range(20):
                for x, y in zip(part.x[task], part.y[task], strict=True):
                    label = classes[split][
                        int(episode.info["classes"][task, y.argmax()]) - 2 * list(classes).index(split)
                    ]
                    own = NGrams(dimensions=32).encode([text for text, name in ROWS if name == label])
                    assert min(np.abs(own - x.numpy()).max(1)) < 1e-6
        rows = torch.cat((episode.support.x, episode.query.x), 1)
        assert all(len(torch.unique(task, dim=0)) == 8 for task in rows)


def test_ways_to_split(tmp_path: Path) -> None:
    file = str(write(tmp_path / "data.csv", "csv"))
    sizes = {"ways": 2, "shots": 1, "queries": 1}

    def split(**settings: object) -> list[list[str]]:
        family = Text(file=file, **sizes | settings)  # type: ignore[arg-type]
        return [[family.names[i] for i in family.splits[part].tolist()] for part in ("train", "val", "test")]

    (tmp_path / "lists.json").write_text(json.dumps({"train": ["f", "e"], "valid": ["a", "b"], "test": ["c", "d"]}))
    (tmp_path / "folds.json").write_text(
        json.dumps({"01": {"train": ["a", "b"], "val": ["c", "d"], "test": ["e", "f"]}})
    )
    (tmp_path / "groups.json").write_text(json.dumps({"one": ["a", "d"], "two": ["b", "e"], "three": ["c", "f"]}))
    assert split(class_file=str(tmp_path / "lists.json")) == [["f", "e"], ["a", "b"], ["c", "d"]]
    assert split(class_file=str(tmp_path / "folds.json"), fold="01") == [["a", "b"], ["c", "d"], ["e", "f"]]
    by_group = {"train": ["one"], "val": ["two"], "test": ["three"]}
    assert split(classes=by_group, groups=str(tmp_path / "groups.json")) == [["a", "d"], ["b", "e"], ["c", "f"]]
    count = iter(range(9))

    def lists(**parts: object) -> str:
        path = tmp_path / f"{next(count)}l.json"
        path.write_text(json.dumps(parts))
        return str(path)

    found = split(split=[0.4, 0.3, 0.3])
    assert sorted(name for part in found for name in part) == list("abcdef")
    assert split(split=[0.4, 0.3, 0.3]) == found
    for settings, message in (
        ({"class_file": str(tmp_path / "folds.json")}, "holds several splits; choose one with task.fold= 01"),
        ({"class_file": str(tmp_path / "folds.json"), "fold": "02"}, "task.fold=02"),
        ({"fold": "01"}, "fold=01: a fold is one of the splits in class_file"),
        ({"classes": {"train": ["a"], "val": ["a"], "test": ["b"]}}, "'a' is already in train"),
        ({"classes": {"train": ["a"], "val": ["c"], "test": ["z"]}}, "'z' is not a label of the data"),
        ({"drop": ["z"]}, "task.drop: 'z' is not a label"),
        ({"label": "text"}, "task.text=text: is task.label too"),
        ({"split": [1, 0, 0], "ways": 6}, 'ways=6: split "val" has 0 classes'),
        ({"class_file": lists(train=["a"], test=["b"])}, "it has no val"),
        ({"class_file": lists(train="a", val=["b"], test=["c"])}, "train is no list"),
        ({"class_file": lists(train=["a"], val=["a"], test=["b"])}, r"l.json: val: 'a' is already in train"),
        ({"class_file": lists(train=["a"], val=["z"], test=["b"])}, r"l.json: val: 'z' is not a label of the data"),
    ):
        with pytest.raises((ValueError, DataError), match=message):
            split(**settings)
    with pytest.raises(ValueError, match=r'the 4 examples of the smallest class of split "train" \(class [a-f]\)$'):
        split(queries=9)


def test_settings_of_an_encoder_that_was_not_chosen_are_refused(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("text,label\n" + "".join(f"word {i},{i % 12}\n" for i in range(48)))
    with pytest.raises(ConfigError, match=r"^encoder\.dimensions=64: no encoder is chosen; name it, too"):
        Text(file=str(tmp_path / "s.csv"), encoder={"dimensions": 64}, ways=2, queries=1)
    assert isinstance(Text(file=str(tmp_path / "s.csv"), encoder={}, ways=2, queries=1).encoder, NGrams)
