"""Which classes a configuration may name, and how they are made."""

from pathlib import Path
from typing import Any

import pytest

from metaexp.checks import nearest
from metaexp.config.settings import instantiate
from metaexp.config.trust import check_target
from metaexp.errors import ConfigError, DataError

MODULE = """
import os
from os import system
from collections import OrderedDict as Ordered

class Part:
    def __init__(self, size=1):
        if size < 1:
            raise ValueError(f"size={size}: must be at least 1")
        self.size = size

class Whole:
    def __init__(self, first, part=None, items=(), rate=0.1):
        if rate < 0:
            raise ValueError(f"Invalid learning rate: {rate}")
        self.first, self.part, self.items = first, part, items

class Files:
    def __init__(self, root):
        self.names = os.listdir(root)

def fails():
    raise RuntimeError("a fault of the program")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_{tmp_path.name}".replace("-", "_").replace("[", "_").replace("]", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def make(module: str, name: str, *args: Any, **node: Any) -> Any:
    return instantiate({"_target_": f"{module}.{name}", **node}, *args, group="task", trusted=[module])


def test_instantiate_nested_partial_and_metadata(module: str) -> None:
    items = [1, 2]
    part = {"_target_": f"{module}.Part", "size": 3}
    whole = make(module, "Whole", "x", part=part, items=items, gives={"kind": "k"}, needs={})
    assert (whole.first, whole.part.size, whole.items) == ("x", 3, [1, 2])
    assert whole.items is not items
    assert part == {"_target_": f"{module}.Part", "size": 3}
    maker = make(module, "Whole", _partial_=True, items=items)
    assert maker("a").items is not maker("b").items
    thing = object()
    assert make(module, "Whole", thing).first is thing


def test_data_that_a_constructor_cannot_read(module: str, tmp_path: Path) -> None:
    files = {"_target_": f"{module}.Files", "root": str(tmp_path / "nowhere")}
    with pytest.raises(DataError, match=r"^task.first: Files cannot read its data: .*No such file.*nowhere"):
        make(module, "Whole", first=files)
    assert DataError.exit_code == 3


@pytest.mark.parametrize(
    ("name", "node", "says"),
    [
        ("Part", {"size": 0}, "task.size=0: must be at least 1"),
        ("Part", {"sise": 0}, "task.sise=0: Part has no such argument; did you mean size?"),
        ("Whole", {"first": 1, "rate": -0.5}, "task.rate=-0.5: Invalid learning rate: -0.5"),
        ("Whole", {}, "task: "),
        ("Prat", {}, "no class Prat in own_"),
        ("system", {"command": "true"}, "comes from"),
        ("Ordered", {}, "comes from collections, not from own_"),
    ],
)
def test_constructors_complain_in_one_line(module: str, name: str, node: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(module, name, **node)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_errors_of_makers_and_of_nested_parts(module: str) -> None:
    maker = make(module, "Part", _partial_=True, size=-1)
    with pytest.raises(ConfigError, match=r"^task\.size=-1: must be at least 1$"):
        maker()
    with pytest.raises(ConfigError, match=r"^task\.part\.size=0: must be at least 1$"):
        make(module, "Whole", 1, part={"_target_": f"{module}.Part", "size": 0})
    with pytest.raises(RuntimeError):
        make(module, "fails")


def test_interpolations_stay_text(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_VALUE", "hidden")
    assert make(module, "Whole", "x", items="${oc.env:SECRET_VALUE}").items == "${oc.env:SECRET_VALUE}"


@pytest.mark.parametrize(
    "target",
    ["os.system", "posix.system", "metaexp.config.settings.os.system",
     "metaexp.__builtins__.exec", "builtins.eval", "eval", "",
     "metaexp", "metaexp.nothing.Here", "metaexp..x.Y", "torch.optim.adam.torch.load", "torch.load", None, 3,
     "webbrowser.open", "code.InteractiveInterpreter", "importlib.util.find_spec", "numpy.load", "metaexp_evil.X",
     "metaexp.config.instantiate.locate", "metaexp.config.instantiate.Maker",
     "metaexp.config.instantiate.instantiate", "metaexp.training.build._located",
     "metaexp.training.build.Experiment", "metaexp.outer.meta_training.MetaTraining",
     "metaexp.outer.optimisers.ConfigError", "metaexp.inner.descent.Any",
     "metaexp.system.files.write", "metaexp.train.main"],
)  # fmt: skip
def test_hostile_targets(target: Any) -> None:
    with pytest.raises(ConfigError):
        check_target("algo._target_", target)
    with pytest.raises(ConfigError):
        instantiate({"_target_": target}, group="algo")


@pytest.mark.parametrize(
    "target",
    ["metaexp.inner.optimisers.Tensor", "metaexp.inner.descend", "metaexp.inner.Descent", "metaexp.algos.r2d2.ridge",
     "metaexp.models.norms.prepare", "metaexp.tasks.placeholder.DataError", "metaexp.outer.schedules.LRScheduler",
     "metaexp.outer.schedules.torch", "torch.optim.adam.adam", "torch.optim.adam.Any"],
)  # fmt: skip
def test_only_classes_that_live_there(target: str) -> None:
    check_target("algo._target_", target)
    with pytest.raises(ConfigError, match=r"no class|comes from"):
        instantiate({"_target_": target}, group="algo")


def test_trust_never_reaches_the_programs_own_machinery() -> None:
    for target in ("metaexp.config.instantiate.locate", "metaexp.training.build._located"):
        with pytest.raises(ConfigError):
            instantiate(
                {"_target_": target}, group="task", trusted=["metaexp.config.instantiate", "metaexp.training.build"]
            )


def test_good_targets() -> None:
    for target in ("torch.optim.Adam", "torch.optim.lr_scheduler.StepLR", "metaexp.tasks.sine.Sine"):
        check_target("x", target)
    sine = instantiate({"_target_": "metaexp.tasks.sine.Sine", "shots": 3, "gives": {}}, group="task", queries=2)
    assert sine.sizes["train"]["shots"] == 3
    assert sine.sizes["train"]["queries"] == 2
    with pytest.raises(ConfigError, match=r"^task\.shots=0: must be at least 1$"):
        instantiate({"_target_": "metaexp.tasks.sine.Sine", "shots": 0}, group="task")


def test_optimisers_complain_with_the_key() -> None:
    import torch

    weight = [torch.nn.Parameter(torch.zeros(1))]
    maker = instantiate({"_target_": "torch.optim.Adam", "_partial_": True, "lr": -1.0}, group="optimizer")
    with pytest.raises(ConfigError, match=r"^optimizer\.lr=-1\.0: Invalid learning rate: -1\.0$"):
        maker(weight)
    with pytest.raises(ConfigError, match=r"^optimizer\.bets=1: Adam has no such argument; did you mean betas\?$"):
        instantiate({"_target_": "torch.optim.Adam", "_partial_": True, "bets": 1}, group="optimizer")


def test_nearest() -> None:
    assert nearest("iner_lr", ["inner_lr", "inner_steps"]) == "; did you mean inner_lr?"
    assert nearest("zzz", ["inner_lr"]) == ""
    assert nearest("zzz", []) == ""
