"""The reliability diagram: what is drawn is read back."""

import numpy as np
import pytest
import torch

from metaexp.evaluation.calibration import bin_sums, error
from metaexp.losses import as_logits
from metaexp.plots.reliability import reliability

F64 = torch.float64


def logits(*confidence: float) -> torch.Tensor:
    """Two classes, the first with these probabilities."""
    return as_logits(torch.tensor([[c, 1 - c] for c in confidence], dtype=F64))


def test_the_diagram_shows_the_bins():
    target = torch.eye(2, dtype=F64)[[0, 1, 0, 0, 0]]
    sums = bin_sums(logits(0.7, 0.72, 0.95, 1.0, 1.0), target).numpy()[None].repeat(2, 0)
    figure = reliability({"": sums, "_support": sums}, "maml on omniglot")
    upper, other, lower, _ = figure.axes
    (found,) = [one for one in upper.get_lines() if one.get_label().startswith("found")]
    x, y = found.get_xdata(), found.get_ydata()
    assert x[[10, 14]] == pytest.approx([0.71, 2.95 / 3])
    assert y[[10, 14]].tolist() == [0.5, 1.0]
    assert np.isnan(np.delete(y, [10, 14])).all()
    heights = [patch.get_height() for patch in lower.patches]
    assert heights[10] == pytest.approx(0.4)
    assert sum(heights) == pytest.approx(1)
    assert upper.get_title().startswith(f"support and one query at a time\nerror {error(sums[0]):.3g} (95 %: ")
    assert other.get_title().startswith("statistics of the support\nerror ")
    (alone, _) = reliability({"": sums}).axes
    assert alone.get_title().startswith(f"expected calibration error {error(sums[0]):.3g} (95 %: ")
    assert reliability({"": 0 * sums}).axes[0].get_title() == "expected calibration error not finite"
    figure.savefig("/dev/null", format="png")
