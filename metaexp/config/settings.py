"""From typed arguments to a checked configuration: plain containers; nothing is imported or called yet."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metaexp.config.compose import GROUPS, Composer, File, config_dir
from metaexp.config.earlier_run import Base, base_of, parent_of, under
from metaexp.config.instantiate import Maker, instantiate
from metaexp.config.overrides import Overrides, parse, typed_path
from metaexp.config.schema import Schema
from metaexp.config.shorthands import small, with_schedule
from metaexp.config.trust import check_target, module_of, targets
from metaexp.errors import ConfigError
from metaexp.nested import at, leaves

__all__ = ["GROUPS", "Maker", "Settings", "config_dir", "instantiate", "load"]

EXAMPLES = ["regression", "classification"]  # kinds of tasks that are learned from examples


def load(overrides: Sequence[str] | Overrides, extra: str | None = None) -> dict[str, Any]:
    """The checked configuration of one run.

    Args:
        overrides: key=value arguments as typed.
        extra: the folder given by --config-dir.

    Returns:
        The resolved settings as plain containers, and `choices` (the file chosen in each group, None for none),
        `trusted` (modules that the user's own group files name) and `typed` (what the command line itself sets, by
        dotted key: a resumed run compares only that with its saved settings).

    Raises:
        ConfigError: an unknown key or choice, a wrong type, incompatible choices, a class that is refused.
    """
    overrides = parse(overrides)
    return Settings(overrides, extra).load(overrides)


class Settings:
    """Checks configurations; one object serves all jobs of a sweep.

    Args:
        overrides: as typed; only hydra.searchpath is read from them here.
        extra: the folder given by --config-dir.
    """

    def __init__(self, overrides: Sequence[str] | Overrides = (), extra: str | None = None):
        self.composer = Composer(extra, parse(overrides).search_path)

    def load(self, overrides: Sequence[str] | Overrides) -> dict[str, Any]:
        """See the function `load`."""
        config, _ = self.load_all(overrides)
        return config

    def load_all(self, overrides: Sequence[str] | Overrides) -> tuple[dict[str, Any], DictConfig]:
        """As `load`, together with Hydra's own settings."""
        overrides = parse(overrides)
        for override in overrides.sweeps:
            raise ConfigError(f"{override.input_line}: several values need -m (a sweep); a list is written [a,b]")
        parsed = [o for o in overrides.parsed if o.key_or_group != "hydra.searchpath"]
        base = base_of(overrides)
        lines = self.prepare(under(base, Overrides(tuple(parsed)))).words
        composed = self.composer.compose(lines)
        if base is not None:
            base.place(composed)
        hydra = composed.hydra
        choices = {name: hydra.runtime.choices.get(name) for name, group in GROUPS.items() if group.saved}
        files = self.composer.files(lines)
        trusted = _trusted(files)
        plain = _plain(_settings(composed))
        for path, target in targets(plain):
            check_target(path, target, trusted)
        above = _above(parsed, files) | (base.keys if base else set())
        origin = _Origin(parsed, files, base)
        config = with_schedule(Schema(_defaults(files), trusted, origin, above).check(plain))
        self._check_pairs(config, choices)
        if config["seeds"] is not None:
            raise ConfigError(f"seeds={config['seeds']}: typed after python -m metaexp.train alone; here take seed=0")
        if config["debug"]:
            config = small(config, [o.key_or_group for o in parsed])
        for key in ("out", "resume", "from", "start"):
            if str(config[key]).startswith("~") or config[key] == "":
                config[key] = os.fspath(typed_path(key, config[key]))
        if config["start"] is not None:
            config["start"] = os.path.abspath(config["start"])
            config["parent"] = parent_of(config["start"])
        made = config | {"choices": choices, "trusted": sorted(trusted)}
        return made | {"typed": _typed(parsed, made, hydra.runtime.choices)}, hydra

    def forgiving(self, overrides: Overrides) -> tuple[dict[str, Any], list[File], Mapping[str, Any]]:
        """For --help: the unchecked configuration, with required settings as null; its files; its choices."""
        lines = self.prepare(Overrides(tuple(overrides.fixed))).words
        composed = self.composer.compose(lines)
        return _forgiving(_settings(composed)), self.composer.files(lines), dict(composed.hydra.runtime.choices)

    def prepare(self, overrides: Overrides) -> Overrides:
        """The overrides in the form in which Hydra applies them; raises ConfigError for an unknown choice."""
        return Overrides(tuple(self.composer.prepare(override) for override in overrides.parsed))

    def _check_pairs(self, config: dict[str, Any], choices: dict[str, Any]) -> None:
        gives = config["task"].get("gives") or {}
        if config.get("encoder") and "encoder" not in config["task"]:
            raise ConfigError(
                f"encoder={choices['encoder']}: task={choices['task']} has nothing to encode; use encoder=none"
            )
        for group in GROUPS:
            node = config.get(group)
            if not isinstance(node, dict):
                continue
            for name, wanted in _needs(group, node).items():
                if name in gives and not _fits(wanted, gives[name]):
                    others = [o for o in self.composer.options(group) if self._option_fits(group, o, gives)]
                    fix = f"use {group}={' | '.join(others)}" if others else f"no {group} fits this task"
                    raise ConfigError(
                        f"{group}={choices[group]} needs {name} {' or '.join(_several(wanted))}, "
                        f"task={choices['task']} gives {gives[name]}; {fix}"
                    )

    def _option_fits(self, group: str, option: str, gives: dict[str, Any]) -> bool:
        needs = _needs(group, self.composer.content(f"{group}/{option}"))
        return all(_fits(wanted, gives[name]) for name, wanted in needs.items() if name in gives)


