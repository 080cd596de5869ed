"""The baseline of drawings that compares their ink."""

from typing import Any

import torch
from torch import Tensor, nn

from metaexp.algos.base import MetaLearner
from metaexp.types import Examples

BLANK = 1e6  # distance to a drawing without ink


def modified_hausdorff(a: Tensor, b: Tensor) -> Tensor:
    """The larger of the two mean distances from a point of one set to the nearest of the other: [n, 2], [m, 2] -> [].

    "A modified Hausdorff distance for object matching", Dubuisson, Jain, 1994, distance 23 of theirs.
    """
    distance = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")  # [n, m]
    return torch.maximum(distance.min(1).values.mean(), distance.min(0).values.mean())


class Hausdorff(MetaLearner):
    """Predict the class of the support drawing with the least modified Hausdorff distance between centred inks.

    "A modified Hausdorff distance for object matching", Dubuisson, Jain, 1994, as in the demo that Lake, Salakhutdinov
    and Tenenbaum published with Omniglot: the coordinates of the inked pixels, minus their mean. Ink is what is
    brighter than 0.5 (darker, if the family has ink at 0); channels are averaged. With several shots the nearest
    drawing of a class counts. No network, nothing to meta-train; the logits are minus the distances, in pixels.

    Raises:
        ValueError: the inputs are no pictures.
    """

    trains, any_ways, classes_alike = False, True, True

    def __init__(self, family: Any, model: Any = None, loss: Any = None, mapping: str | int = "auto"):
        if len(family.x_shape) != 3 or not family.classification:
            raise ValueError(f"x_shape={tuple(family.x_shape)}: hausdorff compares drawings, [channels, height, width]")
        # The number of points differs between drawings, which vmap cannot map.
        super().__init__(family, nn.Identity(), loss, "loop" if mapping == "auto" else mapping)

    def adapt(self, support: Examples, key: Tensor) -> Examples:
        """The support set itself: [n, *x_shape], [n, ways]."""
        return support

    def predict(self, adapted: Examples, x: Tensor) -> Tensor:
        """[m, *x_shape] -> [m, ways]."""
        known, new = ([self._points(picture) for picture in part] for part in (adapted.x, x))
        rows = [torch.stack([_distance(a, b) for b in known]) for a in new]
        distance = torch.stack(rows) if rows else x.new_zeros(0, len(known))  # [m, n]
        away = torch.where(adapted.y.T.bool(), distance.unsqueeze(1), torch.inf)  # [m, ways, n]
        return -away.min(-1).values.to(x.dtype)

    def _points(self, picture: Tensor) -> Tensor:
        """[channels, height, width] -> coordinates of ink minus their mean, float64 [n, 2]."""
        grey = picture.mean(0)
        ink = (grey > 0.5) if getattr(self.family, "invert", True) else (grey < 0.5)
        points = ink.nonzero().double()
        return points - points.mean(0) if len(points) else points


def _distance(a: Tensor, b: Tensor) -> Tensor:
    if len(a) == 0 or len(b) == 0:
        return torch.tensor(0.0 if len(a) == len(b) else BLANK, dtype=torch.float64, device=a.device)
    return modified_hausdorff(a, b)
