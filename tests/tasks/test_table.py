"""Tables as tasks: columns as scikit-learn encodes them, tasks of every size, each test row once, nothing leaks."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from made_table import HEADER, rows, table, write
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from metaexp import metrics
from metaexp.algos.forecasts import Drift, Last
from metaexp.algos.maml import MAML
from metaexp.algos.mean import Mean
from metaexp.algos.r2d2 import R2D2
from metaexp.errors import DataError
from metaexp.estimator import load
from metaexp.evaluation.baselines import baselines
from metaexp.evaluation.scores import evaluate
from metaexp.models.linear import Linear
from metaexp.models.mlp import MLP
from metaexp.outer.loaders import Span
from metaexp.outer.meta_training import MetaTraining
from metaexp.tasks.data.raw import restore
from metaexp.tasks.placeholder import absent, keep
from metaexp.types import Examples


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    write(folder / "reg.csv", rows())
    write(folder / "cls.csv", rows("classification"))
    return folder


# --- columns ----------------------------------------------------------------------------------------------------------


def test_columns_are_what_scikit_learn_makes_of_the_training_tasks(folder):
    family = table(folder / "reg.csv")
    frame = pd.read_csv(folder / "reg.csv")
    train = frame[frame.school.isin([family.names[task] for task in family.content.splits["train"]])]
    number = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    reference = ColumnTransformer(
        [("age", StandardScaler(), ["age"]), ("sex", OneHotEncoder(), ["sex"]), ("income", number, ["income"])],
        sparse_threshold=0,
    ).fit(train)
    made = family.raw_inputs()(frame[["age", "sex", "day", "income"]]).numpy()
    wanted = reference.transform(frame)
    assert family.content.inputs.features == [
        "age", "sex=f", "sex=m", "day", "day sine of the year", "day cosine of the year", "income", "income missing",
    ]  # fmt: skip
    np.testing.assert_allclose(made[:, [0, 1, 2, 6]], wanted[:, :4], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(made[:, 7], frame.income.isna())
    days = (pd.to_datetime(frame.day) - pd.Timestamp("1970-01-01")).dt.days
    inside = days[train.index]
    np.testing.assert_allclose(made[:, 3], (days - inside.mean()) / inside.std(ddof=0), atol=1e-9)
    score = train.score.to_numpy()
    np.testing.assert_allclose([family.y_mean.item(), family.y_std.item()], [score.mean(), score.std()], rtol=1e-12)


def test_rare_and_unknown_categories_share_a_place_as_in_scikit_learn(tmp_path):
    draw = np.random.default_rng(0)
    colours = draw.choice(list("abcdefg"), 300, p=[0.3, 0.25, 0.2, 0.1, 0.1, 0.03, 0.02])
    path = write(tmp_path / "t.csv", [[i % 20, c, i * 7 % 13] for i, c in enumerate(colours)], ["by", "c", "y"])
    family = table(path, by="by", target="y", most_categories=4, missing=["g"])
    train = [i for i in range(300) if i % 20 in family.content.splits["train"]]
    known = [colours[i] for i in train if colours[i] != "g"]
    encoder = OneHotEncoder(max_categories=5, handle_unknown="infrequent_if_exist", sparse_output=False)
    encoder.fit(np.array(known, dtype=object)[:, None])
    asked = [*"abcdef", "never seen"]
    made = family.raw_inputs()({"c": asked}).numpy()
    np.testing.assert_array_equal(made[:, :5], encoder.transform(np.array(asked, dtype=object)[:, None]))
    assert family.raw_inputs()({"c": ["g", ""]})[:, 5].tolist() == [1, 1]


def test_test_rows_change_no_bit_of_training(folder, tmp_path):
    first = table(folder / "reg.csv")
    held = {first.names[task] for split in ("val", "test") for task in first.content.splits[split]}
    changed = [[s, f"{float(a) * 9:.3f}", "unheard", d, "9e9", "-777"] if s in held else [s, a, x, d, i, y]
               for s, a, x, d, i, y in rows()]  # fmt: skip
    second = table(write(tmp_path / "reg.csv", changed))
    index = torch.arange(50)
    for a, b in zip(first.sample("train", index[:25]).support, second.sample("train", index[:25]).support, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(first.pool("train", index, 7).x, second.pool("train", index, 7).x)
    assert first.trained_on == second.trained_on
    assert first.raw_inputs().settings() == second.raw_inputs().settings()
    assert not torch.equal(first.sample("test", index[:1]).query.x, second.sample("test", index[:1]).query.x)


def test_what_a_run_keeps_makes_the_same_inputs_from_frames_dicts_and_columns_in_any_order(folder):
    family = table(folder / "cls.csv", drop=["income"])
    inputs = family.raw_inputs()
    again = restore(json.loads(json.dumps(inputs.settings())), {})
    frame = pd.read_csv(folder / "cls.csv")
    wanted = inputs(frame)
    assert torch.equal(again(frame[HEADER[::-1]]), wanted)
    assert torch.equal(again(frame.to_dict("records")), wanted)
    assert again.classes == ["no", "yes"]
    assert torch.equal(again.targets(frame)[:, 1], torch.from_numpy((frame.score == "yes").to_numpy(float)))
    for raw, said in (
        (frame.drop(columns="age"), "has no column age"),
        (frame.assign(hight=1), "column hight is unknown"),
        (frame.assign(age="old"), "row 0 has 'old' as age; it must be a finite number"),
        ([1, 2], "columns are matched by name"),
    ):
        with pytest.raises(ValueError, match=said):
            again(raw)
    with pytest.raises(ValueError, match="row 2 has 'maybe' as score, known: no, yes"):
        again.targets({"score": ["no", "yes", "maybe"]})


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("reg.csv", {"shots": 5}),
        ("reg.csv", {"shots": 0}),
        ("reg.csv", {"shots": 0.4}),
        ("reg.csv", {"shots": 3, "order": "age"}),
        ("cls.csv", {"shots": 5, "one_class": "keep"}),
    ],
)
def test_every_row_of_every_test_task_is_used_once(folder, file, settings):
    family = table(folder / file, **settings)
    frame = pd.read_csv(folder / file)
    seen = {}
    for run in family.runs("test", 1000):
        episode = family.sample("test", run)
        for task, used in zip(episode.info["task"].tolist(), episode.info["rows"].tolist(), strict=True):
            assert family.names[task] not in seen
            seen[family.names[task]] = sorted(used)
    counts = frame.school.value_counts()
    tasks = [family.names[task] for task in family.content.splits["test"]]
    least = {5: 6, 0: 2, 0.4: 2, 3: 4}[settings["shots"]]
    assert seen == {name: list(range(counts[name])) for name in tasks if counts[name] >= least}
    assert set(family.left_out["test"]) == set(tasks) - set(seen)
    assert sum(len(family.left_out[split]) + len(family.able[split]) for split in ("train", "val", "test")) == 42


def test_a_range_gives_every_task_its_own_shots_and_the_same_queries(folder):
    family = table(folder / "reg.csv", shots=[0, 20])
    whole = {int(t): int(n) for t, n in zip(range(42), family._counts, strict=True)}
    drawn = set()
    for run in family.runs("test", 100):
        own = family.sample("test", run)
        drawn.add(own.support.x.shape[1])
        for shots in (0, 2, 20):
            for again in family.runs("test", 100, shots):
                both = [i for i in again.tolist() if i in run.tolist()]
                episode = family.sample("test", again, shots=shots)
                for i in both:
                    a, b = run.tolist().index(i), again.tolist().index(i)
                    assert torch.equal(own.query.x[a], episode.query.x[b])
                    rows_ = whole[int(own.info["task"][a])]
                    assert episode.support.x.shape[1] == min(shots, 20, rows_ // 2)
                    least = min(episode.support.x.shape[1], own.support.x.shape[1])
                    assert torch.equal(own.support.x[a, :least], episode.support.x[b, :least])
    assert len(drawn) > 3
    assert family.short("test", 100, 20) == sum(family._counts[task] < 40 for task in family.able["test"])
    assert family.varying("test") is not None


def test_training_tasks_of_like_size_share_a_meta_batch_and_each_is_as_frequent(folder):
    family = table(folder / "reg.csv", shots=5, queries=10, bucket=4)
    shapes, counted = set(), np.zeros(42)
    for first in range(0, 1600, 4):
        episode = family.sample("train", torch.arange(first, first + 4))
        shapes.add((episode.support.x.shape[1], episode.query.x.shape[1]))
        counted += np.bincount(episode.info["task"].numpy(), minlength=42)
        for task, used in zip(episode.info["task"].tolist(), episode.info["rows"].tolist(), strict=True):
            assert len(set(used)) == len(used)
            assert max(used) < family._counts[task]
    assert shapes == {(5, 1), (5, 4), (5, 9)}  # 14 rows and 15 or more are alike
    able = family.able["train"]
    assert counted[able].sum() == 1600
    share = 1600 / len(able)
    assert np.abs(counted[able] - share).max() < 8 * np.sqrt(share)  # a bin is drawn for four tasks at once
    with pytest.raises(ValueError, match="bucket=4"):
        family.sample("train", torch.arange(3, 6))


def test_the_support_set_of_classes_is_stratified(folder):
    family = table(folder / "cls.csv", shots=8)
    for run in family.runs("test", 100):
        episode = family.sample("test", run)
        for task, y, q in zip(episode.info["task"].tolist(), episode.support.y, episode.query.y, strict=True):
            start = sum(family._counts[:task])
            share = family.content.y[start : start + family._counts[task]].mean(0)
            assert (y.sum(0) >= 1).all()
            assert (y.sum(0) - 8 * share).abs().max() < 1.5
            rare = float(share.min()) * family._counts[task]
            assert (q.sum(0) >= 1).all() or rare < 2


def test_balanced_weights_are_those_of_scikit_learn(folder):
    from sklearn.utils.class_weight import compute_class_weight

    family = table(folder / "cls.csv", class_weights="balanced")
    y = family.y[family.rows].argmax(-1).numpy()
    np.testing.assert_allclose(
        family.class_weights, compute_class_weight("balanced", classes=np.array([0, 1]), y=y), rtol=1e-6
    )
    logits = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    target = torch.eye(2)[torch.arange(20) % 2]
    wanted = torch.nn.functional.cross_entropy(logits, target.argmax(-1), family.class_weights.float(), reduction="sum")
    torch.testing.assert_close(family.loss(logits, target), wanted / 20)


# --- metrics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ways", [2, 3])
def test_auc_and_balanced_accuracy_are_those_of_scikit_learn(ways):
    draw = torch.Generator().manual_seed(ways)
    for n in (5, 40, 300):
        logits = torch.randn(n, ways, generator=draw, dtype=torch.float64).round(decimals=1)  # with ties
        labels = torch.cat([torch.arange(ways), torch.randint(ways, (n - ways,), generator=draw)])
        target = torch.eye(ways, dtype=torch.float64)[labels]
        chance = torch.softmax(logits, -1)
        scores = (logits[:, 1] - logits[:, 0]) if ways == 2 else chance
        wanted = roc_auc_score(labels, scores, multi_class="ovr") if ways > 2 else roc_auc_score(labels, scores)
        assert float(metrics.auc(logits, target)) == pytest.approx(wanted, abs=1e-12)
        wanted = balanced_accuracy_score(labels, logits.argmax(-1))
        assert float(metrics.balanced_accuracy(logits, target)) == pytest.approx(wanted, abs=1e-12)
    mapped = torch.func.vmap(metrics.auc)(torch.stack([logits] * 3), torch.stack([target] * 3))
    assert mapped.tolist() == pytest.approx([float(metrics.auc(logits, target))] * 3)
    assert metrics.auc(logits, target[:1].expand(n, ways)).isnan()  # one class
    logits[0, 0] = torch.nan
    assert metrics.auc(logits, target).isnan()
    assert metrics.balanced_accuracy(logits, target).isnan()


def test_mase_is_the_error_over_that_of_as_before():
    support = torch.tensor([[1.0], [3.0], [2.0], [6.0]])  # steps 2, 1, 4
    prediction, target = torch.tensor([[5.0], [9.0]]), torch.tensor([[7.0], [6.0]])  # errors 2, 3
    assert float(metrics.mase(prediction, target, support)) == pytest.approx(2.5 / (7 / 3))
    assert metrics.mase(prediction, target, support[:1]).isnan()
    assert metrics.mase(prediction, target, torch.ones(3, 1)).isnan()
    assert float(metrics.in_units(metrics.mae, 3.0)(prediction, target)) == pytest.approx(7.5)


def test_metrics_are_in_the_unit_of_the_target(folder):
    family = table(folder / "reg.csv")
    learner = Mean(family)
    scores = evaluate(learner, "test", 100, ["queries"])
    frame = pd.read_csv(folder / "reg.csv")
    index = {i: task for run in family.runs("test", 100) for i, task in
             zip(run.tolist(), family.sample("test", run).info["task"].tolist(), strict=True)}  # fmt: skip
    assert scores.indices.tolist() == sorted(index)
    for run in family.runs("test", 100):
        used = family.sample("test", run).info["rows"]
        for i, places in zip(run.tolist(), used.tolist(), strict=True):
            y = frame[frame.school == family.names[index[i]]].score.to_numpy()[places]
            error = y[5:] - y[:5].mean()
            for name, value in (("mse", (error**2).mean()), ("rmse", np.sqrt((error**2).mean())),
                                ("mae", np.abs(error).mean())):  # fmt: skip
                assert scores.arrays[name][i, 0] == pytest.approx(value, rel=1e-4)
    with pytest.raises(ValueError, match="metric=auc: must be one of mse, rmse, mae"):
        table(folder / "reg.csv", metric="auc")
    assert next(iter(table(folder / "cls.csv", metric="auc").metrics)) == "auc"


def test_a_default_method_beats_pooled_regression_with_an_offset(tmp_path):
    family = table(write(tmp_path / "t.csv", rows(tasks=140, seed=5)), bucket=16)
    pooled = Ridge(1.0).fit(family.x[family.rows].numpy(), family.y[family.rows].numpy())
    torch.manual_seed(0)
    learner = R2D2(family, partial(MLP, hidden=[40, 40]))
    adam = torch.optim.Adam(learner.parameters(), 3e-3)
    MetaTraining(learner, adam, None, steps=200, meta_batch=16).run(Span(0, 200))
    scores = evaluate(learner, "test", 1000, ["queries"]).arrays["mse"][:, -1]
    floor = np.zeros(len(scores))
    for run in family.runs("test", 1000):
        episode = family.sample("test", run)
        for place, x, y, asked, true in zip(
            run, *map(torch.Tensor.numpy, [*episode.support, *episode.query]), strict=False
        ):
            offset = (y - pooled.predict(x).reshape(-1, 1)).mean()
            error = pooled.predict(asked).reshape(-1, 1) + offset - true
            floor[place] = (error**2).mean() * float(family.y_std) ** 2
    assert scores.mean() < 0.9 * floor.mean()
    assert (scores < floor).mean() > 0.6


# --- forecasts --------------------------------------------------------------------------------------------------------


def test_forecasts_from_every_origin_against_a_loop_by_hand(tmp_path):
    draw = np.random.default_rng(3)
    made = [[t, year, f"{draw.normal():.4f}", f"{t + 0.1 * year * (t % 3) + draw.normal():.4f}"]
            for t in range(12) for year in draw.permutation(7 + t % 4)]  # fmt: skip
    path = write(tmp_path / "t.csv", made, ["land", "year", "noise", "y"])
    family = table(path, by="land", target="y", order="year", horizon=2, shots=3)
    found = baselines(family, "test", 100, names=("last", "drift", "mean"))
    assert set(found) == {"last", "drift", "mean"}
    frame = pd.read_csv(path)
    for place, unit in enumerate(family._units["test"]):
        y = frame[frame.land == int(family.names[unit.task])].sort_values("year").y.to_numpy()
        errors = {"last": [], "drift": [], "mean": []}
        for origin in range(3, len(y) - 1):
            known, asked = y[origin - 3 : origin], y[origin : origin + 2]
            guesses = {
                "last": known[-1],
                "drift": known[-1] + (known[-1] - known[0]) / 2 * np.array([1, 2]),
                "mean": known.mean(),
            }
            naive = np.abs(np.diff(known)).mean()
            for name, guess in guesses.items():
                errors[name].append((np.abs(asked - guess).mean(), np.abs(asked - guess).mean() / naive))
        for name, values in errors.items():
            mae, mase = np.mean(values, axis=0)
            assert found[name]["mae"][place, 0] == pytest.approx(mae, rel=1e-3)
            assert found[name]["mase"][place, 0] == pytest.approx(mase, rel=1e-3)
    episode = family.sample("train", torch.arange(200))
    starts = episode.info["rows"][:, 0]
    assert torch.equal(episode.info["rows"], starts[:, None] + torch.arange(5))
    assert starts.max() > 3
    learner = MAML(family, Linear(family.x_shape, 1))
    scores = evaluate(learner, "test", 100, ["queries"], final=True)
    assert scores.indices.tolist() == list(range(len(family._units["test"])))
    loss, logs = learner(episode)
    assert loss.isfinite()
    assert "mase" not in logs
    for learner in (Last(family), Drift(family)):
        nothing = learner.adapt(Examples(episode.support.x[0, :0], episode.support.y[0, :0]), episode.key[0])
        assert learner.predict(nothing, episode.query.x[0]).abs().sum() == 0
    with pytest.raises(ValueError, match=r"horizon=2: a forecast needs task.order"):
        table(path, by="land", target="y", horizon=2)


def test_no_shots_are_legal_and_give_a_loss_of_zero_or_the_prior(folder):
    family = table(folder / "cls.csv", shots=[0, 6], queries=4, bucket=2, test={"queries": 2})
    learner = R2D2(family, Linear(family.x_shape, 2))
    for first in range(0, 40, 2):
        loss, _ = learner(family.sample("train", torch.arange(first, first + 2)))
        assert loss.isfinite()
    scores = evaluate(learner, "test", 100, ["queries"], shots=0)
    assert np.isfinite(scores.arrays["accuracy"]).all()
    assert (scores.arrays["log_likelihood"] == scores.arrays["log_likelihood"][0]).all()  # nothing is known of any task


# --- bad input --------------------------------------------------------------------------------------------------------

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


# --- runs -------------------------------------------------------------------------------------------------------------

RUN = ["algo=r2d2", "task=table", "task.by=school", "task.target=score", "task.bucket=2", "meta_batch=2", "device=cpu",
       "val.every=4", "checkpoint.every=4", "test.curve_shots=[1,5]", "device.threads=1", "compile=false"]  # fmt: skip


def test_training_in_two_parts_has_the_bits_of_one(folder):
    def learner():
        torch.manual_seed(0)
        family = table(folder / "reg.csv", shots=[0, 6], bucket=2)
        made = R2D2(family, partial(MLP, hidden=[8]))
        return made, MetaTraining(made, torch.optim.SGD(made.parameters(), 0.1), None, steps=12, meta_batch=2)

    (one, whole), (two, first), (three, second) = learner(), learner(), learner()
    assert whole.run(Span(0, 12)) == 12
    assert first.run(Span(0, 5)) == 5
    three.load_state_dict(two.state_dict())
    assert second.run(Span(5, 12)) == 12
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), three.parameters(), strict=True))
    assert len({family_.sample("train", torch.arange(k, k + 2)).support.x.shape[1]
                for family_ in [one.family] for k in range(0, 40, 2)}) > 3  # fmt: skip


def test_a_run_says_what_it_used_and_is_used_without_its_table(forks, folder, tmp_path):
    write(tmp_path / "t.csv", rows())
    ended = forks(*RUN, "task.file=t.csv", "steps=4", "out=runs", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert "tasks left out" in ended.out + ended.err
    (first,) = (tmp_path / "runs").glob("*_r2d2_table_*")
    a = np.load(first / "test_scores.npz")
    result = json.loads((first / "result.json").read_text())
    assert result["protocol"]["queries"] == "rest"
    assert result["protocol"]["tasks"]["test"] == result["test"]["mse"]["tasks"] == len(a["indices"])
    assert len(result["data"]["left_out"]["test"]) == result["protocol"]["left_out"]["test"] > 0
    np.testing.assert_array_equal(a["mse"][:, -1], a["shots_curve_mse"][:, 1])
    (tmp_path / "t.csv").unlink()
    frame = pd.read_csv(folder / "reg.csv").query("school == 's20'")
    learner = load(first).fit(frame[HEADER[1:5]][:5], frame.score[:5])
    assert list(learner.feature_names_in_) == HEADER[1:5]
    shuffled = learner.predict(frame[["income", "day", "sex", "age"]][5:])
    np.testing.assert_array_equal(shuffled, learner.predict(frame[HEADER[1:5]][5:]))
    assert np.corrcoef(shuffled, frame.score[5:])[0, 1] > 0.5
    with pytest.raises(ValueError, match="has no column age"):
        learner.predict(frame.drop(columns="age"))


@pytest.mark.parametrize(("settings", "code"), [(["task.target=scores"], 3), (["task.shots=900"], 2)])
def test_exit_codes_tell_data_from_settings(forks, folder, tmp_path, settings, code):
    ended = forks(*RUN, f"task.file={folder / 'reg.csv'}", *settings, cwd=tmp_path)
    assert ended.code == code
    assert len(ended.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_without_its_table_a_learner_keeps_loss_and_metrics(folder):
    draw = torch.Generator().manual_seed(0)
    family = table(folder / "reg.csv", order="day", metric="mae")
    gone = absent(keep(family), "gone")
    prediction, target, support = (torch.randn(n, 1, generator=draw) for n in (5, 5, 4))
    assert list(family.metrics) == list(gone.metrics) == ["mae", "mse", "rmse", "mase"]
    for name, metric in family.metrics.items():
        assert torch.equal(*(metrics.measure(m, prediction, target, support) for m in (metric, gone.metrics[name])))
    family = table(folder / "cls.csv", class_weights="balanced")
    gone = absent(keep(family), "gone")
    logits, target = torch.randn(6, 2, generator=draw), torch.eye(2)[torch.arange(6) % 2]
    assert torch.equal(family.loss(logits, target), gone.loss(logits, target))
    assert not torch.equal(family.loss(logits, target), torch.nn.functional.cross_entropy(logits, target))
