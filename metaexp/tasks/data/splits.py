"""Which tasks or classes belong to training, validation and test."""

import hashlib
import math
from collections.abc import Iterable, Sequence

import torch

from metaexp.random import SPLITS, permutation


def by_counts(n: int, counts: Sequence[int], seed: int) -> dict[str, list[int]]:
    """0..n-1 shuffled with `seed` and cut: the first counts[0] are train, the next val, the next test; disjoint."""
    order = permutation(torch.tensor(seed), 0, n).tolist()
    stops = [sum(counts[: i + 1]) for i in range(len(counts))]
    return {split: sorted(order[stop - count : stop]) for split, count, stop in zip(SPLITS, counts, stops, strict=True)}


def first_of(members: Sequence[int], most: int, seed: int, what: str) -> list[int]:
    """The first `most` of the members in an order drawn with `seed`, sorted: those of a smaller number are among them.

    Raises ValueError if there are fewer.
    """
    if most > len(members):
        raise ValueError(f"train_tasks={most}: more than the {len(members)} {what} that there are")
    return sorted(members[i] for i in permutation(torch.tensor(seed), 1, len(members)).tolist()[:most])


def by_fractions(n: int, fractions: Sequence[float], seed: int) -> dict[str, list[int]]:
    """0..n-1 shuffled with `seed` and cut by the fractions (train, val, test).

    Sizes are rounded by largest remainder; each part with a fraction above 0 gets at least one element, as far as there
    are enough, in the order train, test, val. Raises ValueError unless the fractions are three numbers of at least 0
    with sum 1.
    """
    if len(fractions) != 3 or min(fractions) < 0 or not math.isclose(sum(fractions), 1.0, abs_tol=1e-6):
        raise ValueError(f"split={list(fractions)}: must be three fractions (train, val, test) with sum 1")
    counts = [math.floor(n * fraction + 1e-9) for fraction in fractions]
    for part in sorted(range(3), key=lambda i: counts[i] - n * fractions[i])[: n - sum(counts)]:
        counts[part] += 1
    wanted = [part for part in (0, 2, 1) if fractions[part] > 0]
    if n <= len(wanted):
        counts = [int(part in wanted[:n]) for part in range(3)]
    for part in wanted[:n]:
        if counts[part] == 0:
            counts[counts.index(max(counts))] -= 1
            counts[part] = 1
    return by_counts(n, counts, seed)


def digest(parts: Iterable[str | bytes]) -> str:
    """SHA-256 (hex) of several texts or bytes, independent of their order."""
    return joined(
        hashlib.sha256(part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part).digest()
        for part in parts
    )


def joined(digests: Iterable[bytes]) -> str:
    """SHA-256 (hex) of several SHA-256, independent of their order."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()
