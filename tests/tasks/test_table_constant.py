"""A column that is the same in all training rows: kept, named, and 0 for the learner, whatever other rows hold."""

from pathlib import Path

import numpy as np
import pytest
import torch
from made_table import HEADER, rows, table, write


def test_a_constant_column_is_named_and_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = table(write(tmp_path / "plain.csv", rows()), shots=1, queries=1)
    train = {plain.names[task] for task in plain.able["train"]}
    train |= {plain.names[task] for task in plain.content.splits["train"]}
    seen = [[*row, 3 if row[0] in train else 1e6, "a" if row[0] in train else "b"] for row in rows()]
    file = write(tmp_path / "more.csv", seen, [*HEADER, "level", "form"])
    found = table(file, shots=1, queries=1)
    assert found.content.inputs.features == [*plain.content.inputs.features, "level", "form=a"]
    assert torch.equal(found.content.x[:, :-2], plain.content.x)
    assert torch.equal(found.content.x[:, -2:], torch.zeros(len(seen), 2, dtype=torch.float64))
    assert found.record()["constant"] == ["level", "form"]
    assert "constant" not in plain.record()
    said = [line for line in caplog.messages if line.startswith("the same in every training row")]
    assert said == ["the same in every training row, so the learner is given 0 instead: level, form"]
    again = found.raw_inputs()([dict(zip([*HEADER, "level", "form"], row, strict=True)) for row in seen[:5]])
    assert np.allclose(again[:, -2:], 0.0)
