"""Composition, validation and instantiation, in this process and without torch where none is needed."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from metaexp.config import overrides
from metaexp.config.compose import GROUPS
from metaexp.config.declared import check_ranges
from metaexp.config.describe import comments, summary
from metaexp.config.instantiate import Maker
from metaexp.config.overrides import parse
from metaexp.config.settings import Settings, config_dir, instantiate, load
from metaexp.config.settings_page import page
from metaexp.errors import ConfigError
from metaexp.train import train
from metaexp.training.build import Experiment


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings([])


def write(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return str(folder)


# What is typed (several arguments are separated by blanks), and what the one line must say.
BAD = [
    ("algo.iner_lr=1", "algo.iner_lr=1: no such setting; did you mean algo.inner_lr?"),
    ("+algo.iner_lr=1", "algo.iner_lr=1: no such setting; did you mean algo.inner_lr?"),
    ("++algo.iner_lr=1", "algo.iner_lr=1: no such setting; did you mean algo.inner_lr?"),
    ("algo={iner_lr:1}", "algo.iner_lr=1: no such setting; did you mean algo.inner_lr?"),
    ("inner_lr=3", "inner_lr=3: no such setting; use algo.inner_lr=3 (the inner loop)"),
    ("stepz=3", "did you mean steps?"),
    ("agl=maml", "did you mean algo?"),
    ("optimiser=adam", "did you mean optimizer?"),
    ("val.evry=10", "did you mean val.every?"),
    ("device.precison=32", "did you mean device.precision?"),
    ("experiments=x", "did you mean experiment?"),
    ("algo=reptlie", "algo=reptlie: no such choice; did you mean reptile? (choices: "),
    ("task=sin", "task=sin: no such choice; did you mean sine?"),
    ("device=cuda", "device=cuda: no such choice"),
    ("experiment=nope", "experiment=nope: no such choice"),
    ("algo=null", "algo=null: no such choice"),
    ("algo=[maml,reptile]", "several need -m and algo=a,b"),
    ("~algo", "a group cannot be removed"),
    ("~steps", "~steps: this setting cannot be removed"),
    ("~stepz", "stepz"),
    ("algo.inner_lr=abc", "algo.inner_lr=abc: must be a number above 0, like the default 0.01"),
    ("algo.inner_lr=0", "algo.inner_lr=0: must be above 0"),
    ("algo.inner_steps=0", "algo.inner_steps=0: must be at least 1"),
    ("algo.test_steps=-1", "algo.test_steps=-1: must be at least 0, or null"),
    ("algo.test_lr=true", "algo.test_lr=true: must be a number above 0 or null"),
    ("task.test.shots=half", "task.test.shots=half: must be a whole number of at least 0 or null"),
    ("task.phase_sign=2", "task.phase_sign=2: must be -1 | 1"),
    ("task.x_range=[1,0]", "task.x_range=[1, 0]: must be two finite numbers, [low, high], low not above high"),
    ("task=gp task.length=-1", "task.length=-1: must be above 0"),
    ("algo.inner.momentum=much", "algo.inner.momentum=much: must be a number, like the default 0.0"),
    ("algo=mother algo.select=sofd", "algo.select=sofd: must be soft | top1; did you mean soft?"),
    ("algo=l2l algo.rule.preprocess=-1", "algo.rule.preprocess=-1: must be above 0, or null"),
    ("steps=-1", "steps=-1: must be at least 0"),
    ("steps=1e12", "steps=1000000000000.0: must be at most 10000000000"),
    ("time_limit=abc", "time_limit=abc: must be a number of seconds (90, 90s, 15m, 2h), above 0 or null"),
    ("time_limit=0", "time_limit=0: must be above 0, or null"),
    ("time_limit=1x", "time_limit=1x: must be a number of seconds (90, 90s, 15m, 2h), above 0 or null"),
    ("time_limit=nan", "time_limit=nan: must be a number of seconds (90, 90s, 15m, 2h), above 0 or null"),
    ("time_limit=", "time_limit=: must be a number of seconds (90, 90s, 15m, 2h), above 0 or null"),
    ("watchdog=-1", "watchdog=-1: must be above 0, or null"),
    ("clip.value=true", "clip.value=true: must be a number above 0 or null"),
    ("stop.patience=x", "stop.patience=x: must be a whole number of at least 1 or null"),
    ("stop.metric=[mse]", "stop.metric=[mse]: must be text or null"),
    ("test.curve_shots=few", "test.curve_shots=few: must be a whole number of at least 0 or a list of whole numbers"),
    ("test.curve_shots=[1,-1]", "test.curve_shots=[1, -1]: each must be at least 0, or null"),
    ("test.normalise=[all]", "test.normalise=[all]: each must be queries | single | support"),
    ("resume=true", "resume=true: must be false | auto | text"),
    ("optimizer.schedule=3", "optimizer.schedule=3: must be a group of settings | cosine | linear | onecycle | null"),
    ("algo.inner_lr=", "algo.inner_lr=: must be a number"),
    ("algo.inner_lr=true", "algo.inner_lr=true: must be a number"),
    ("algo.inner_lr=[1]", "algo.inner_lr=[1]: must be a number above 0"),
    ("algo.inner_lr={a:1}", "algo.inner_lr={a: 1}: must be a number above 0, not a group"),
    ("algo.inner_lr=null", "algo.inner_lr=null: must be a number"),
    ("algo.inner_lr=nan", "algo.inner_lr=nan: must be a number"),
    ("algo.inner_steps=2.5", "algo.inner_steps=2.5: must be a whole number"),
    ("steps=inf", "steps=inf: must be a whole number"),
    ("val.every=true", "val.every=true: must be a whole number"),
    ("algo.first_order=1", "algo.first_order=1: must be true or false"),
    ("model.hidden=3", "model.hidden=3: must be a list of whole numbers of at least 1, e.g. model.hidden=[40,40]"),
    ("model.hidden=[4.5]", "must be a whole number"),
    ("val=3", "val=3: must be a group of settings; set one of val.every, val.tasks"),
    ("clip.norm=[1]", "clip.norm=[1]: must be a number above 0 or null"),
    ("device.precision=64", "device.precision=64: must be 32 | 64-true | bf16-mixed"),
    ("test.weights=bst", "test.weights=bst: must be best | last; did you mean best?"),
    ("mapping=vmpa", "mapping=vmpa: must be auto | vmap | loop | a whole number of at least 1; did you mean vmap?"),
    ("out=true", "out=true: must be text"),
    ("seed=0,1", "seed=0,1: several values need -m"),
    ("seed=range(3)", "several values need -m"),
    ("steps=???", "steps: must be given"),
    ("seed=${nope}", "nope"),
    ("maml", "maml: cannot be read as key=value"),
    ("steps=[1", "steps=[1: cannot be read as key=value"),
    (
        "model=cnn4",
        "model=cnn4 needs input image, task=sine gives vector; use model=identity | linear | mlp | residual",
    ),
    ("hydra.run.dir=x", "use out=FOLDER"),
    ("hydra.sweep.dir=x", "use out=FOLDER"),
    ("hydra.swep=1", "swep"),
    ("hydra/launcher=joblb", "hydra/launcher=joblb: no such choice"),
    ("hydra.callbacks.x._target_=os.system", "a class cannot be named here"),
    ("hydra.searchpath=[file:///no/such/folder]", "/no/such/folder does not exist"),
    ("optimizer._target_=os.system", "optimizer._target_=os.system: must be a class of metaexp.* or torch.optim.*"),
    ("algo._target_=logging.os.system", "algo._target_=logging.os.system: must be a class of"),
    ("algo._target_=metaexp.config.settings.os.system", "must be a class of"),
    ("algo._target_=torch.optim.adam.torch.load", "must be a class of"),
    ("algo._target_=torch.hub.load", "must be a class of"),
    ("algo._target_=3", "must be a class of"),
    ("+algo.inner._target_=numpy.load", "algo.inner._target_=numpy.load: must be a class of"),
    ("optimizer.schedule={_target_:webbrowser.open}", "must be a class of"),
    ("algo.adapt=[{_target_:os.system}]", "must be a class of"),
    ("optimizer.schedule={T_max:3}", "not a group of settings"),
]


@pytest.mark.parametrize(("typed", "says"), BAD, ids=[typed for typed, _ in BAD])
def test_bad_input_is_one_line(settings: Settings, typed: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        (Settings(typed.split()) if "searchpath" in typed else settings).load(typed.split())
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


GOOD: list[tuple[str, str, Any]] = [
    ("steps=1e4", "steps", 10000),
    ("algo.inner_lr=1", "algo.inner_lr", 1.0),
    ("+seed=3", "seed", 3),
    ("seed=7", "task.seed", 7),
    ("device.precision=64-true", "device.precision", "64-true"),
    ("mapping=7", "mapping", 7),
    ("compile=false", "compile", False),
    ("resume=outputs/x", "resume", "outputs/x"),
    ("clip.norm=10", "clip.norm", 10.0),
    ("name=abc", "name", "abc"),
    ("model.hidden=[]", "model.hidden", []),
    ("algo={inner_lr:2}", "algo.inner_lr", 2.0),
    ("task.phase=[0,3]", "task.phase", [0.0, 3.0]),
    ("+optimizer.amsgrad=true", "optimizer.amsgrad", True),
    ("optimizer.schedule._target_=torch.optim.lr_scheduler.StepLR", "optimizer.schedule._target_", None),
    ("task.test.shots=5", "task.test.shots", 5),
    ("algo=joint algo.test_lr=1", "algo.test_lr", 1.0),
    ("algo=joint algo.test_lr=[1,0.1]", "algo.test_lr", [1.0, 0.1]),
    ("algo=reptile algo.inner_batch=null", "algo.inner_batch", None),
    ("algo.inner={_target_:metaexp.inner.Adam,beta1:0}", "algo.inner", {"_target_": "metaexp.inner.Adam", "beta1": 0}),
]


@pytest.mark.parametrize(("typed", "key", "value"), GOOD, ids=[typed for typed, _, _ in GOOD])
def test_good_input(settings: Settings, typed: str, key: str, value: Any) -> None:
    found: Any = settings.load(typed.split())
    for name in key.split("."):
        found = found[name]
    assert type(found) is (type(value) if value is not None else type(found))
    assert found == value or (value is None and (found is None or found.startswith("torch.optim.")))


def test_result_is_plain_and_named(settings: Settings) -> None:
    config = settings.load(["algo=reptile"])
    assert yaml.safe_load(yaml.safe_dump(config)) == config
    assert config["choices"] == {
        "algo": "reptile", "task": "sine", "encoder": "none", "model": "mlp", "device": "auto", "optimizer": "sgd",
        "experiment": None,
    }  # fmt: skip
    assert config["trusted"] == []
    assert "hydra" not in config
    assert "defaults" not in config


def test_every_choice_composes(settings: Settings) -> None:
    """Each file of each group at least once, with a partner of every other group that it goes with."""
    groups = {name: settings.composer.options(name) for name in ("algo", "task", "optimizer", "device")}
    assert set(groups["device"]) >= {"cpu", "gpu", "auto", "ddp", "mps"}
    needs = {algo: settings.composer.content(f"algo/{algo}").get("needs") or {} for algo in groups["algo"]}
    anywhere = [algo for algo in groups["algo"] if not needs[algo]]
    pairs = []
    for number, task in enumerate(groups["task"]):
        world = settings.composer.content(f"task/{task}")["gives"]["kind"] == "world"
        # the network of `quadratic` is asked for with a method that leaves it
        pairs.append(("random" if world else "maml" if task == "quadratic" else anywhere[number % len(anywhere)], task))
    for algo in set(groups["algo"]) - {algo for algo, _ in pairs}:
        worlds = needs[algo].get("world", "bandit")
        world = worlds if isinstance(worlds, str) else worlds[0]
        own = world if needs[algo].get("kind") == "world" else "sine"
        pairs.append((algo, {"protonet": "omniglot", "hausdorff": "omniglot"}.get(algo, own)))
    for number, (algo, task) in enumerate(pairs):
        chosen = {"algo": algo, "task": task}
        chosen |= {name: groups[name][number % len(groups[name])] for name in ("optimizer", "device")}
        config = settings.load([f"{name}={choice}" for name, choice in chosen.items()])
        assert config["choices"].items() >= chosen.items()
        image = (config["task"].get("gives") or {}).get("input") == "image"
        network = {"quadratic": "linear", "text": "residual"}.get(task, "cnn4" if image else "mlp")
        assert config["choices"]["model"] == network, chosen
        assert config["optimizer"]["_target_"].startswith("torch.optim.")
        assert config["device"]["precision"] == 32
    assert {task for _, task in pairs} == set(groups["task"])


EXTRA = {
    "algo/own.yaml": "# My method\n_target_: own_algo.Own\n_partial_: true\ninner_lr: 0.5\n",
    "task/pictures.yaml": "# Mine\ndefaults:\n  - override /kind@_global_.kind: pictures\n"
    "  - override /model@_global_.model: cnn4\n"
    "_target_: metaexp.tasks.sine.Sine\ngives: {kind: classification, input: image}\nqueries: 5\nroot: ???\n",
    "algo/picky.yaml": "# Classes only\n_target_: metaexp.algos.maml.MAML\nneeds: {kind: classification}\n",
    "pair/functions/own.yaml": "# @package _global_\nalgo: {inner_lr: 0.5}\nsteps: 11\n",
    "pair/sine/own.yaml": "# @package _global_\nalgo: {inner_lr: 0.25}\nmeta_batch: 3\n",
    "pair/pictures/own.yaml": "# @package _global_\nalgo: {inner_lr: 0.125}\nsteps: 12\n",
    "experiment/row.yaml": "# @package _global_\n# A published row\ndefaults:\n  - override /algo: own\n"
    "  - override /optimizer: sgd\nsteps: 99\noptimizer:\n  schedule: {_target_: torch.optim.lr_scheduler.LinearLR}\n",
    "experiment/linear_row.yaml": "# @package _global_\ndefaults:\n  - override /task: pictures\n"
    "  - override /model: linear\ntask: {root: here}\n",
    "experiment/wrong.yaml": "# @package _global_\nalgo: {iner_lr: 1}\n",
    "experiment/text.yaml": "# @package _global_\nsteps: many\n",
}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings([], write(tmp_path_factory.mktemp("conf"), EXTRA))


def test_who_wins(own: Settings) -> None:
    """Files, then the pair, then the experiment, then what is typed; the pair follows the experiment's choices."""
    pair = own.load(["algo=own"])
    assert (pair["algo"]["inner_lr"], pair["steps"], pair["meta_batch"]) == (0.25, 11, 3)
    row = own.load(["experiment=row"])
    assert row["choices"]["algo"] == "own"
    assert row["choices"]["optimizer"] == "sgd"
    assert (row["algo"]["inner_lr"], row["steps"], row["meta_batch"]) == (0.25, 99, 3)
    assert row["optimizer"]["schedule"] == {"_target_": "torch.optim.lr_scheduler.LinearLR"}
    typed = own.load(["experiment=row", "algo=maml", "steps=5", "optimizer=adam"])
    assert (typed["choices"]["algo"], typed["steps"], typed["choices"]["optimizer"]) == ("maml", 5, "adam")
    assert typed["meta_batch"] == own.load([])["meta_batch"]  # maml on sine has its own pair file, or none
    pictures = own.load(["experiment=row", "task=pictures", "task.root=x"])
    assert (pictures["algo"]["inner_lr"], pictures["steps"], pictures["choices"]["model"]) == (0.125, 99, "cnn4")


