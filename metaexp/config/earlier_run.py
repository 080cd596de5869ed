"""`from=RUN`, `start=RUN`: the settings saved in a run's folder as the base of a new run; what is typed counts more.

With `start=RUN` the new run takes that run's weights, too: `parent` in its settings says which.
"""

import hashlib
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf, open_dict

from metaexp.config.compose import GROUPS
from metaexp.config.overrides import Overrides, parse, typed_path, unquoted
from metaexp.config.shorthands import name_of_schedule
from metaexp.errors import BusyError, CheckpointError, ConfigError
from metaexp.nested import at, leaves
from metaexp.storage.lock import state_of
from metaexp.storage.saved_config import read_config

# Where a run is kept and how it was started, not what it is.
LEFT = (
    "out", "name", "resume", "from", "jobs", "seeds", "trust", "debug", "command", "choices", "trusted", "typed",
    "sweep", "parent",
)  # fmt: skip


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
    """What `from=RUN` or `start=RUN` asks for; None without them.

    Raises ConfigError for both, beside `resume` or `experiment`, or if there is no such run or it was made with
    debug=fast; CheckpointError if its settings cannot be read.
    """
    typed = {o.key_or_group: o for o in overrides.own}
    asked = [key for key in ("from", "start") if key in typed and typed[key].value() is not None]
    if not asked:
        return None
    key, line = asked[0], str(typed[asked[0]].input_line)
    if len(asked) > 1:
        raise ConfigError(f"{line}: {typed['start'].input_line} takes that run's settings already; leave one out")
    if typed[key].is_sweep_override():
        raise ConfigError(f"{line}: one run at a time")
    resumes = typed.get("resume")
    goes_on = (False, None) if key == "from" else (False, None, "auto")
    if resumes is not None and resumes.value() not in goes_on:
        raise ConfigError(f"{line}: a resumed run keeps its own settings; leave out {key}= or {resumes.input_line}")
    if "experiment" in typed:
        raise ConfigError(f"{line}: its settings would replace those of {typed['experiment'].input_line}; choose one")
    folder = _run_folder(key, unquoted(line.partition("=")[2]))
    saved = read_config(folder)
    if saved.get("debug"):
        raise ConfigError(f"{key}={folder}: made with debug={saved['debug']}, its sizes are no one's choice; type them")
    choices = saved.get("choices")
    if not isinstance(choices, dict):
        raise CheckpointError(f"{folder / 'config.yaml'}: damaged, it has no choices")
    named = {group: choice for group, choice in choices.items() if group in GROUPS and group not in typed}
    words = [f"{group}={_written(choice)}" for group, choice in named.items() if choice]
    kept = {key: value for key, value in saved.items() if key not in LEFT and key not in typed}
    if (name := name_of_schedule(saved)) and isinstance(kept.get("optimizer"), dict):  # it is as long as the new run
        kept["optimizer"] = kept["optimizer"] | {"schedule": name}
    return Base(folder, words, saved, kept, typed)


def _run_folder(key: str, word: str) -> Path:
    folder = typed_path(key, word)
    if not (folder / "config.yaml").is_file():
        why = "has no config.yaml, so it is no run folder" if folder.is_dir() else "no such run folder"
        raise ConfigError(f"{key}={folder}: {why}")
    return folder


def parent_of(start: str) -> dict[str, Any]:
    """Which weights a run starts from: those that the parent's own test used, the best ones unless it says otherwise.

    Returns the checkpoint's name and the SHA-256 of the file. Raises ConfigError if there is no such run, or no
    checkpoint in it; BusyError while it is running.
    """
    folder = _run_folder("start", start)
    if state_of(folder) == "running":
        raise BusyError(f"start={folder}: is still running; wait for its end")
    files = sorted((folder / "checkpoints").glob("step=*.ckpt"))[-1:]
    best = folder / "checkpoints" / "best.ckpt"
    if best.is_file() and at(read_config(folder), "test.weights", "best") == "best":
        files = [best]
    if not files:
        raise ConfigError(f"start={folder}: has no checkpoint, so there are no trained weights to start from")
    try:
        with open(files[0], "rb") as file:
            return {"checkpoint": files[0].name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        raise CheckpointError(f"{files[0]}: cannot be read ({os.strerror(error.errno or 0)})") from error


def under(base: Base | None, overrides: Overrides) -> Overrides:
    """The choices of the saved run, then what is typed."""
    return overrides if base is None else Overrides((*parse(base.words).parsed, *overrides.parsed))


def _written(choice: Any) -> str:
    return f"[{','.join(map(str, choice))}]" if isinstance(choice, list) else str(choice)
