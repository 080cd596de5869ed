"""The legal values of a setting, declared once as the annotation of a constructor's parameter.

A constructor declares `inner_steps: Count = 5` or `select: Literal["soft", "top1"] = "soft"`. The command line reads
these annotations from the source, without importing it (`metaexp.config.annotations`); `@checked` rejects the same
values when the class is used as a library.
"""

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    ParamSpec,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from metaexp.checks import nearest, show


class Limit(NamedTuple):
    """The range of a number: `Annotated[float, Limit(above=0)]`."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def holds(self, value: Any) -> bool:
        """Whether a number is in the range."""
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"from {self.least} to {self.most}"
        ends = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{word} {end}" for word, end in ends.items() if end is not None)


class Ordered(NamedTuple):
    """Rule for [low, high]: finite, low not above high, or with `strict` below it."""

    strict: bool = False

    def holds(self, value: Any) -> bool:
        """Whether two numbers are in order."""
        low, high = value
        return math.isfinite(low) and math.isfinite(high) and (low < high or (low == high and not self.strict))

    def __str__(self) -> str:
        return f"two finite numbers, [low, high], low {'below' if self.strict else 'not above'} high"


class Filled(NamedTuple):
    """Rule for a list: not empty."""

    def holds(self, value: Any) -> bool:
        """Whether there is an entry."""
        return len(value) > 0

    def __str__(self) -> str:
        return "a list with at least one entry"


class Duration(NamedTuple):
    """Rule for seconds: they may be typed with a unit, 90s, 15m, 2h, 1d, or several, 1h30m."""

    def read(self, value: Any) -> Any:
        """A text with units as seconds, whole if they are; any other value as it is."""
        if not value or not isinstance(value, str) or not _DURATION.fullmatch(value):
            return value
        seconds = math.fsum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)([smhd])", value))
        return int(seconds) if seconds.is_integer() else seconds

    def holds(self, value: Any) -> bool:
        """Whether it is a duration: any number that the other rules allow."""
        return True


_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile("".join(rf"(\d+\.?\d*{unit})?" for unit in _UNITS))

Natural = Annotated[int, Limit(least=0)]
Count = Annotated[int, Limit(least=1)]
Positive = Annotated[float, Limit(above=0)]
NonNegative = Annotated[float, Limit(least=0)]
Seconds = Annotated[float, Duration(), Limit(above=0)]
WholeSeconds = Annotated[int, Duration(), Limit(least=0)]
Share = Annotated[float, Limit(least=0, most=1)]
Interval = Annotated[tuple[float, float], Ordered()]  # [low, high]

_NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
_PLURALS = {bool: "true or false", int: "whole numbers", float: "numbers", str: "texts"}
_LISTS = (list, tuple, Sequence)
_GROUPS = (dict, Mapping)


class Misfit(ValueError):
    """A value that does not fit an annotation.

    Attributes:
        path: the keys inside the value that lead to the wrong part, e.g. ".shots".
        value: the wrong part.
        out_of_range: whether the type is right and only the range is violated.
    """

    def __init__(self, reason: str, value: Any, path: str = "", out_of_range: bool = False):
        super().__init__(reason)
        self.value, self.path, self.out_of_range = value, path, out_of_range


def fitted(value: Any, kind: Any) -> Any:
    """The value, converted to the annotated type: 1e4 is accepted as a whole number, and 3 as a float.

    Annotations that do not restrict plain values (`Any`, a class, a callable) accept everything.

    Raises:
        Misfit: "must be ...".
    """
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        for rule in args[1:]:
            value = rule.read(value) if isinstance(rule, Duration) else value
        try:
            made = fitted(value, args[0])
        except Misfit as fault:
            raise Misfit(f"must be {described(kind)}", value) if args[0] in _NOUNS else fault from None
        for rule in args[1:]:
            if not rule.holds(made):
                raise Misfit(f"must be {rule}", value, out_of_range=True)
        return made
    if origin is NotRequired:
        return fitted(value, args[0])
    if origin in (Union, UnionType):
        return _one_of(value, kind, args)
    if origin is Literal:
        for word in args:
            if show(word) == show(value):
                return word
        raise Misfit(f"must be {described(kind)}{nearest(show(value), map(show, args))}", value)
    if (origin or kind) in _LISTS:
        return _items(value, kind, args)
    if is_typeddict(kind) or (origin or kind) in _GROUPS:
        return _group(value, kind)
    if kind is None or kind in _NOUNS:
        return _scalar(value, NoneType if kind is None else kind)
    return value


def _scalar(value: Any, kind: Any) -> Any:
    number = isinstance(value, Real) and not isinstance(value, bool)
    if kind is float and number and not math.isnan(value):
        return float(value)
    if kind is int and number and math.isfinite(value) and value == int(value):
        return int(value)
    if kind is str and (isinstance(value, str) or (isinstance(value, Integral) and not isinstance(value, bool))):
        return str(value)
    if kind in (bool, NoneType) and isinstance(value, kind):
        return value
    raise Misfit(f"must be {_NOUNS[kind]}", value)


def _one_of(value: Any, kind: Any, kinds: Sequence[Any]) -> Any:
    """The value as the first alternative that fits; alternatives that change its type come last."""
    faults, converted = [], []
    for one in kinds:
        try:
            made = fitted(value, one)
        except Misfit as fault:
            faults.append(fault)
            continue
        if type(made) is type(value):
            return made
        converted.append(made)
    if converted:
        return converted[0]
    null = ", or null" if NoneType in kinds else ""
    for one in faults:
        if one.out_of_range or one.path:
            raise Misfit(f"{one}{'' if one.path else null}", one.value, one.path, one.out_of_range)
    words = [word for one in kinds for word in get_args(one) if get_origin(one) is Literal]
    raise Misfit(f"must be {described(kind)}{nearest(show(value), map(show, words))}", value)


def _items(value: Any, kind: Any, kinds: Sequence[Any]) -> list[Any]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise Misfit(f"must be {described(kind)}", value)
    fixed = get_origin(kind) is tuple and Ellipsis not in kinds
    if fixed and len(value) != len(kinds):
        raise Misfit(f"must be {described(kind)}", value)
    made = []
    for item, one in zip(value, kinds if fixed else [*kinds[:1], Any][:1] * len(value), strict=True):
        try:
            made.append(fitted(item, one))
        except Misfit as fault:
            raise Misfit(f"each {fault}", value, out_of_range=fault.out_of_range) from None
    return made


def _group(value: Any, kind: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise Misfit(f"must be {described(kind)}", value)
    kinds, made = fields(kind), {}
    for name, item in value.items():
        try:
            made[name] = fitted(item, kinds.get(name, kinds.get("*", Any)))
        except Misfit as fault:
            raise Misfit(str(fault), fault.value, f".{name}{fault.path}", fault.out_of_range) from None
    return made


def fields(kind: Any) -> dict[str, Any]:
    """Annotations of the entries of a TypedDict by name, or of a dict under "*"; in a union, of the first dict."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Annotated, NotRequired):
        return fields(args[0])
    if origin in (Union, UnionType):
        return next((found for one in args if (found := fields(one))), {})
    if is_typeddict(kind):
        return get_type_hints(kind, include_extras=True)
    return {"*": args[1]} if origin in _GROUPS and len(args) == 2 else {}


