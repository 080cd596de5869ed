"""Pictures of tables show the target in its own unit, under the names of tasks and columns."""

import numpy as np
import pytest
import torch
from made_table import rows, table, write

from metaexp.algos.mean import Mean
from metaexp.plots.pictures import picture_for
from metaexp.training.figures import draw_episodes


@pytest.mark.parametrize("order", [None, "day"])
def test_targets_and_times_are_those_of_the_table(tmp_path, order):
    family = table(write(tmp_path / "t.csv", rows()), order=order)
    index = family.runs("test", 2)[0][:1]
    episode = family.sample("test", index)
    learner = Mean(family)
    guess = float(episode.support.y.mean()) * float(family.y_std) + float(family.y_mean)

    def predict(x):
        return torch.full((len(x), 1, x.shape[1], 1), float(episode.support.y.mean()))

    figure = picture_for(family)(episode, predict, [0])
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    true = np.sort((episode.query.y * family.y_std + family.y_mean).numpy().ravel())
    if order is None:
        np.testing.assert_allclose(np.sort(lines["prediction"].get_xdata()), true, rtol=1e-5)
        assert figure.axes[0].get_xlabel() == "true score"
    else:
        np.testing.assert_allclose(np.sort(lines["query"].get_ydata()), true, rtol=1e-5)
        days = lines["support"].get_xdata()
        assert (np.diff(days) >= -1e-2).all()
        assert ((days > 19700) & (days < 20100)).all()  # 2024, in days since 1970
    np.testing.assert_allclose(lines["prediction"].get_ydata(), guess, rtol=1e-5)
    assert figure.axes[0].get_title().startswith(family.names[int(episode.info["task"][0])])
    assert len(draw_episodes(learner, "test", 4).axes) >= 4  # tasks of unequal sizes
