"""Which classes are for training, validation and test, by name: typed lists, a file of lists, groups of classes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metaexp.checks import nearest
from metaexp.errors import DataError
from metaexp.random import SPLITS

OTHER_NAMES = {"valid": "val", "validation": "val", "dev": "val", "training": "train", "testing": "test"}


def read_lists(file: str, fold: str | None) -> dict[str, list[str]]:
    """The lists "train", "val", "test" of a JSON file; with several folds in it, those of one.

    Raises DataError: the file is missing or of another form, or the fold is missing or not one of the file's.
    """
    path = Path(file).expanduser()
    data = _json(path)
    if fold is None and not _is_split(data) and all(_split_name(name) in SPLITS for name in data):
        raise DataError(f"{path}: must be an object with lists of classes train, val and test; {_fault(data)}")
    if fold is not None or not _is_split(data):
        folds = sorted(map(str, data))
        if fold is None:
            raise DataError(f"{path}: holds several splits; choose one with task.fold= {', '.join(folds[:10])}")
        if fold not in data:
            raise DataError(f"task.fold={fold}: {path} has {', '.join(folds[:10])}{nearest(fold, folds)}")
        data = data[fold]
    if not _is_split(data):
        where = f"{path}, fold {fold}" if fold is not None else f"{path}"
        raise DataError(f"{where}: must be an object with lists of classes train, val and test")
    return {_split_name(name): [str(label) for label in members] for name, members in data.items()}


def read_groups(file: str) -> dict[str, list[str]]:
    """A JSON object group -> its classes, e.g. the domains of intents. Raises DataError for another form."""
    path = Path(file).expanduser()
    data = _json(path)
    if not all(isinstance(members, list) for members in data.values()):
        raise DataError(f"{path}: must be an object of lists: a group, and the labels of its classes")
    return {str(name): [str(label) for label in members] for name, members in data.items()}


def by_name(
    names: Sequence[Any], listed: Mapping[str, Sequence[Any]], groups: Mapping[str, Sequence[Any]] | None = None
) -> dict[str, list[int]]:
    """Class numbers of each split, from lists of labels or groups of labels.

    Args:
        names: the labels of all classes; their places are the class numbers.
        listed: labels, or names of groups, of "train", "val" and "test".

    Raises ValueError for a missing list, an unknown label, or one that is listed twice.
    """
    place = {label: i for i, label in enumerate(names)}
    seen: dict[Any, str] = {}
    for part in SPLITS:
        if part not in listed:
            raise ValueError(f"classes.{part}=null: where classes are listed, list them for train, val and test")
        members = [label for name in listed[part] for label in (groups or {}).get(name, [name])]
        for label in members:
            if label not in place:
                hint = nearest(str(label), [*map(str, names), *(groups or {})])
                raise ValueError(
                    f"classes.{part}: {label!r} is not a label of the data{hint or f'; it has {list(names[:10])}...'}"
                )
            if label in seen:
                raise ValueError(f"classes.{part}: {label!r} is already in {seen[label]}; splits must be disjoint")
            seen[label] = part
    return {part: [place[label] for label, where in seen.items() if where == part] for part in SPLITS}


def _split_name(name: object) -> str:
    return OTHER_NAMES.get(str(name), str(name))


def _is_split(data: Any) -> bool:
    if not isinstance(data, Mapping) or {_split_name(name) for name in data} != set(SPLITS):
        return False
    return all(isinstance(members, list) for members in data.values())


def _fault(data: Mapping[str, Any]) -> str:
    """What keeps these from being the lists of one split."""
    if missing := [split for split in SPLITS if split not in map(_split_name, data)]:
        return f"it has no {missing[0]}"
    return f"{next(name for name, members in data.items() if not isinstance(members, list))} is no list"


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(data, dict) or not data:
        raise DataError(f"{path}: must be a JSON object that is not empty")
    return data
