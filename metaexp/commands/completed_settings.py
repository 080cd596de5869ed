"""The groups, choices, settings and values that may follow on a command line: Hydra's completion, on our composition.

Hydra's own command composes without our checks, knows no values but the defaults, and strips only a program's name
from the line; here its plug-in is called with the words after the subcommand.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from hydra.plugins.completion_plugin import DefaultCompletionPlugin
from omegaconf import OmegaConf

from metaexp.checks import show
from metaexp.config.compose import GROUPS
from metaexp.config.overrides import Overrides, is_path, parse, unquoted
from metaexp.config.schema import kind_at
from metaexp.config.settings import Settings
from metaexp.errors import ConfigError
from metaexp.nested import at

# The task chooses its kind; the others are Hydra's own matters.
HIDDEN = ("pair", "kind", "hydra/env", "hydra/help", "hydra/hydra_help", "hydra/output")
HIDDEN_KEYS = ("_target_", "_partial_", "gives", "needs")


def settings(before: Sequence[str], word: str) -> list[str]:
    """Candidates for the last word of a command line of `train`; finished ones end with a space."""
    key, equals, value = word.partition("=")
    if equals and is_path(key):
        return [f"{key}={one} " for one in ("auto",) if key == "resume" and value and one.startswith(value)]
    words, made = _read(before)
    name = key.lstrip("+~")
    if equals and (made.composer.is_group(name) or name in GROUPS):
        return _listed(key, made.composer.options(name), value)
    overrides, values = _valid(made, words)
    if equals:
        return _listed(key, list(words_of(kind_at(values, name))) or _default(values, name, value), value)
    plugin = DefaultCompletionPlugin(made.composer.loader)
    found = {*plugin._query_config_groups(word, "train", overrides.search_path)[0], *_below(plugin, values, word)}
    # A group is chosen by `algo=`, its settings follow `algo.`; of an empty one there is nothing to set.
    empty = {f"{name}." for name, inside in values.items() if inside == {}}
    return [one for one in found - empty if one.rstrip("=/") not in HIDDEN]


def _below(plugin: DefaultCompletionPlugin, values: Mapping[str, Any], word: str) -> list[str]:
    node = OmegaConf.create(_shown(values))
    if word.endswith(".") and OmegaConf.select(node, word[:-1]) is None:
        return []
    found: list[str] = plugin._get_matches(node, word)
    return found


def of_run(before: Sequence[str], word: str) -> list[str]:
    """Candidates for the last word of a command line of `evaluate`: `run=`, then what may be changed in that run."""
    from metaexp.evaluate import changeable
    from metaexp.storage.saved_config import read_config

    key, equals, _ = word.partition("=")
    runs = [unquoted(one.partition("=")[2]) for one in before if one.startswith("run=")]
    if not runs or (equals and is_path(key)) or key in ("run", "out"):
        return [f"{one}=" for one in ("run", "out") if not equals]
    saved = read_config(Path(runs[-1]).expanduser())
    keys, short = changeable(saved)
    if not equals:
        return [f"{one}=" for one in [*keys, *short, "out", "trust"]]
    kind = kind_at(saved, short.get(key, key))
    return [f"{key}={one} " for one in words_of(kind)]


def _read(words: Sequence[str]) -> tuple[list[str], Settings]:
    """The key=value arguments of a line, without paths; and what composes them, with the folder of --config-dir."""
    extra, kept, rest = None, list[str](), list(words)
    while rest:
        one = rest.pop(0)
        if one in ("--config-dir", "-cd"):
            extra = rest.pop(0) if rest else None
        elif one.startswith("--config-dir="):
            extra = one.partition("=")[2]
        elif not one.startswith("-") and not is_path(one.partition("=")[0]):
            kept.append(one)
    return kept, Settings(parse([one for one in kept if one.startswith("hydra.searchpath=")]), extra)


def _valid(made: Settings, words: Sequence[str]) -> tuple[Overrides, Mapping[str, Any]]:
    """What the words set, and the configuration with it; those that are wrong or not finished are left out."""
    with suppress(ConfigError):
        overrides = parse(words)
        return overrides, made.forgiving(overrides)[0]
    good: list[str] = []
    for one in words:
        with suppress(ConfigError):
            made.forgiving(parse([*good, one]))
            good.append(one)
    return parse(good), made.forgiving(parse(good))[0]


def _listed(key: str, words: Sequence[str], typed: str) -> list[str]:
    """`key=` with each of the words; of several values with commas, the last one is completed."""
    head = typed[: typed.rfind(",") + 1]
    return [f"{key}={head}{one} " for one in words if one not in head.split(",")]


def _default(config: Mapping[str, Any], name: str, typed: str) -> list[str]:
    default = at(config, name, None)
    return [] if "," in typed or default is None or isinstance(default, dict | list) else [show(default)]


def words_of(kind: Any) -> Iterator[str]:
    """The words that an annotation allows: those of a `Literal`, true and false, null."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        yield from (show(word) for word in args)
    elif kind is bool:
        yield from ("true", "false")
    elif args and origin not in (list, tuple, dict):
        for one in args:
            yield from words_of(one)


def _shown(node: Mapping[str, Any]) -> dict[str, Any]:
    inside = {str(key): value for key, value in node.items() if key not in HIDDEN_KEYS}
    # A list is one value: its elements are not typed one by one.
    plain = {key: show(value) for key, value in inside.items() if isinstance(value, list)}
    return {key: _shown(value) if isinstance(value, dict) else plain.get(key, value) for key, value in inside.items()}
