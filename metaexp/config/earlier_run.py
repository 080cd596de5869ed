"""`from=RUN`: the settings saved in a run's folder as the base of a new run; what is typed counts more."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf, open_dict

from metaexp.config.compose import GROUPS
from metaexp.config.overrides import Overrides, parse, typed_path, unquoted
from metaexp.config.shorthands import name_of_schedule
from metaexp.errors import CheckpointError, ConfigError
from metaexp.nested import at, leaves
from metaexp.storage.saved_config import read_config

# Where a run is kept and how it was started, not what it is.
LEFT = ("out", "name", "resume", "from", "jobs", "trust", "debug", "command", "choices", "trusted", "typed", "sweep")


class Base(NamedTuple):
    """Saved settings under a command line.

    Attributes:
        folder: the run's folder.
        words: the choices of its groups that are not typed, as overrides.
        whole: its settings.
        saved: those that count: not of groups that are typed, not where it is kept.
        typed: keys that the command line sets.
    """

    folder: Path
    words: list[str]
    whole: dict[str, Any]
    saved: dict[str, Any]
    typed: Collection[str]

    @property
    def keys(self) -> set[str]:
        """The dotted keys of the saved settings."""
        return {key for key, _ in leaves(self.saved)}

    def place(self, composed: DictConfig) -> None:
        """Put the saved values into a composition in which the typed ones are already."""
        with open_dict(composed):
            self._place(composed, self.saved, "")

    def _place(self, node: DictConfig, saved: Mapping[str, Any], path: str) -> None:
        for key, value in saved.items():
            here = f"{path}{key}"
            if here in self.typed or self._follows(node, key, value):
                continue
            inner = node._get_node(key)
            if isinstance(value, dict) and value and isinstance(inner, DictConfig) and not inner._is_none():
                self._place(inner, value, f"{here}.")
            else:
                node[key] = value

    def _follows(self, node: DictConfig, key: str, value: Any) -> bool:
        """Whether the setting refers to another one, as it did in the saved run: `task.seed` is `seed`."""
        if key not in node or not OmegaConf.is_interpolation(node, key):
            return False
        reference = re.fullmatch(r"\$\{([\w.]+)\}", str(OmegaConf.to_container(node, resolve=False)[key]))  # type: ignore[index,call-overload]
        return reference is not None and at(self.whole, reference[1], None) == value


def base_of(overrides: Overrides) -> Base | None:
    """What `from=RUN` asks for; None without it.

    Raises ConfigError beside `resume` or `experiment`, or if there is no such run or it was made with debug=fast;
    CheckpointError if its settings cannot be read.
    """
    typed = {o.key_or_group: o for o in overrides.own}
    if "from" not in typed or typed["from"].value() is None:
        return None
    line = str(typed["from"].input_line)
    if typed["from"].is_sweep_override():
        raise ConfigError(f"{line}: one run at a time")
    resumes = typed.get("resume")
    if resumes is not None and resumes.value() not in (False, None):
        raise ConfigError(f"{line}: a resumed run keeps its own settings; leave out from= or {resumes.input_line}")
    if "experiment" in typed:
        raise ConfigError(f"{line}: its settings would replace those of {typed['experiment'].input_line}; choose one")
    folder = typed_path("from", unquoted(line.partition("=")[2]))
    if not (folder / "config.yaml").is_file():
        why = "has no config.yaml, so it is no run folder" if folder.is_dir() else "no such run folder"
        raise ConfigError(f"from={folder}: {why}")
    saved = read_config(folder)
    if saved.get("debug"):
        raise ConfigError(f"from={folder}: made with debug={saved['debug']}, its sizes are no one's choice; type them")
    choices = saved.get("choices")
    if not isinstance(choices, dict):
        raise CheckpointError(f"{folder / 'config.yaml'}: damaged, it has no choices")
    named = {group: choice for group, choice in choices.items() if group in GROUPS and group not in typed}
    words = [f"{group}={_written(choice)}" for group, choice in named.items() if choice]
    kept = {key: value for key, value in saved.items() if key not in LEFT and key not in typed}
    if (name := name_of_schedule(saved)) and isinstance(kept.get("optimizer"), dict):  # it is as long as the new run
        kept["optimizer"] = kept["optimizer"] | {"schedule": name}
    return Base(folder, words, saved, kept, typed)


def under(base: Base | None, overrides: Overrides) -> Overrides:
    """The choices of the saved run, then what is typed."""
    return overrides if base is None else Overrides((*parse(base.words).parsed, *overrides.parsed))


def _written(choice: Any) -> str:
    return f"[{','.join(map(str, choice))}]" if isinstance(choice, list) else str(choice)
