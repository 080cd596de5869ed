"""N-way K-shot episodes over a table of labelled examples that stays on the device."""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypedDict

import torch
from torch import Tensor

from metaexp.constraints import Count, Limit, Natural, checked
from metaexp.random import SPLITS, ends, fold, integers, permutation
from metaexp.tasks.base import TaskFamily
from metaexp.tasks.data.splits import first_of
from metaexp.types import Episode, Examples

Rotation = Literal["none", "per_class", "as_classes"]


class Sizes(TypedDict, total=False):
    """Settings that may differ at validation and test; None: as in training."""

    shots: Natural | None
    queries: Natural | None
    ways: Annotated[int, Limit(least=2)] | None
    rotation: Rotation | None


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Images [*n, ..., H, H] rotated counter-clockwise by `turns` [*n] times 90 degrees, like numpy.rot90."""
    turns = turns.view(*turns.shape, *(1,) * (x.dim() - turns.dim()))
    x = torch.where((turns & 1) == 1, x.transpose(-1, -2).flip(-2), x)
    return torch.where((turns & 2) == 2, x.flip(-1, -2), x)


class _Groups:
    """The classes of a split, group after group.

    Args:
        members: class numbers of the split.
        groups: the group of every class.
    """

    def __init__(self, members: Sequence[int], groups: Sequence[int]):
        self.members = sorted(members, key=lambda c: groups[c])
        found = [groups[c] for c in self.members]
        self.sizes = [found.count(group) for group in dict.fromkeys(found)]

    def draw(self, key: Tensor, ways: int) -> Tensor:
        """Positions in `members`, int64 [*key.shape, ways]: a random group with enough classes, then classes of it."""
        enough = [i for i, size in enumerate(self.sizes) if size >= ways]
        starts = torch.tensor([sum(self.sizes[:i]) for i in enough], device=key.device)
        sizes = torch.tensor([self.sizes[i] for i in enough], device=key.device)
        group = integers(key, 3, (), len(enough))
        return starts[group].unsqueeze(-1) + ends(key, 0, max(self.sizes), ways, 0, sizes[group])[0]


class Classes(TaskFamily):
    """Episodes of `ways` classes, `shots` support and `queries` query examples per class, class after class.

    "Matching Networks for One Shot Learning", Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra, 2016.
    The classes of an episode are in random order, so labels are shuffled. The support set is the beginning and the
    query set the end of one random order of the class's examples: they are disjoint, a support set with fewer shots is
    part of one with more, and changing the size of one set does not change the other.

    Args:
        data: uint8 (returned as floats in [0, 1]) or float [rows, *x_shape], with the rows of a class together.
        counts: number of rows of each class, in the order of `data`.
        splits: class numbers of "train", "val", "test".
        rotation: none | per_class (each class of each episode is rotated by a random multiple of 90 degrees) |
            as_classes (rotated copies are separate classes: four times as many).
        test: those of shots, queries, ways and rotation that differ at validation and test.
        groups: the group of each class; the classes of an episode are all of one group that has enough of them, and
            each such group is as likely. None: they are of any.
        sources: the class from whose rows a class's support is drawn, its own number where that is itself; either all
            classes of a split have another one, or none. None: all have themselves.

    Raises:
        ValueError: a number is out of range, there are fewer classes than ways, or fewer examples in a class than
            shots and queries together; groups with rotated copies as classes.
    """

    classification = True
    x_mean: Tensor  # units of vectors of an encoder, where they have any
    x_std: Tensor
    raw_sha256: str | None = (
        None  # of examples that were encoded: vectors may differ between machines, sentences do not
    )

    @checked
    def __init__(
        self,
        data: Tensor,
        counts: list[int],
        splits: dict[str, list[int]],
        shots: Count,
        queries: Natural,
        ways: Annotated[int, Limit(least=2)],
        rotation: Rotation = "none",
        test: Sizes | None = None,
        seed: int = 0,
        eval_seed: int = 0,
        groups: Sequence[int] | None = None,
        sources: Sequence[int] | None = None,
    ):
        changed: dict[str, Any] = dict(test or {})
        test_rotation = changed.pop("rotation", None)
        super().__init__(shots, queries, ways, changed, seed, eval_seed)
        self._typed = {name for name, value in changed.items() if value is not None}
        self.rotation = dict.fromkeys(("val", "test"), test_rotation or rotation) | {"train": rotation}
        self.x_shape, self.y_dim = tuple(data.shape[1:]), ways
        for name, value in {"rotation": rotation, "test.rotation": test_rotation or rotation}.items():
            if value != "none" and (data.dim() < 3 or data.shape[-1] != data.shape[-2]):
                raise ValueError(f"{name}={value}: only square images can be rotated; an input is {list(self.x_shape)}")
        self.data, self.counts, self.bytes = data, torch.tensor(counts), data.dtype == torch.uint8
        self.starts = self.counts.cumsum(0) - self.counts
        self.splits = {split: torch.tensor(members, dtype=torch.int64) for split, members in splits.items()}
        own = list(range(len(counts))) if sources is None else list(sources)
        self.sources = torch.tensor(own)
        self._apart = {split: any(own[c] != c for c in members) for split, members in splits.items()}
        # Rows of the smallest and of the largest class of a split: (for the support, for the queries).
        rows = {split: self._spans(members) for split, members in splits.items()}
        self._least = {split: tuple(map(min, zip(*pairs, strict=True))) for split, pairs in rows.items()}
        self._most = {split: tuple(map(max, zip(*pairs, strict=True))) for split, pairs in rows.items()}
        if groups is not None and "as_classes" in self.rotation.values():
            raise ValueError("rotation=as_classes: here the classes of an episode are of one group; use per_class")
        self._groups = None if groups is None else {s: _Groups(members, groups) for s, members in splits.items()}
        if self._groups is not None:  # a group's classes one after the other
            self.splits = {split: torch.tensor(part.members) for split, part in self._groups.items()}
        for split in SPLITS:
            sizes = self.sizes[split]
            try:
                self._check(split, *(int(sizes[name] or 0) for name in ("shots", "queries", "ways")))
            except ValueError as error:
                if split == "test" or splits[split] or not splits["test"]:
                    raise
                self.test_only = self.test_only or str(error)  # all are for the test, of a run trained elsewhere

    def _spans(self, members: Sequence[int]) -> list[tuple[int, int]]:
        """Rows of each class: (for the support, for the queries)."""
        return [(int(self.counts[self.sources[c]]), int(self.counts[c])) for c in members] or [(0, 0)]

    def restrict(self, most: int) -> None:
        """See TaskFamily.restrict: `most` training classes, not counting rotated copies; units of vectors follow."""
        ways = self.sizes["train"]["ways"] or 2
        if self._groups is not None:
            raise ValueError(f"train_tasks={most}: the classes of an episode are of one group here; take all of them")
        if most < ways:
            raise ValueError(f"train_tasks={most}: these are classes, and an episode takes ways={ways} of them")
        members = first_of(self.splits["train"].tolist(), most, self.seed, "training classes")
        self.splits["train"] = torch.tensor(members, device=self.device)
        pairs = list(zip(*self._spans(members), strict=True))
        self._least["train"], self._most["train"] = (tuple(map(f, pairs)) for f in (min, max))
        mean, std = (getattr(self, name, None) for name in ("x_mean", "x_std"))
        if mean is None or std is None or not (mean != 0).any():
            return  # no vectors of an encoder, or in units of their own
        raw = self.data.cpu().double() * std.cpu() + mean.cpu()
        place = torch.repeat_interleave(torch.arange(len(self.counts)), self.counts.cpu())
        rows = raw[torch.isin(place, torch.tensor(members))]
        mean = rows.mean(0)
        scale = (rows - mean).square().mean().sqrt()
        self.x_mean, self.x_std = mean, torch.ones_like(mean) * (scale if scale > 0 else 1.0)
        self.data = ((raw - self.x_mean) / self.x_std).to(self.data.dtype).to(self.data.device)

    @property
    def train_count(self) -> int | None:
        """See TaskFamily.train_count: classes, not counting rotated copies."""
        return len(self.splits["train"])

    def _check(self, split: str, shots: int, queries: int, ways: int) -> None:
        def name(setting: str) -> str:
            return f"test.{setting}" if split != "train" and setting in self._typed else setting

        if ways > (most := self.count(split) if self._groups is None else max(self._groups[split].sizes, default=0)):
            where = "has" if self._groups is None else "has at most, in one group,"
            raise ValueError(f'{name("ways")}={ways}: split "{split}" {where} {most} classes')
        least = self._least[split]
        if not self._apart[split] and shots + queries > least[0]:
            raise ValueError(
                f"{name('shots')}={shots} and {name('queries')}={queries}: together more than the "
                f'{least[0]} examples of the smallest class of split "{split}"{self._smallest(split)}'
            )
        for setting, size, most in (("shots", shots, least[0]), ("queries", queries, least[1])):
            if size > most:
                raise ValueError(
                    f'{name(setting)}={size}: more than the {most} examples there are for these in split "{split}"'
                )

    def _smallest(self, split: str) -> str:
        """' (class NAME)' of a split's smallest class, where the classes have names."""
        names = getattr(self, "names", None)
        members = self.splits[split].tolist()
        return f" (class {names[min(members, key=lambda c: int(self.counts[c]))]})" if names and members else ""

    def count(self, split: str) -> int:
        """Number of classes of a split, including rotated copies if they are classes of their own."""
        return len(self.splits[split]) * (4 if self.rotation[split] == "as_classes" else 1)

    @property
    def pool_dim(self) -> int:
        """Number of training classes."""
        return self.count("train")

    def content_sha256(self) -> str | None:
        """See TaskFamily.content_sha256: of the table with the names of the classes."""
        names = "\0".join(map(str, getattr(self, "names", ())))
        found = hashlib.sha256(f"{names}\0{self.counts.tolist()}\0{self.raw_sha256}".encode("utf-8", "surrogatepass"))
        for first in range(0, 0 if self.raw_sha256 else len(self.data), 1024):
            found.update(self.data[first : first + 1024].cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    def contents(self, split: str) -> dict[str, list[bytes]] | None:
        """See TaskFamily.contents: of the rows of the table."""
        names = getattr(self, "names", range(len(self.counts)))
        spans = zip(self.starts.tolist(), self.counts.tolist(), strict=True)
        rows = [range(start, start + count) for start, count in spans]
        own = {c: {c, int(self.sources[c])} for c in self.splits[split].tolist()}  # its queries, and its support
        return {str(names[c]): [self._digest(row) for part in sorted(own[c]) for row in rows[part]] for c in own}

    def prepare_as(self, own: TaskFamily) -> None:
        """Vectors of an encoder take the run's own units, not those of these classes."""
        mean, std = (getattr(own, name, None) for name in ("x_mean", "x_std"))
        if mean is None or std is None or not hasattr(self, "x_mean") or mean.shape != self.x_mean.shape:
            return
        raw = self.data.cpu().double() * self.x_std.cpu() + self.x_mean.cpu()
        self.data = ((raw - mean.cpu().double()) / std.cpu().double()).to(self.data.dtype).to(self.data.device)
        self.x_mean, self.x_std = mean, std

    def _digest(self, row: int) -> bytes:
        """Of one example as it was read."""
        return hashlib.blake2b(self.data[row].cpu().contiguous().numpy().tobytes(), digest_size=16).digest()

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "Classes":
        """See TaskFamily.to; the table keeps its type (bytes stay bytes)."""
        super().to(device, dtype)
        self.data, self.counts, self.starts = (t.to(device) for t in (self.data, self.counts, self.starts))
        self.sources = self.sources.to(device)
        self.splits = {split: members.to(device) for split, members in self.splits.items()}
        return self

    def sample(
        self,
        split: str,
        indices: Tensor,
        shots: int | None = None,
        queries: int | None = None,
        ways: int | None = None,
    ) -> Episode:
        """See TaskFamily.sample; info holds classes and rotation (quarter turns), [tasks, ways].

        Classes are numbered over all splits, from 0.

        Raises ValueError if there are not enough classes or examples.
        """
        shots, queries = self.size(split, "shots", shots), self.size(split, "queries", queries)
        ways = self.size(split, "ways", ways)
        self._check(split, shots, queries, ways)
        key = self.keys(split, indices)
        # [tasks, ways] positions in the split
        drawn = self._groups[split].draw(key, ways) if self._groups else permutation(key, 0, self.count(split), ways)
        # One key per class of the episode: with more ways, the first classes stay the same.
        own = fold(fold(key, 1).unsqueeze(-1), drawn)
        classes, turns = self._classes(split, drawn, own)
        first, last = self._rows(split, own, classes, shots, queries)
        target = torch.eye(ways, dtype=self.dtype, device=key.device)

        def examples(rows: Tensor) -> Examples:  # [tasks, ways, k] rows of the table
            x = self._inputs(split, rows, turns).flatten(1, 2)
            y = target.repeat_interleave(rows.shape[-1], 0)
            return Examples(x, y.expand(len(indices), *y.shape))

        return Episode(examples(first), examples(last), key, {"classes": classes, "rotation": turns})

    def pool(self, split: str, indices: Tensor, n: int) -> Examples:
        """See TaskFamily.pool: n examples, each of a random class, rotated as in the split's episodes.

        y is one-hot over the split's classes: [batches, n, count(split)].
        """
        key = fold(self.keys(split, indices).unsqueeze(-1), torch.arange(n, device=indices.device))  # [batches, n]
        drawn = integers(key, 0, (), self.count(split))
        classes, turns = self._classes(split, drawn, key)
        rows = self.starts[classes] + integers(key, 1, (), self.counts[classes])
        x = self._inputs(split, rows.unsqueeze(-1), turns).squeeze(2)
        every = torch.arange(self.count(split), device=indices.device)
        return Examples(x, (drawn.unsqueeze(-1) == every).to(self.dtype))

    def _rows(self, split: str, key: Tensor, classes: Tensor, shots: int, queries: int) -> tuple[Tensor, Tensor]:
        """Rows of the table for classes [tasks, ways]: [tasks, ways, shots] and [tasks, ways, queries]."""
        most = self._most[split]
        starts = self.starts[classes].unsqueeze(-1)
        if not self._apart[split]:
            equal = self._least[split] == most
            first, last = ends(key, 0, most[0], shots, queries, None if equal else self.counts[classes])
            return starts + first, starts + last
        sources = self.sources[classes]
        first, _ = ends(key, 0, most[0], shots, 0, self.counts[sources])
        _, last = ends(key, 0, most[1], 0, queries, self.counts[classes])
        return self.starts[sources].unsqueeze(-1) + first, starts + last

    def _classes(self, split: str, drawn: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Positions among the split's (rotated) classes -> class numbers and quarter turns, int64 of the same shape."""
        members = self.splits[split]
        if self.rotation[split] == "as_classes":
            return members[drawn % len(members)], drawn // len(members)
        turns = integers(key, 2, (), 4) if self.rotation[split] == "per_class" else torch.zeros_like(drawn)
        return members[drawn], turns

    def _inputs(self, split: str, rows: Tensor, turns: Tensor) -> Tensor:
        """Rows of the table [a, b, k] with turns [a, b] -> float [a, b, k, *x_shape]; rotated while still bytes."""
        x = self.data.index_select(0, rows.flatten()).view(*rows.shape, *self.x_shape)
        if self.rotation[split] != "none":
            x = rotate(x, turns)
        return x.to(self.dtype) / 255 if x.dtype == torch.uint8 else x.to(self.dtype)