def test_the_model_a_task_brings_can_be_changed(own: Settings) -> None:
    assert own.load(["task=pictures", "task.root=x"])["choices"]["model"] == "cnn4"
    assert own.load(["task=pictures", "task.root=x", "model=linear"])["model"]["_target_"].endswith("Linear")
    assert own.load(["experiment=linear_row"])["choices"]["model"] == "linear"
    assert own.load(["experiment=linear_row", "model=mlp"])["choices"]["model"] == "mlp"


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("task=pictures", "task.root: must be given"),
        ("algo=picky", "algo=picky needs kind classification, task=sine gives regression; use algo="),
        ("experiment=wrong", "algo.iner_lr=1 (in experiment/wrong.yaml): no such setting; did you mean algo.inner_lr?"),
        ("experiment=text", "steps=many (in experiment/text.yaml): must be a whole number"),
        ("algo=maml algo._target_=own_algo.Own", "must be a class of"),
    ],
)
def test_bad_files(own: Settings, typed: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        own.load(typed.split())
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_user_folder_by_searchpath_and_its_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "conf", EXTRA)
    code = "class Own:\n    def __init__(self, inner_lr, more=0):\n        self.lr = inner_lr\n"
    write(tmp_path, {"own_algo.py": code})
    monkeypatch.syspath_prepend(tmp_path)
    config = load([f"hydra.searchpath=[file://{folder}]", "algo=own", "algo.inner_lr=3"])
    assert config["trusted"] == ["own_algo"]
    maker = instantiate(config["algo"], group="algo", trusted=config["trusted"])
    assert isinstance(maker, Maker)
    assert maker(more=1).lr == 3.0
    with pytest.raises(ConfigError, match="must be a class of"):
        instantiate(config["algo"], group="algo")


