"""The audit itself: the command, its table and exit codes; what it leaves alone; that sound learners raise no alarm."""

import sys

import numpy as np
import pytest
import test_contract as contract
import torch
from fake_omniglot import write_packed
from torch import nn

from metaexp.algos.cnp import CNP
from metaexp.algos.maml import MAML
from metaexp.algos.protonet import ProtoNet
from metaexp.audit.auditor import CHECKS, RUNS
from metaexp.audit.command import audit_config, run
from metaexp.audit.table import WIDTH, Audit, Row, above, at_most
from metaexp.config.command_line import exit_code
from metaexp.config.settings import Settings
from metaexp.contract import audit, pictures
from metaexp.models.mlp import MLP
from metaexp.tasks.gp import GP
from metaexp.tasks.sine import Sine

QUICK = [check.name for check in CHECKS if check.name not in RUNS]
SMALL = ["task.shots=3", "task.queries=3", "task.test.queries=3"]


class Net(nn.Module):
    """A module of a user's: batch norm, one block in two places."""

    def __init__(self, x_shape, out):
        super().__init__()
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(x_shape)), 6), nn.BatchNorm1d(6))
        self.second = self.again = nn.Linear(6, 6)
        self.head = nn.Linear(6, out)

    def forward(self, x):
        return self.head(torch.tanh(self.again(torch.tanh(self.second(self.first(x))))))


def small_mlp(x_shape, out):
    return MLP(x_shape, out, hidden=[6])


@pytest.mark.parametrize(
    ("make", "family"),
    [
        (lambda f: MAML(f, Net, inner_lr=0.05), lambda: pictures(side=4)),
        (lambda f: MAML(f, Net, inner_lr=0.05, mapping="loop"), lambda: Sine(3, 2)),
        (lambda f: MAML(f, small_mlp, first_order=True), lambda: Sine(4, 4)),
        (lambda f: ProtoNet(f, small_mlp), lambda: pictures(side=4, test={"ways": 5})),
        (lambda f: CNP(f, small_mlp, width=6), lambda: GP(shots=[0, 6], queries=4, bucket=25)),
    ],
    ids=["batch norm on pictures", "loop", "first order", "other ways at test", "varying sizes"],
)
def test_sound_learners_raise_no_alarm(make, family):
    found = audit(make, family(), only=QUICK)
    assert found.ok, found
    assert len(found.rows) == 1 + len(QUICK)
    assert all(row.reason for row in found.rows if row.ok is None)


def test_all_checks_of_a_trained_learner_which_stays_as_it_is():
    torch.manual_seed(0)
    learner = MAML(Sine(4, 4), small_mlp, inner_lr=0.05)
    learner.meta_step.fill_(7)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    state, told = torch.get_rng_state(), []
    found = audit(learner, tick=told.append)
    assert found.ok, found
    assert told == found.rows
    assert [row.check for row in found.rows[1:]] == [check.name for check in CHECKS]
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert (learner.family.dtype, next(learner.parameters()).dtype) == (torch.float32, torch.float32)
    assert vars(learner.family).keys() == vars(Sine(4, 4)).keys()
    assert torch.equal(state, torch.get_rng_state())


def test_the_command(capsys):
    assert run(["algo=mean", "task=clusters", *SMALL]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "algo=mean task=clusters model=mlp: float64, CPU"
    assert max(map(len, lines)) <= WIDTH
    assert sum(line.endswith("  ok") for line in lines) + sum(line.endswith("  n/a") for line in lines) == 1 + len(
        CHECKS
    )
    assert "trains nothing" in "\n".join(lines)
    assert lines[-1].startswith("all ")


def test_exit_codes(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "audited_net.py").write_text(
        "from torch import nn\n\n\ndef drop(x_shape, out):\n"
        "    return nn.Sequential(nn.Linear(1, 4), nn.Dropout(), nn.Linear(4, out))\n"
    )
    (tmp_path / "mine" / "model" / "drop.yaml").write_text(
        "# Drops\n_target_: mine.audited_net.drop\n_partial_: true\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = ["--config-dir", "mine", "algo=maml", "task=sine", "model=drop"]
    assert exit_code(lambda: run(own)) == 1
    out, err = capsys.readouterr()
    assert "FAIL" in out
    assert "global" in out
    assert "Traceback" not in out + err
    for words, code in ((["algo=orcle"], 2), (["algo=maml,anil"], 2), (["task=omniglot", "task.root=/nowhere"], 3)):
        assert exit_code(lambda words=words: run(words)) == code
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
    for name in [name for name in sys.modules if name.startswith("mine")]:
        monkeypatch.delitem(sys.modules, name)


def test_the_table():
    rows = [Row("a", *at_most(0.5, 0.25, "too much " * 20)), Row("b", *at_most(0.0, 0)), Row("c", *above(1.0, 0))]
    found = Audit([*rows, Row("d", None, "", None, "no classes")])
    assert found.failed == ["a"]
    assert not found.ok
    assert max(map(len, str(found).splitlines())) <= WIDTH
    assert str(found).splitlines()[-1] == "1 of 3 checks failed, 1 did not apply"
    assert at_most(float("nan"), 1).ok is False
    assert above(float("inf"), 1).ok is False
    assert found["b"].reason == ""
    with pytest.raises(KeyError):
        found["e"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Fake data and a user's own data set, as in tests/test_contract.py."""
    folder = tmp_path_factory.mktemp("world")
    draw = np.random.default_rng(0)
    for name, count in (("base", 200), ("new", 120)):
        x = draw.normal(size=(count, 3))
        np.savez(folder / f"{name}.npz", x=x, y=x.sum(1))
    (folder / "audit_pictures.py").write_text(contract.OWN_DATA)
    (folder / "conf" / "experiment").mkdir(parents=True)
    own = "# @package _global_\ntask: {dataset: {_target_: audit_pictures.Pictures}}\n"
    (folder / "conf" / "experiment" / "my_pictures.yaml").write_text(own)
    places = {"root": str(write_packed(folder / "omniglot")), "files": f"[{folder}/base.npz,{folder}/new.npz]"}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield Settings([], str(folder / "conf")), places


@pytest.mark.tier("long")
@pytest.mark.parametrize(("algo", "task", "model"), contract.ROWS, ids=["-".join(row) for row in contract.ROWS])
def test_no_method_raises_an_alarm_on_a_family_that_it_claims(world, algo, task, model):
    """All pairs that README's tables allow."""
    settings, places = world
    lines = [f"algo={algo}", f"task={task}", f"model={model}", "device=cpu", "device.threads=1"]
    lines += [*contract.ALGOS[algo], *contract.TASKS[task], *contract.MODELS[model]]
    found = audit_config(settings.load([line.format(**places) for line in lines]))
    assert found.ok, str(found)
    assert len(found.rows) == 1 + len(CHECKS)
