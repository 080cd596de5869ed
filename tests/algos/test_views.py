"""What methods show of their inside: what is drawn is read back; TensorBoard's projector."""

import errno
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image
from references import reported
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin, _read_tensor_tsv_file

from metaexp.algos.metasgd import MetaSGD
from metaexp.algos.protonet import ProtoNet
from metaexp.algos.views import Bars, Heatmap, Scatter
from metaexp.contract import new, pictures
from metaexp.errors import SpaceError
from metaexp.loggers.tensorboard import TensorBoard
from metaexp.models.mlp import MLP
from metaexp.plots.views import CLASSES, bars, draw, heatmap, principal, scatter
from metaexp.tasks.sine import Sine
from metaexp.training.figures import show_views

F64 = torch.float64


def fits(figure) -> None:
    figure.savefig("/dev/null", format="png")  # lays it out, too


def line(axes, start):
    (found,) = [one for one in axes.get_lines() if str(one.get_label()).startswith(start)]
    return found


# --- points -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 7), (5, 30), (200, 3), (2, 64)])
def test_principal_components_are_those_of_numpy(shape):
    x = np.random.default_rng(0).normal(size=shape) * np.linspace(3, 1, shape[1]) + 5
    scores, share = principal(torch.tensor(x, dtype=torch.float32 if shape[0] == 40 else F64))
    centred = x - x.mean(0)
    u, s, v = np.linalg.svd(centred, full_matrices=False)
    digits = 1e-5 if shape[0] == 40 else 1e-10
    for i in range(2):
        if s[i] > 1e-9:
            sign = np.sign(v[i][np.abs(v[i]).argmax()])
            np.testing.assert_allclose(scores[:, i], sign * u[:, i] * s[i], atol=digits * s[0])
    np.testing.assert_allclose(share, (s**2 / (s**2).sum())[:2], atol=digits)


def test_principal_components_of_odd_points():
    scores, share = principal(torch.ones(4, 3))  # no spread at all
    assert (scores == 0).all()
    assert (share == 0).all()
    assert principal(torch.arange(3.0)[:, None])[0][:, 1].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="finite"):
        principal(torch.full((3, 4), torch.nan))


def test_scatter_of_classes():
    points = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]])
    view = Scatter(points, torch.tensor([1, 3, 1, 3]), ["prototype", "prototype", "query", "query"], "t", "class")
    figure = scatter(view)
    (axes,) = figure.axes
    queries, prototypes = axes.collections  # the kind that stands out last, on top
    np.testing.assert_allclose(prototypes.get_offsets(), points[:2])
    np.testing.assert_allclose(queries.get_offsets(), points[2:])
    assert prototypes.get_sizes()[0] > queries.get_sizes()[0]
    assert (prototypes.get_facecolors()[:, :3] == queries.get_facecolors()[:, :3]).all()
    assert (prototypes.get_facecolors()[0] != prototypes.get_facecolors()[1]).any()
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["query", "prototype", "class 1", "class 3"]
    assert axes.get_xlabel() == "dimension 1"
    fits(figure)


def test_scatter_of_many_dimensions_says_how_much_it_shows():
    x = torch.zeros(4, 3)
    x[:, 0], x[:, 1] = torch.tensor([-3.0, 3, -3, 3]), torch.tensor([-1.0, -1, 1, 1])
    figure = scatter(Scatter(x, torch.arange(4) / 4, ["context"] * 4, colour_name="amplitude"))
    axes, bar = figure.axes
    assert axes.get_xlabel() == "component 1 of 3 (90% of the variance)"
    assert axes.get_ylabel() == "component 2 of 3 (10% of the variance)"
    np.testing.assert_allclose(axes.collections[0].get_offsets(), x[:, :2], atol=1e-6)
    assert bar.get_ylabel() == "amplitude"
    assert not figure.legends
    fits(figure)
    many = scatter(Scatter(torch.randn(60, 5), torch.arange(60) % 30, ["query"] * 60))  # no legend of 30 classes
    assert not many.legends
    fits(many)
    fits(scatter(Scatter(torch.randn(3, 1), torch.zeros(3), ["a", "b", "c"])))


