"""Episodes of classes of unequal size, and rotations."""

import numpy as np
import pytest
import torch
from task_samples import table

from metaexp.tasks.classes import rotate

SPLITS = ("train", "val", "test")


def test_classes_of_unequal_size():
    family = table(shots=4, queries=5)
    for split in SPLITS:
        episode = family.sample(split, torch.arange(1000))
        allowed = set(family.splits[split].tolist())
        x = torch.cat([part.x.view(1000, 3, -1, 3) for part in (episode.support, episode.query)], 2)
        assert (x[..., 0] == episode.info["classes"].unsqueeze(-1)).all()
        assert (x[..., 1].sort(-1).values.diff() > 0).all()
        assert (x[..., 1] < family.counts[episode.info["classes"]].unsqueeze(-1)).all()
        assert set(x[..., 0].unique().tolist()) == allowed
        for c in allowed:
            assert len(x[..., 1][x[..., 0] == c].unique()) == int(family.counts[int(c)])
    with pytest.raises(ValueError, match='together more than the 9 examples of the smallest class of split "train"'):
        table(shots=5, queries=5)
    with pytest.raises(ValueError, match=r"rotation=per_class: only square images can be rotated; an input is \[3\]"):
        table(rotation="per_class")


def test_rotate_is_rot90():
    x = torch.arange(4 * 3 * 2 * 25).view(4, 3, 2, 5, 5)
    turned = rotate(x, torch.arange(4))
    for turns in range(4):
        assert np.array_equal(turned[turns].numpy(), np.rot90(x[turns].numpy(), turns, (-2, -1)))
