"""Randomness as a pure function of a key: the same numbers on every device, under vmap and in a compiled graph.

A key is an int64 (64 random bits). `fold` derives keys from keys; `bits`, `uniform`, `normal`, `permutation` draw.
The generator is SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", figure 17;
finaliser of Stafford's variant 13), counter-based: number i of a stream is mix(stream + i * GAMMA). int64 arithmetic
wraps around, so it equals the paper's unsigned arithmetic bit for bit.
"""

import math

import torch
from torch import Tensor


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


GAMMA = _signed(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd
_INVERSE = _signed(pow(0x9E3779B97F4A7C15, -1, 1 << 64))  # GAMMA * _INVERSE = 1 modulo 2^64
_M1, _M2 = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)
SPLITS = {"train": 0, "val": 1, "test": 2}


def _mix(z: Tensor) -> Tensor:
    # `>>` keeps the sign of an int64, so the vacated high bits are masked to get a logical shift.
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _M1
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _M2
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def _number(start: Tensor, count: Tensor) -> Tensor:
    """Number `count` of the stream that begins at `start`: mix(start + count * GAMMA).

    Written so that count * GAMMA is never computed on its own. If count is an arange, Inductor turns that product into
    an index expression, whose overflow is undefined in C++ (wrong numbers and heap corruption from 16 elements on) and
    which is truncated to 32 bits on GPUs. For the same reason a compiled graph must receive task indices as an input,
    not count them itself.
    """
    return _mix((start * _INVERSE + count) * GAMMA)


def fold(key: Tensor, data: int | Tensor) -> Tensor:
    """A new key from a key and an integer (or an int64 tensor that broadcasts with it)."""
    start = _mix(key + GAMMA)
    return _mix(start + _signed((data + 1) * GAMMA)) if isinstance(data, int) else _number(start, data + 1)


def task_keys(seed: int, split: str, indices: Tensor) -> Tensor:
    """Keys of the tasks `indices` (int64 [tasks]) of a split: a pure function of (seed, split, index).

    Raises KeyError for a split other than train, val, test.
    """
    start = torch.full_like(indices, _signed(seed))
    return fold(fold(start, SPLITS[split]), indices)


def bits(key: Tensor, stream: int, shape: tuple[int, ...]) -> Tensor:
    """64 random bits per element: int64 [*key.shape, *shape], a pure function of (key, stream, position)."""
    count = math.prod(shape)
    start = fold(key, stream)
    return _number(
        start.view((*key.shape, *(1,) * len(shape))), torch.arange(1, count + 1, device=key.device).view(shape)
    )


def uniform(
    key: Tensor,
    stream: int,
    shape: tuple[int, ...],
    low: float = 0.0,
    high: float = 1.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Uniform numbers in [low, high): float [*key.shape, *shape]; 24 random bits in float32, 53 in float64."""
    dtype = dtype or torch.get_default_dtype()
    digits = 53 if dtype == torch.float64 else 24
    random = (bits(key, stream, shape) >> (64 - digits)) & ((1 << digits) - 1)
    return random.to(dtype) * (2.0**-digits * (high - low)) + low


def normal(key: Tensor, stream: int, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    """Standard normal numbers: float [*key.shape, *shape] (Box and Muller 1958)."""
    u = uniform(key, stream, (*shape, 2), dtype=dtype)  # pairs are adjacent, so a shorter draw is a prefix of a longer
    radius, angle = u.unbind(-1)
    return torch.sqrt(-2.0 * torch.log1p(-radius)) * torch.cos(2.0 * math.pi * angle)


def exponential(key: Tensor, stream: int, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    """Exponential numbers with mean 1: float [*key.shape, *shape]."""
    return -torch.log1p(-uniform(key, stream, shape, dtype=dtype))


def dirichlet(key: Tensor, stream: int, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    """Probabilities from Dirichlet(1, ..., 1), uniform on the simplex: float [*key.shape, *shape], last dimension sums
    to 1 (normalised exponential numbers; Devroye 1986, "Non-uniform random variate generation", chapter XI)."""
    drawn = exponential(key, stream, shape, dtype)
    return drawn / drawn.sum(-1, keepdim=True)


def integers(key: Tensor, stream: int, shape: tuple[int, ...], high: int | Tensor) -> Tensor:
    """Integers in [0, high), high <= 2^31: int64 [*key.shape, *shape] (multiply and shift, bias below high / 2^32).

    A tensor `high` must broadcast to the shape of the result.
    """
    return (((bits(key, stream, shape) >> 32) & 0xFFFFFFFF) * high) >> 32


def permutation(key: Tensor, stream: int, n: int, k: int | None = None) -> Tensor:
    """The first k elements of a random permutation of 0..n-1: int64 [*key.shape, k]. Works under vmap."""
    random = bits(key, stream, (n,))
    if k is None or k == n:
        return torch.argsort(random, dim=-1, stable=True)
    return torch.topk(random, k, largest=False).indices  # the same elements, without sorting the rest


def ends(key: Tensor, stream: int, n: int, first: int, last: int, sizes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The first and the last elements of a random permutation of 0..size-1: two disjoint draws without replacement.

    Neither depends on the other's length: int64 [*key.shape, first], [*key.shape, last], the latter starting from the
    end. `sizes` (int64 [*key.shape], at most n; None: all n) must be at least first + last.
    """
    random = bits(key, stream, (n,))
    low = high = random
    if sizes is not None:
        outside = torch.arange(n, device=key.device) >= sizes.unsqueeze(-1)
        limits = torch.iinfo(torch.int64)
        low, high = random.masked_fill(outside, limits.max), random.masked_fill(outside, limits.min)
    return torch.topk(low, first, largest=False).indices, torch.topk(high, last).indices