# --- tables and bars --------------------------------------------------------------------------------------------------


def test_heatmap_has_its_numbers_and_names():
    values = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    figure = heatmap(Heatmap(values, "query", "support", ["a", "b"], ["left", "right"], "attention", "weight"))
    axes, bar = figure.axes
    np.testing.assert_array_equal(axes.images[0].get_array(), values)
    assert [text.get_text() for text in axes.texts] == ["0.25", "0.75", "1", "0"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["left", "right"]
    assert (axes.get_xlabel(), axes.get_ylabel(), bar.get_ylabel()) == ("support", "query", "weight")
    fits(figure)
    signed = heatmap(Heatmap(torch.tensor([[-1.0, 3.0], [torch.nan, 0.0]]), "r", "c"))
    assert signed.axes[0].images[0].get_clim() == (-3, 3)  # 0 in the middle
    fits(signed)
    large = heatmap(Heatmap(torch.rand(60, 100), "r", "c", column_names=[f"column {i}" for i in range(100)]))
    assert not large.axes[0].texts
    assert len(large.axes[0].get_xticklabels()) <= 24
    fits(large)


def test_bars():
    figure = bars(Bars(torch.tensor([0.5, -0.25, torch.nan]), ["body.0", "head", "odd"], "rates", "mean rate"))
    (axes,) = figure.axes
    assert [patch.get_width() for patch in axes.patches] == [0.5, -0.25, 0.0]
    assert axes.patches[0].get_facecolor() != axes.patches[1].get_facecolor()
    assert [text.get_text() for text in axes.texts] == ["0.5", "-0.25", "nan"]
    fits(figure)


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (Bars(torch.ones(2), ["a"]), "1 names for 2 bars"),
        (Heatmap(torch.ones(2, 3), "r", "c", row_names=["a"]), "1 names for 2 rows"),
        (Scatter(torch.ones(2, 3), torch.ones(2), ["a"]), "2 points, 2 colours, 1 kinds"),
    ],
)
def test_parts_that_do_not_fit(view, message):
    with pytest.raises(ValueError, match=message):
        draw(view)


# --- on the boards ----------------------------------------------------------------------------------------------------


class Shown:
    """A learner that shows what it is given."""

    view_tasks = 8

    def __init__(self, views):
        self.family, self.views = Sine(3, 3), views


def test_a_view_that_fails_is_one_line_and_the_others_are_drawn(tmp_path):
    told = reported()
    board = TensorBoard(tmp_path / "run")
    good, bad = Bars(torch.ones(1), ["a"]), Bars(torch.ones(2), ["a"])
    show_views(Shown(lambda episode: {"bad": bad, "good": good, "odd": 3}), "test", board, 1)
    show_views(Shown(lambda episode: 1 / 0), "test", board, 1)
    board.close()
    assert [path.name for path in (tmp_path / "run" / "figures").iterdir()] == ["test_view_good.png"]
    assert told[0] == "warning: view bad of Shown left out (ValueError: 1 names for 2 bars)"
    assert told[1].startswith("warning: view odd of Shown left out (AttributeError")
    assert told[2] == "warning: views of Shown left out (ZeroDivisionError: division by zero)"


def test_a_full_disk_is_no_failed_view(tmp_path, monkeypatch):
    def full(*args, **more):
        raise SpaceError("no space")

    board = SimpleNamespace(figure=full)
    with pytest.raises(SpaceError):
        show_views(Shown(lambda episode: {"a": Bars(torch.ones(1), ["a"])}), "test", board, 1)
    real = TensorBoard(tmp_path / "run")
    monkeypatch.setattr("metaexp.loggers.projector.replace_file", lambda *a, **k: (_ for _ in ()).throw(_no_space()))
    with pytest.raises(SpaceError):
        real.embedding("a", torch.ones(2, 3), {"kind": ["a", "b"]})


