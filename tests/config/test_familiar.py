"""Words from elsewhere: each is answered with settings that exist."""

import pytest

from metaexp.config.command_line import CommandLine
from metaexp.config.compose import GROUPS
from metaexp.config.familiar import CHOICES, TRAINER, WORDS, Word, hint, said
from metaexp.config.settings import Settings, load
from metaexp.errors import ConfigError

EVERY = list(dict.fromkeys([*WORDS.values(), *TRAINER.values(), *CHOICES.values()]))


def suggested(word: Word) -> list[str]:
    return [form.replace("{}", word.example) for form in (*word.beside, *word.use)]


def chooses(word: Word) -> bool:
    return any(form.partition("=")[0] in GROUPS for form in suggested(word))


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings()


def test_every_suggestion_can_be_typed(settings: Settings) -> None:
    plain = [form for word in EVERY if not chooses(word) for form in suggested(word)]
    together = settings.load(["algo=maml", "task=sine", *plain])
    assert {form.partition("=")[0] for form in plain} <= set(together["typed"])
    for line in dict.fromkeys(tuple(suggested(word)) for word in EVERY if chooses(word)):
        groups = [form.split("=") for form in line if form.partition("=")[0] in GROUPS]
        assert all(choice in settings.composer.options(group) for group, choice in groups)
        if len(groups) < len(line):
            settings.load(line)


def test_no_word_is_a_setting_itself(settings: Settings) -> None:
    config = settings.load([])
    assert not {name for name in WORDS if name in config or name in GROUPS}
    for group, choice in CHOICES:
        assert choice not in settings.composer.options(group) or group.startswith("hydra/")


def test_every_argument_that_a_run_sets_is_one_of_lightnings() -> None:
    import inspect

    import lightning as L

    assert set(TRAINER) <= set(inspect.signature(L.Trainer).parameters)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("lr=0.1", "lr=0.1: no such setting; use optimizer.lr=0.1 algo.inner_lr=0.1 (the outer and the inner loop)"),
        ("epochs=7", "epochs=7: no such setting; use steps=7 (outer steps: there are no epochs)"),
        ("n_way=5", "n_way=5: no such setting; use task.ways=5 (for tasks with classes)"),
        ("ckpt_path=a/b.ckpt", "use resume=a/b.ckpt (a run folder"),
        ("hidden=[64,64]", "hidden=[64, 64]: no such setting; use model.hidden=[64,64]"),
        ("device=cuda", "device=cuda: no such choice; use device=gpu (CUDA_VISIBLE_DEVICES chooses which)"),
        ("--lr 0.1", "--lr: no such flag; use optimizer.lr=0.1 algo.inner_lr=0.1"),
        ("--lr=0.1 algo=maml", "--lr=0.1: no such flag; use optimizer.lr=0.1"),
        ("--algo maml", "--algo: no such flag; settings have no dashes: algo=maml"),
        ("--task.shots 5", "--task.shots: no such flag; settings have no dashes: task.shots=5"),
        ("--meta-batch-size 5", "--meta-batch-size: no such flag; use meta_batch=5"),
        ("--batch-size", "--batch-size: no such flag; use meta_batch=4"),
        ("--gpus 2", "--gpus: no such flag; use device=ddp device.devices=2 (several processes)"),
        ("--multirn", "unrecognized arguments: --multirn; did you mean --multirun?"),
    ],
)
def test_answers(argv: str, says: str, settings: Settings) -> None:
    with pytest.raises(ConfigError) as caught:
        settings.load(CommandLine.parse(argv.split()).overrides)
    assert says in str(caught.value)


def test_a_launcher_without_its_package_is_named() -> None:
    from metaexp.config.familiar import hint_choice

    assert "pip install hydra-joblib-launcher" in hint_choice("hydra/launcher", "joblib")
    with pytest.raises(ConfigError, match=r"hydra/launcher=kubernetes: no such choice \(choices: basic"):
        load(["hydra/launcher=kubernetes"])


def test_a_value_without_meaning_is_not_repeated() -> None:
    assert hint("max_epochs", "5") == "; use steps=5 (outer steps: there are no epochs)"
    assert said(WORDS["wandb"], "true") == "use logger=wandb (beside TensorBoard; csv and mlflow too)"
    assert said(WORDS["grad_clip"], "null") == "use clip.norm=10 (of the meta-gradient)"
    assert hint("nothing_known") == ""
