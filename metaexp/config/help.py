"""What --help prints: an overview of all choices, or every setting of the typed choices."""

import textwrap

from metaexp.config.command_line import CommandLine
from metaexp.config.compose import GROUPS
from metaexp.config.describe import Setting, meanings, of_group, summary
from metaexp.config.settings import Settings

WIDTH = 80
DAILY = """\
Daily settings (--cfg job shows all; docs/settings.md says what each may be):
  steps=20000 seed=1               outer steps; seed of weights and tasks
  meta_batch=25                    tasks per meta-batch
  task.shots=5 task.ways=5         size of an episode; task.test.shots=1 at test
  algo.inner_lr=0.01 algo.inner_steps=5 algo.test_steps=10    the inner loop
  optimizer.lr=0.001               the outer loop
  val.every=1000 test.tasks=1000   validation and test
  stop.metric=mse stop.patience=5  early stopping
  resume=auto time_limit=3600      continue a run; end after so many seconds
  out=outputs name=trial           where run folders are made; their label
"""
FLAGS = """\
Flags:
  -m, --multirun    run every combination: seed=0,1,2 algo=maml,reptile
  --config-dir DIR  your own groups, e.g. DIR/algo/mine.yaml for algo=mine
  --cfg job         print the composed settings and stop
  --help GROUP=CHOICE ...  every setting of these choices
  --hydra-help, --version, --info, --shell-completion
"""


def help_text(command: str, line: CommandLine) -> str:
    """The text of --help, at most 80 columns wide.

    Raises:
        ConfigError: an unknown choice among what is typed.
    """
    settings = Settings(line.overrides, line.extra)
    typed = [override.key_or_group for override in line.overrides.fixed if override.key_or_group in GROUPS]
    usage = f"usage: python -m {command} [GROUP=CHOICE ...] [KEY=VALUE ...] [flags]\n"
    return usage + ("\n" + _of_choices(settings, line, typed) if typed else _short(settings))


def _short(settings: Settings) -> str:
    parts = ["\nGroups and their choices:"]
    for group, properties in GROUPS.items():
        listed = ", ".join(settings.composer.options(group))
        if listed and (properties.saved or properties.optional):  # the kind is for the task to choose
            parts.append(_wrapped(f"  {group:12}", listed, 14))
    return "\n".join(parts) + f"\n\n{DAILY}\n{FLAGS}"


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