def takes_names(kind: Any) -> bool:
    """Whether an annotation allows a plain group of names and values: a `Mapping` (a `dict` describes an object)."""
    if get_origin(kind) in (Union, UnionType):
        return any(map(takes_names, get_args(kind)))
    return (get_origin(kind) or kind) is Mapping


def takes_null(kind: Any) -> bool:
    """Whether an annotation allows None."""
    try:
        fitted(None, kind)
    except Misfit:
        return False
    return kind is not Any


def described(kind: Any, short: bool = False) -> str:
    """What an annotation allows, in words: "a whole number of at least 1 or null"; empty if it restricts nothing.

    `short` omits the ranges.
    """
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        timed = any(isinstance(rule, Duration) for rule in args[1:])
        base = described(args[0], short) + (" of seconds (90, 90s, 15m, 2h)" if timed else "")
        rules = [str(rule) for rule in args[1:] if isinstance(rule, Limit)]
        said = " and ".join(rules)
        if timed and said:
            return base if short else f"{base}, {said}"
        return base if short or not said else f"{base} {'of ' if said.startswith('at ') else ''}{said}"
    if origin is NotRequired:
        return described(args[0], short)
    if origin in (Union, UnionType):
        parts = [described(one, short) for one in args]
        if not all(parts):
            return ""
        return (" | " if any(get_origin(one) is Literal for one in args) else " or ").join(dict.fromkeys(parts))
    if origin is Literal:
        return " | ".join(show(word) for word in args)
    if (origin or kind) in _LISTS:
        return _described_list(kind, args, short)
    if is_typeddict(kind) or (origin or kind) in _GROUPS:
        return "a group of settings"
    return _NOUNS.get(NoneType if kind is None else kind, "")


def _described_list(kind: Any, args: Sequence[Any], short: bool) -> str:
    if get_origin(kind) is tuple and Ellipsis not in args:
        return "two numbers, [low, high]" if len(args) == 2 else f"a list of {len(args)}"
    if args and get_origin(args[0]) is Annotated and (base := get_args(args[0])[0]) in _PLURALS:
        return f"a list of {_PLURALS[base]}" + described(args[0], short).removeprefix(_NOUNS[base])
    inside = _PLURALS.get(args[0]) or described(args[0], short) if args else ""
    return f"a list of {inside}" if inside else "a list"


P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a constructor to check its arguments against its annotations: ValueError "name=value: must be ...".

    Only parameters with a range or a list of words are checked.
    """
    signature = inspect.signature(function)
    kinds = {name: kind for name, kind in function.__annotations__.items() if name != "return" and _restricts(kind)}

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in kinds:
                try:
                    fitted(value, kinds[name])
                except Misfit as fault:
                    raise ValueError(f"{name}{fault.path}={show(fault.value)}: {fault}") from None
        return function(*args, **kwargs)

    return call


def _restricts(kind: Any) -> bool:
    if get_origin(kind) in (Annotated, Literal):
        return True
    return any(_restricts(one) for one in (*get_args(kind), *(fields(kind).values() if is_typeddict(kind) else ())))
