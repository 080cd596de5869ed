"""A network that vmap cannot take, on the command line; and what a run says that it has chosen."""

import json

import pytest

from metaexp.training.choices import choices_line

PARTS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, x_shape, out, kind):
        super().__init__()
        self.kind, self.head = kind, nn.Linear(4, out)
        self.body = nn.LSTM(1, 4, batch_first=True) if kind == "lstm" else nn.Linear(1, 4)
        self.norm = nn.BatchNorm1d(4)
        if kind == "lstm":
            self.spare = nn.Linear(2, 2)

    def forward(self, x):
        z = self.body(x[:, None])[0][:, -1] if self.kind == "lstm" else torch.tanh(self.body(x))
        y = self.head(self.norm(z))
        return (y, y) if self.kind == "pair" else y
"""
GROUP = "# A network of one's own\n_target_: choices_own.Net\n_partial_: true\nkind: lstm\n"
TINY = [
    *"algo=maml task=sine model=own device=cpu device.threads=1 meta_batch=2 steps=2 val.every=2 val.tasks=2".split(),
    *"test.tasks=2 test.curve_shots=[] log.every=1".split(),
]


@pytest.fixture
def own(tmp_path):
    (tmp_path / "choices_own.py").write_text(PARTS)
    (tmp_path / "groups" / "model").mkdir(parents=True)
    (tmp_path / "groups" / "model" / "own.yaml").write_text(GROUP)
    return tmp_path


def test_auto_falls_back_and_says_so_once(forks, own):
    ended = forks("--config-dir", "groups", *TINY, cwd=own)
    assert ended.code == 0, ended.err
    assert ended.err.count("vmap cannot take this learner") == 1
    assert ended.err.count("chosen: mapping=loop (auto), compile=false (auto), device=cpu") == 1
    (file,) = own.glob("outputs/*/result.json")
    result = json.loads(file.read_text())
    assert result["mapping"] == "loop"
    choice = result["choices"]["mapping"]
    assert (choice["asked"], choice["used"]) == ("auto", "loop")
    assert choice["why"].startswith("vmap cannot take this learner")
    assert result["choices"]["norms"] == {"BatchNorm1d": 1}
    missing = ["model.body.weight_hh_l0", "model.spare.weight", "model.spare.bias"]  # sequences of one element
    assert result["choices"]["without_gradient"] == missing
    assert ended.err.count("no gradient reaches model.body.weight_hh_l0, model.spare.weight") == 1
    assert result["choices"]["compile"] == {"asked": "auto", "used": False}
    assert {"mse", "mse_single", "mse_support"} & set(result["test"])
    assert all(value["diverged"] == 0 for value in result["test"].values())


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["mapping=vmap"], "mapping=vmap: vmap cannot take this learner"),
        (["model.kind=pair"], "model: forward returns a tuple; it must return a tensor [n, outputs]"),
    ],
)
def test_what_cannot_be_right_is_refused_before_a_folder_is_made(forks, own, typed, line):
    ended = forks("--config-dir", "groups", *TINY, *typed, cwd=own)
    assert ended.code == 2
    (text,) = ended.err.strip().splitlines()
    assert text.startswith(f"metaexp: {line}")
    assert not (own / "outputs").exists()


def test_the_line_of_choices():
    choices = {
        "mapping": {"asked": "auto", "used": "loop", "why": "vmap cannot take it"},
        "compile": {"asked": True, "used": True},
        "device": {"asked": "auto", "used": "cpu"},
        "threads": {"asked": None, "used": 2},
        "norms": {"BatchNorm1d": 2, "LayerNorm": 1},
        "without_gradient": ["model.a"],
    }
    assert choices_line(choices) == (
        "chosen: mapping=loop (auto), compile=true, device=cpu (auto), threads=2, "
        "2 BatchNorm1d and 1 LayerNorm replaced by layers that are right under every mapping"
    )
