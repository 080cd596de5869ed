"""`python -m metaexp.config.settings_page [FILE]`: docs/settings.md, every setting with type, default and meaning."""

import sys
from collections.abc import Sequence
from pathlib import Path

from metaexp.config.compose import GROUPS, Composer
from metaexp.config.describe import Setting, general, of_choice, summary

HEAD = """# Settings

Made by `python -m metaexp.config.settings_page docs/settings.md` from the files of `conf/` and the annotations of the
constructors; not edited by hand. Defaults are those of the file: a method on a kind of tasks may have others
(`conf/pair`), and `--help algo=maml task=omniglot` prints the values that a run with these choices has.
"""


def page() -> str:
    """The Markdown text."""
    composer = Composer()
    parts = [HEAD, "## For every run\n", _table(general(composer))]
    for group, properties in GROUPS.items():
        parts.append(f"## {group}\n")
        for choice in composer.options(group):
            parts.append(f"### `{group}={choice}`\n\n{summary(composer.text(f'{group}/{choice}'))}\n")
            # An experiment or a kind only sets settings of other groups.
            rows = of_choice(composer, group, choice) if properties.saved and not properties.optional else []
            parts += [_table(rows)] if rows else []
    return "\n".join(parts)


def _table(rows: Sequence[Setting]) -> str:
    lines = ["| setting | default | may be | meaning |", "|---|---|---|---|"]
    for row in rows:
        key, default, allowed, meaning = (cell.replace("|", "\\|") for cell in row)
        lines.append(f"| `{key}` | `{default}` | {allowed} | {meaning} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Write the page to a file, or print it."""
    if arguments:
        Path(arguments[0]).write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
