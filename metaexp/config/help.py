"""What --help prints: an overview of all choices, or every setting of the typed choices."""

import textwrap

from metaexp.checks import nearest
from metaexp.config.command_line import CommandLine, program
from metaexp.config.compose import GROUPS
from metaexp.config.describe import Setting, general, meanings, of_group, summary
from metaexp.config.settings import Settings
from metaexp.errors import ConfigError

WIDTH = 80
EXAMPLES = """\
Examples:
  {0} algo=reptile task=sine
  {0} experiment=maml_sine
  {0} -m algo=maml,reptile task=sine seed=0,1,2
  {0} from=outputs/RUN seed=1
"""
DAILY = """\
Daily settings:
  steps=20000 seed=1               outer steps; seed of weights and tasks
  meta_batch=25                    tasks per meta-batch
  task.shots=5 task.ways=5         size of an episode; task.test.shots=1 at test
  algo.inner_lr=0.01 algo.inner_steps=5 algo.test_steps=10    the inner loop
  optimizer.lr=0.001 optimizer.schedule=cosine                the outer loop
  val.every=1000 test.tasks=1000   validation and test
  stop.metric=mse stop.patience=5  early stopping
  resume=auto time_limit=2h        continue a run; end after so long
  out=outputs name=trial           where run folders are made; their label
  debug=fast                       a run of seconds, to see that all works
"""
MORE = """\
Flags:
  -m, --multirun    run every combination: seed=0,1,2 algo=maml,reptile
  --dry-run         what would run, with all its settings; nothing is started
  --config-dir DIR  your own groups, e.g. DIR/algo/mine.yaml for algo=mine
  --version

More:
  --help GROUP             what each choice is, e.g. --help algo
  --help GROUP=CHOICE ...  every setting of these choices
  --help all               every choice and every general setting, Hydra's flags
"""
HYDRA = """\
Further flags:
  --cfg job            the composed settings as Hydra prints them
  --hydra-help         Hydra's own flags and settings
  --info, --shell-completion
"""


def help_text(line: CommandLine) -> str:
    """The text of --help, at most 80 columns wide.

    Raises:
        ConfigError: an unknown choice or topic among what is typed.
    """
    settings = Settings(line.overrides, line.extra)
    typed = [override.key_or_group for override in line.overrides.fixed if override.key_or_group in GROUPS]
    if unknown := [topic for topic in line.topics if topic != "all" and topic not in GROUPS]:
        raise ConfigError(f"--help {unknown[0]}: no such group{nearest(unknown[0], [*GROUPS, 'all'])}; {_topics()}")
    if line.topics:
        groups = _shown(settings) if "all" in line.topics else list(line.topics)
        parts = [_summaries(settings, group) for group in groups]
        return "\n".join([*parts, *([_everything(settings), HYDRA] if "all" in line.topics else [])])
    usage = f"usage: {program()} [GROUP=CHOICE ...] [KEY=VALUE ...] [flags]\n"
    return usage + ("\n" + _of_choices(settings, line, typed) if typed else _short(settings))


def _topics() -> str:
    return f"there are {', '.join([*GROUPS, 'all'])}"


def _shown(settings: Settings) -> list[str]:
    # The kind is for the task to choose.
    groups = [group for group, properties in GROUPS.items() if properties.saved or properties.optional]
    return [group for group in groups if settings.composer.options(group)]


def _short(settings: Settings) -> str:
    groups = (_wrapped(f"  {g:12}", ", ".join(settings.composer.options(g)), 14) for g in _shown(settings))
    listed = "\n".join(["Groups and their choices:", *groups])
    return f"\n{EXAMPLES.format(program())}\n{listed}\n\n{DAILY}\n{MORE}"


def _summaries(settings: Settings, group: str) -> str:
    """Each choice of a group with the line that describes it."""
    composer = settings.composer
    about = {choice: summary(composer.text(f"{group}/{choice}")) for choice in composer.options(group)}
    wide = max(map(len, about), default=0) + 2
    lines = [_wrapped(f"  {choice:{wide}}", text, wide + 2) for choice, text in about.items()]
    return "\n".join([f"{group}=", *lines]) + "\n"


def _everything(settings: Settings) -> str:
    """Every setting of train.yaml."""
    return "\n".join(["Settings of every run:", *map(_entry, general(settings.composer))]) + "\n"


def _of_choices(settings: Settings, line: CommandLine, typed: list[str]) -> str:
    """Every setting of the typed groups, with its value under these choices."""
    values, files, choices = settings.forgiving(line.overrides)
    notes, texts = meanings(files), {file.name: file.text for file in files}
    parts = []
    for group in typed:
        chosen = choices.get(group)
        title = summary(texts.get(f"{group}/{chosen}", ""))
        parts.append(_wrapped(f"{group}={chosen}: ", title, 2))
        node = values.get(group)
        parts += [_entry(setting) for setting in of_group(group, node, notes)] if isinstance(node, dict) else []
        parts.append("")
    others = [f"{group}={choices.get(group)}" for group in GROUPS if group not in typed and choices.get(group)]
    return "\n".join([*parts, _wrapped("With these: ", ", ".join(others), 2)]) + "\n"


def _entry(setting: Setting) -> str:
    head = f"  {setting.key}={setting.default}"
    text = "; ".join(part for part in (setting.allowed, setting.meaning) if part)
    if len(head) > 32:
        return _wrapped("", head.strip(), 2, start="  ") + "\n" + _wrapped("", text, 34, start=" " * 34)
    return _wrapped(f"{head:34}", text, 34)


def _wrapped(head: str, text: str, indent: int, start: str = "") -> str:
    return textwrap.fill(start + head + text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)