def _no_space() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def test_points_come_back_from_tensorboards_projector(tmp_path):
    told, points = reported(), torch.randn(4, 5)
    view = Scatter(points, torch.tensor([1, 2, 1, 2]), ["a", "a", "b c", "b c"], class_names={2: "two"})
    for resumed_at in (None, 10):  # a resumed run knows nothing of the first process, and keeps its points
        board = TensorBoard(tmp_path / "tree" / "run", resumed_at)
        board.scalars({"x": 1.0}, 1)
        split = "val" if resumed_at is None else "test"
        show_views(Shown(lambda episode: {"space": view}), split, board, 10)
        show_views(Shown(lambda episode: {"flat": view._replace(points=points[:, :2])}), split, board, 10)
        board.close()
    assert not told
    tree = EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "tree")).Reload()
    provider = MultiplexerDataProvider(tree, str(tmp_path / "tree"))
    plugin = ProjectorPlugin(base_plugin.TBContext(data_provider=provider, logdir=str(tmp_path / "tree")))
    plugin._update_configs()
    found = plugin._configs["run"].embeddings
    assert [one.tensor_name for one in found] == ["test_view_space", "val_view_space"]
    for one in found:
        assert list(one.tensor_shape) == [4, 5]
        tensor = _read_tensor_tsv_file(str(tmp_path / "tree" / "run" / one.tensor_path))
        np.testing.assert_array_equal(tensor, points.numpy())
        table = (tmp_path / "tree" / "run" / one.metadata_path).read_text()
        words = ("label", "colour", "kind"), ("a, colour 1", "colour 1", "a"), ("a, two", "two", "a")
        words += ("b c, colour 1", "colour 1", "b c"), ("b c, two", "two", "b c")
        assert table == "".join("\t".join(row) + "\n" for row in words)
        with Image.open(tmp_path / "tree" / "run" / one.sprite.image_path) as sheet:
            assert sheet.size == tuple(2 * side for side in one.sprite.single_image_dim) == (48, 48)
            centres = [sheet.convert("RGB").getpixel(place) for place in ((12, 12), (36, 12), (12, 36), (36, 36))]
        assert (
            centres[0] == centres[2] == tuple(round(255 * part) for part in to_rgb(CLASSES[0]))
        )  # the colours of the picture
        assert centres[1] == centres[3] == tuple(round(255 * part) for part in to_rgb(CLASSES[1]))
    board = TensorBoard(tmp_path / "other")
    board.embedding("odd", points[:1], {"kind": ["a\tb\nc"]})  # a tab or a line in a word would be a column or a row
    assert (tmp_path / "other" / "projector" / "odd.metadata.tsv").read_text() == "kind\na b c\n"


# --- the methods' own -------------------------------------------------------------------------------------------------


def test_metasgd_shows_the_mean_rate_of_every_layer():
    learner = new(lambda f: MetaSGD(f, partial(MLP, hidden=[6])), Sine(3, 3).to("cpu", F64))
    (view,) = learner.views(learner.family.sample("test", torch.arange(4))).values()
    assert view.names == ["body.0", "head"]
    for value, layer in zip(view.values, view.names, strict=True):
        rates = torch.cat([learner.rates[f"{layer.replace('.', '/')}/{part}"].flatten() for part in ("weight", "bias")])
        assert abs(float((value - rates.mean()).detach())) < 1e-15


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_protonet_shows_a_space_in_which_the_nearest_prototype_is_its_answer(distance):
    family = pictures(side=4, ways=3, queries=5)
    learner = new(lambda f: ProtoNet(f, partial(MLP, hidden=[9]), distance), family)
    episode = family.sample("test", torch.arange(4))
    with torch.no_grad():
        view = learner.views(episode)["space"]
        support = type(episode.support)(episode.support.x[0], episode.support.y[0])
        answer = learner.predict(learner.adapt(support, episode.key[0]), episode.query.x[0]).argmax(-1)
    assert view.points.shape == (3 + 15, 9)
    assert list(view.kind) == ["prototype"] * 3 + ["query"] * 15
    assert view.colour.tolist() == [1, 2, 3, *(episode.query.y[0].argmax(-1) + 1).tolist()]
    nearest = torch.cdist(view.points[3:], view.points[:3])
    if distance == "cosine":
        assert view.points.norm(dim=-1) == pytest.approx(1, rel=1e-12)
    assert torch.equal(nearest.argmin(-1), answer)
