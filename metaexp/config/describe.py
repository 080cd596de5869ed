"""A description of every setting: default, allowed values, meaning. For --help and docs/settings.md."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from metaexp.checks import show
from metaexp.config.compose import Composer, File
from metaexp.config.declared import TRAIN
from metaexp.config.schema import kinds_of, known
from metaexp.constraints import described

_HIDDEN = ("_target_", "_partial_", "gives", "needs")


class Setting(NamedTuple):
    """One setting as described to a reader."""

    key: str
    default: str
    allowed: str
    meaning: str


def comments(text: str) -> dict[str, str]:
    """The comment after each setting of a YAML text, by dotted key; the outermost if a line has several settings."""
    lines, found = text.splitlines(), {}

    def walk(node: yaml.Node | None, path: str, line: int) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            here = f"{path}.{key.value}" if path else str(key.value)
            if key.start_mark.line > line:
                end = value.end_mark if isinstance(value, yaml.ScalarNode) or value.flow_style else key.end_mark
                rest = re.search(r"\s#\s*(.*)$", lines[end.line][end.column :]) if end.line < len(lines) else None
                if rest:
                    found[here] = rest[1].strip()
            walk(value, here, key.start_mark.line)

    walk(yaml.compose(text, Loader=yaml.SafeLoader), "", -1)
    return found


def summary(text: str) -> str:
    """The first comment of a file, which describes it."""
    lines = (line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    return next((line for line in lines if line and not line.startswith("@package")), "")


def meanings(files: Sequence[File]) -> dict[str, str]:
    """The comment of each setting of these files, by dotted key of the configuration."""
    found: dict[str, str] = {}
    for file in files:
        if not (file.is_pair or file.is_experiment):
            for key, comment in comments(file.text).items():
                found[f"{file.package}.{key}" if file.package else key] = comment
    return found


def general(composer: Composer) -> list[Setting]:
    """The settings of train.yaml itself."""
    return list(_settings(composer.content(composer.name), TRAIN, "", comments(composer.text(composer.name))))


def of_choice(composer: Composer, group: str, choice: str) -> list[Setting]:
    """The settings of one file of a group, with those of the files that it builds on."""
    files = [file for file in composer.files([f"{group}={choice}"]) if file.name.startswith(f"{group}/")]
    content: dict[str, Any] = {}
    for file in files:
        content |= file.content
    return of_group(group, content, meanings(files))


def of_group(group: str, node: Mapping[str, Any], notes: Mapping[str, str]) -> list[Setting]:
    """The settings of a group's node of a configuration."""
    return list(_settings(node, kinds_of(node, TRAIN.get(group, Any)), group, notes))


def _settings(
    node: Mapping[str, Any], kinds: Mapping[str, Any], path: str, notes: Mapping[str, str]
) -> Iterator[Setting]:
    for name, value in node.items():
        key = f"{path}.{name}" if path else str(name)
        kind = kinds.get(name, kinds.get("*", Any))
        if (name in _HIDDEN[:2] and path.count(".") == 0) or name in _HIDDEN[2:]:
            continue
        if name == "_target_":
            yield Setting(key, show(value), "a class", _meaning(notes, path))
        elif isinstance(value, Mapping) and value:
            yield from _settings(value, kinds_of(value, kind), key, notes)
        elif name != "_partial_":
            yield Setting(key, show(value), described(known(kind, value)) or "anything", _meaning(notes, key))


def _meaning(notes: Mapping[str, str], key: str) -> str:
    while key:
        if key in notes:
            return notes[key]
        key = key.rpartition(".")[0]
    return ""