def _defaults(files: Sequence[File]) -> dict[str, Any]:
    """The configuration with the same choices and nothing else: no typed value, no experiment, no pair file."""
    nodes = []
    for file in files:
        if not (file.is_pair or file.is_experiment):
            content = OmegaConf.create(file.content)
            for name in reversed(file.package.split(".") if file.package else []):
                content = OmegaConf.create({name: content})
            nodes.append(content)
    merged = OmegaConf.merge(*nodes)
    assert isinstance(merged, DictConfig)
    return _forgiving(merged)


def _typed(parsed: Sequence[Override], config: dict[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Typed choices as `choices.GROUP` and typed values by their key, with the values of the checked configuration."""
    typed: dict[str, Any] = {}
    for override in parsed:
        key = override.key_or_group
        if override.is_hydra_override() or override.is_delete():
            continue
        if key in GROUPS:
            typed[f"choices.{key}"] = chosen.get(key)
            continue
        typed[key] = at(config, key, None)
    return typed


class _Origin:
    """Where a value that was not typed comes from: the last file that sets it."""

    def __init__(self, parsed: Sequence[Override], files: Sequence[File], base: Base | None):
        self.base = base
        self.typed = [o.key_or_group for o in parsed if o.key_or_group not in GROUPS or isinstance(o.value(), dict)]
        self.files = files

    def __call__(self, path: str) -> str:
        if any(f"{path}.".startswith(f"{key}.") for key in self.typed):
            return ""
        if self.base is not None and path in self.base.keys:
            return f" (in {self.base.folder / 'config.yaml'})"
        for file in reversed(self.files):
            inside = path.removeprefix(f"{file.package}.") if file.package else path
            if (not file.package or inside != path) and _has(file.content, inside.split(".")):
                return f" (in {file.name}.yaml)"
        return ""


def _above(parsed: Sequence[Override], files: Sequence[File]) -> set[str]:
    found = {key for o in parsed if not o.is_sweep_override() for key, _ in leaves({o.key_or_group: o.value()})}
    return found | {key for file in files if file.is_pair or file.is_experiment for key, _ in file.leaves()}


def _has(node: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(node, dict) or key not in node:
            return False
        node = node[key]
    return True


def _needs(group: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """What a choice needs of the task; an algorithm learns from examples unless it says that it acts in worlds."""
    return ({"kind": EXAMPLES} if group == "algo" else {}) | (node.get("needs") or {})


def _several(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _fits(wanted: Any, given: Any) -> bool:
    return bool(set(_several(wanted)) & set(_several(given)))


def _trusted(files: Sequence[File]) -> set[str]:
    named = {module_of(str(target)) for file in files for _, target in targets(file.content)}
    return {name for name in named if name and name.split(".")[0] != "metaexp" and not name.startswith("torch.optim")}


def _settings(composed: DictConfig) -> DictConfig:
    # Without Hydra's own node, whose interpolations only a running Hydra can resolve.
    return OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])


def _plain(settings: DictConfig) -> dict[str, Any]:
    """The resolved settings; a missing required setting is refused."""
    try:
        missing = sorted(OmegaConf.missing_keys(settings))
        plain = OmegaConf.to_container(settings, resolve=True, throw_on_missing=not missing)
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        raise ConfigError(key + str(error).splitlines()[0]) from error
    if missing:
        raise ConfigError(f"{missing[0]}: must be given, e.g. {missing[0]}=...")
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _forgiving(settings: DictConfig) -> dict[str, Any]:
    """As `_plain`, but with missing required settings as null."""
    for key in OmegaConf.missing_keys(settings):
        OmegaConf.update(settings, key, None)
    return _plain(settings)