def test_validation_is_fast(settings: Settings) -> None:
    start = time.perf_counter()
    settings.load(["seed=1"])
    assert time.perf_counter() - start < 1.0


def test_every_choice_has_a_line_for_help(settings: Settings) -> None:
    for group in GROUPS:
        for option in settings.composer.options(group):
            text = settings.composer.text(f"{group}/{option}")
            assert summary(text), f"{group}/{option} needs a first line that --help shows"
    assert config_dir().joinpath("train.yaml").is_file()


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["task.test.queries=0"], "task.test.queries=0: nothing to test on"),
        (["task.queries=0", "task.test.queries=9"], "task.queries=0: MAML learns from the queries"),
        (["test.normalise=[]"], "test.normalise=[]: must be a list with at least one entry"),
        (["stop.patience=0"], "stop.patience=0: must be at least 1, or null"),
        (
            ["optimizer.schedule={_target_:torch.optim.lr_scheduler.ReduceLROnPlateau}"],
            "optimizer.schedule: ReduceLROnPlateau waits for a metric",
        ),
        (["task.x_range=[1.0,2.0,3.0]"], "task.x_range=[1.0, 2.0, 3.0]: must be two numbers"),
        (
            ["seed=99999999999999999999"],
            "seed=99999999999999999999: must be from -9223372036854775808 to 9223372036854775807",
        ),
        (["device.devices=0"], "device.devices=0: must be at least 1"),
        (["device.devices=2"], "device.devices=2: device.strategy=auto is one process; use device=ddp"),
        (["device.strategy=fsdp"], "device.strategy=fsdp: must be auto | ddp"),
        (
            ["optimizer.schedule={_target_:torch.optim.lr_scheduler.OneCycleLR,max_lr:0.1,total_steps:10}", "steps=11"],
            "optimizer.schedule.total_steps=10: fewer than steps=11",
        ),
        (["algo.test_steps=2.5"], "algo.test_steps=2.5: must be a whole number"),
    ],
)
def test_what_would_fail_after_the_start_is_refused_before_it(typed: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Experiment(load(["algo=maml", "task=sine", *typed]))
    assert str(caught.value).startswith(says)


def test_who_does_not_read_queries_may_have_none() -> None:
    Experiment(load(["algo=reptile", "task=sine", "task.queries=0", "task.test.queries=9"]))


def test_saved_values_are_checked_by_the_same_ranges() -> None:
    config = load([])
    check_ranges(config)
    del config["skips"], config["test"]["curve_shots"]  # as in a run of an older version
    check_ranges(config)
    with pytest.raises(ConfigError, match=r"^val\.every=0: must be at least 1$"):
        check_ranges(config | {"val": {"every": 0, "tasks": 1}})


def test_a_command_line_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    create = overrides.OverridesParser.create

    def counted() -> Any:
        parser = create()
        read = parser.parse_overrides
        parser.parse_overrides = lambda words: seen.append(words) or read(words)
        return parser

    monkeypatch.setattr(overrides, "OverridesParser", SimpleNamespace(create=counted))
    words = ["algo=maml", "stepz=1", "hydra.searchpath=[]"]
    for argv in (words, [*words, "--cfg", "job"], ["--config-dir", ".", *words]):
        with pytest.raises(ConfigError, match="stepz"):
            train(argv)
    assert seen == [words] * 3
    assert parse(parsed := parse(["seed=1"])) is parsed


def test_the_page_of_settings_is_made_from_conf() -> None:
    file = config_dir().parent / "docs/settings.md"
    assert file.read_text(encoding="utf-8") == page(), "run python -m metaexp.config.settings_page docs/settings.md"


def test_meanings_are_the_comments() -> None:
    text = "a: 1   # x, y\nb:    # around\n  c: {d: 1, e: 2}  # inner\n  f: '#no'\ng:\n- 1\nh: 3 # h\n"
    assert comments(text) == {"a": "x, y", "b": "around", "b.c": "inner", "h": "h"}
