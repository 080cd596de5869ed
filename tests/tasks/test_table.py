"""Tables as tasks: columns as scikit-learn encodes them, tasks of every size, each test row once, nothing leaks."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from made_table import HEADER, regression_and_classes, rows, table, write
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from metaexp import metrics
from metaexp.algos.r2d2 import R2D2
from metaexp.estimator import load
from metaexp.models.mlp import MLP
from metaexp.outer.loaders import Span
from metaexp.outer.meta_training import MetaTraining
from metaexp.tasks.data.raw import restore
from metaexp.tasks.placeholder import absent, keep


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return regression_and_classes(tmp_path_factory.mktemp("tables"))


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
