"""Tables that cannot be read are named in one line; the same table in other forms gives the same tasks."""

import json

import pandas as pd
import pytest
import torch
from made_table import HEADER, regression_and_classes, rows, table, write

from metaexp.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return regression_and_classes(tmp_path_factory.mktemp("tables"))


GOOD = rows(tasks=14)


def cell(row, name, value):
    made = [list(one) for one in GOOD]
    made[row][HEADER.index(name)] = value
    return made


def column(name, values):
    place = HEADER.index(name)
    return [[*one[:place], value, *one[place + 1 :]] for one, value in zip(GOOD, values, strict=True)]


BAD = {  # made file or rows -> settings, class, message
    "missing column": (GOOD, {"target": "scores"}, DataError, "has no column scores; did you mean score.*task.target="),
    "target missing": (cell(3, "score", ""), {}, DataError, "line 5: the target score is missing"),
    "target infinite": (cell(3, "score", "inf"), {}, DataError, "line 5: column score holds 'inf'"),
    "target mixed": (cell(0, "score", "good"), {}, DataError, "line 2: column score holds 'good'"),
    "input mixed": (cell(7, "age", "twelve"), {}, DataError, "line 9: column age holds 'twelve'.*categorical=.age."),
    "decimal comma": (cell(7, "age", "3,5"), {}, DataError, "line 9: column age .*decimal point"),
    "by missing": (cell(4, "school", ""), {}, DataError, "line 6 has no school"),
    "one task": (column("school", ["a"] * len(GOOD)), {}, DataError, "school is 'a' in every row: one task"),
    "all missing": (column("sex", [""] * len(GOOD)), {}, DataError, "column sex holds nothing.*task.drop=.sex."),
    "leak": (GOOD, {"inputs": ["age", "score"]}, ValueError, "inputs: score is task.target"),
    "copy": (column("income", [r[-1] for r in GOOD]), {}, DataError, "column income equals the target"),
    "too few rows": (GOOD, {"shots": 300}, ValueError, "shots=300, queries=10: no task of split \"train\""),
    "one class": (column("score", ["no"] * len(GOOD)), {}, DataError, "score is 'no' in every row"),
    "log of zero": (cell(5, "age", "0"), {"log": ["age"]}, DataError, "line 7: column age holds 0"),
    "no order": (cell(5, "age", ""), {"order": "age"}, DataError, "line 7 has no age"),
    "two splits": ([[*r, "train" if i else "test"] for i, r in enumerate(GOOD)], {}, DataError, "belong to one split"),
    "unknown task": (GOOD, {"tasks": {"train": ["s0"], "val": ["s1"], "test": ["x9"]}}, ValueError, "'x9' is no task"),
    "target is by": (GOOD, {"target": "school"}, ValueError, "is task.by, too"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_named_in_one_line(tmp_path, case):
    made, settings, error, said = BAD[case]
    path = write(tmp_path / "t.csv", made, HEADER if len(made[0]) == 6 else [*HEADER, "split"])
    with pytest.raises(error, match=said) as found:
        table(path, **settings)
    assert "\n" not in str(found.value)
    if error is DataError:
        assert str(path) in str(found.value)


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"", "t.csv", "is empty"),
        (b"school,age,score\n", "t.csv", "has no rows"),
        (b"school,age,age,score\n1,2,3,4\n", "t.csv", "line 1: two columns are named age"),
        (b"school;age;score\n1;2;3\n", "t.csv", "separated by ';', not ','"),
        (b"school,age,score\n1,2,3\n4,5\n", "t.csv", "line 3 has 2 columns, the header 3"),
        ("school,age,score\nM\u00fcller,2,3\n".encode("latin-1"), "t.csv", "line 2 is not UTF-8"),
        (b"not parquet", "t.parquet", "cannot be read as Parquet"),
        (b"x", "t.xlsx", "read from .csv, .tsv and .parquet"),
        (None, "t.csv", "no such file"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path, content, name, said):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said) as found:
        table(path)
    assert str(path) in str(found.value)
    assert "\n" not in str(found.value)


def test_tsv_and_parquet_give_the_same_tasks(folder, tmp_path):
    first = table(folder / "reg.csv")
    frame = pd.read_csv(folder / "reg.csv", parse_dates=["day"])
    frame.to_parquet(tmp_path / "reg.parquet")
    for other in (write(tmp_path / "reg.tsv", rows(), delimiter="\t"), tmp_path / "reg.parquet"):
        second = table(other)
        assert second.names == first.names
        torch.testing.assert_close(second.content.x, first.content.x, rtol=1e-12, atol=1e-12)
        assert torch.equal(second.content.y, first.content.y)


def test_splits_by_column_lists_and_folds(folder, tmp_path):
    named = {"train": ["s5", "s6"], "val": ["s12"], "test": ["s13", "s19"]}
    (tmp_path / "folds.json").write_text(json.dumps({"01": named, "02": {**named, "train": ["s20"]}}))
    tagged = [[*r, {"s5": "train", "s6": "training", "s12": "dev"}.get(r[0], "test")] for r in rows()]
    by_column = table(write(tmp_path / "t.csv", tagged, [*HEADER, "split"]))
    by_list = table(folder / "reg.csv", tasks=named)
    by_fold = table(folder / "reg.csv", class_file=str(tmp_path / "folds.json"), fold="01")
    for family in (by_list, by_fold):
        got = {split: [family.names[t] for t in tasks] for split, tasks in family.content.splits.items()}
        assert {split: set(names) for split, names in got.items()} == {s: set(n) for s, n in named.items()}
    assert [by_column.names[t] for t in by_column.content.splits["train"]] == ["s5", "s6"]
    assert "split" not in by_column.raw_inputs().names
