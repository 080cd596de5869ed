"""The random numbers: the published algorithm bit for bit, and their statistics."""

import itertools
import math
import shutil

import pytest
import torch
from torch import Tensor

from metaexp import random

MASK = (1 << 64) - 1
KEYS = random.task_keys(0, "train", torch.arange(2000))


def splitmix64(seed: int, n: int) -> list[int]:
    """The first n outputs of SplitMix64 in Python's integers (Steele, Lea, Flood 2014; Stafford's variant 13)."""
    outputs = []
    for _ in range(n):
        seed = (seed + 0x9E3779B97F4A7C15) & MASK
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        outputs.append(z ^ (z >> 31))
    return outputs


def unsigned(values: Tensor) -> list[int]:
    return [value & MASK for value in values.tolist()]


def chi_square(counts: Tensor) -> float:
    """Deviation of counts from equal ones, in standard deviations of chi-square."""
    expected = counts.sum() / counts.numel()
    freedom = counts.numel() - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom))


def test_reference_has_the_published_outputs():
    assert splitmix64(1234567, 5) == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize("seed", [0, 1234567, MASK, 1 << 63])
def test_mix_is_splitmix64(seed):
    counter = (torch.arange(1, 101) * random.GAMMA) + random._signed(seed)
    assert unsigned(random._mix(counter)) == splitmix64(seed, 100)


def test_fold_and_bits_are_splitmix64_by_counter():
    key = torch.tensor([5, -7])
    for row, start in zip(random.bits(key, 3, (4, 5)), (5, -7), strict=True):
        stream = splitmix64(splitmix64(start, 1)[0] + 3 * 0x9E3779B97F4A7C15, 1)[0]  # number 3 of the key's own stream
        assert unsigned(row.flatten()) == splitmix64(stream, 20)
    assert torch.equal(random.fold(key, 9), random.fold(key, torch.tensor([9, 9])))


def test_a_task_key_depends_on_seed_split_and_index_only():
    index = torch.arange(50)
    assert torch.equal(random.task_keys(3, "val", index)[7:8], random.task_keys(3, "val", index[7:8]))
    keys = torch.cat([random.task_keys(seed, split, index) for seed in range(20) for split in random.SPLITS])
    assert len(keys.unique()) == 20 * 3 * 50


def test_uniform_is_uniform_over_keys_streams_and_positions():
    for u in (
        random.uniform(KEYS, 0, (50,)),  # keys and positions
        torch.stack([random.uniform(KEYS[:1], stream, (1,)) for stream in range(3000)]),
        random.uniform(random.task_keys(0, "train", torch.arange(100_000)), 0, ()),  # the first number of each task
        torch.stack([random.uniform(random.task_keys(s, "test", torch.zeros(1).long()), 0, ()) for s in range(3000)]),
    ):
        assert u.min() >= 0
        assert u.max() < 1
        assert abs(chi_square((u.flatten() * 100).long().bincount(minlength=100))) < 4
    low, high = -3.0, 5.0
    u = random.uniform(KEYS, 0, (50,), low, high)
    assert low <= u.min() < low + 0.01
    assert high - 0.01 < u.max() < high


def test_neighbours_are_independent():
    """Joint counts on a 16 x 16 grid: neighbouring tasks, positions, streams, splits, seeds."""
    index = torch.arange(50_000)
    first = random.uniform(random.task_keys(0, "train", index), 0, (2,))
    pairs = {
        "tasks": (first[:-1, 0], first[1:, 0]),
        "positions": (first[:, 0], first[:, 1]),
        "streams": (first[:, 0], random.uniform(random.task_keys(0, "train", index), 1, ())),
        "splits": (first[:, 0], random.uniform(random.task_keys(0, "val", index), 0, ())),
        "seeds": (first[:, 0], random.uniform(random.task_keys(1, "train", index), 0, ())),
        "folded": (first[:, 0], random.uniform(random.fold(random.task_keys(0, "train", index), 0), 0, ())),
    }
    for name, (a, b) in pairs.items():
        cells = (a * 16).long() * 16 + (b * 16).long()
        assert abs(chi_square(cells.bincount(minlength=256))) < 4, name
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 4 / math.sqrt(len(a)), name


def test_every_bit_is_fair():
    drawn = random.bits(KEYS, 0, (20,)).flatten()
    ones = torch.stack([((drawn >> i) & 1).sum() for i in range(64)]).double()
    assert ((ones / len(drawn) - 0.5).abs() < 5 * 0.5 / math.sqrt(len(drawn))).all()


def test_float32_and_float64_agree_to_24_bits():
    single, double = (random.uniform(KEYS, 1, (20,), dtype=dtype) for dtype in (torch.float32, torch.float64))
    difference = double - single.double()
    assert difference.min() >= 0
    assert difference.max() < 2.0**-24


def test_normal_has_the_moments_and_the_tails_of_a_normal():
    z = random.normal(KEYS, 2, (100,), dtype=torch.float64).flatten()
    n = len(z)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((z**power).mean()) - moment) < 4 * math.sqrt(variance / n), power
    for bound, share in ((1, 0.317311), (2, 0.045500), (3, 0.0026998)):
        assert abs(float((z.abs() > bound).double().mean()) - share) < 4 * math.sqrt(share / n)
    assert random.normal(KEYS, 2, (100,)).isfinite().all()


def test_integers_are_uniform_and_take_a_tensor_of_bounds():
    drawn = random.integers(KEYS, 4, (50,), 7)
    assert abs(chi_square(drawn.flatten().bincount(minlength=7))) < 4
    bounds = torch.arange(1, 2001)
    own = random.integers(KEYS, 4, (), bounds)
    assert ((own >= 0) & (own < bounds)).all()
    assert torch.equal(own[99], random.integers(KEYS[99], 4, (), 100))


def test_all_orders_of_four_are_equally_frequent():
    drawn = random.permutation(random.task_keys(0, "train", torch.arange(24_000)), 5, 4)
    number = {order: i for i, order in enumerate(itertools.permutations(range(4)))}
    counts = torch.tensor([number[tuple(order)] for order in drawn.tolist()]).bincount(minlength=24)
    assert abs(chi_square(counts)) < 4


def test_the_beginning_of_a_permutation_is_the_beginning_of_the_whole():
    whole = random.permutation(KEYS[:50], 0, 300)
    assert torch.equal(whole.sort(-1).values, torch.arange(300).expand(50, 300))
    for k in (0, 1, 5, 299, 300):
        assert torch.equal(random.permutation(KEYS[:50], 0, 300, k), whole[:, :k])


def test_ends_are_disjoint_and_nested():
    whole = random.permutation(KEYS[:50], 0, 20)
    first, last = random.ends(KEYS[:50], 0, 20, 5, 15)
    assert torch.equal(first, whole[:, :5])
    assert torch.equal(last, whole.flip(-1)[:, :15])
    assert torch.equal(random.ends(KEYS[:50], 0, 20, 1, 2)[1], last[:, :2])


def test_ends_of_unequal_sizes():
    sizes = torch.arange(2000) % 13 + 4
    first, last = random.ends(KEYS, 0, 16, 2, 2, sizes)
    both = torch.cat([first, last], -1)
    assert (both < sizes[:, None]).all()
    assert all(len(set(row)) == 4 for row in both.tolist())
    # the same positions whatever the largest size is
    wider = random.ends(KEYS, 0, 40, 2, 2, sizes)
    assert torch.equal(wider[0], first)
    assert torch.equal(wider[1], last)
    of_four = torch.cat([t[sizes == 4] for t in (first, last)], -1)
    assert torch.equal(of_four.sort(-1).values, torch.arange(4).expand_as(of_four))


def test_fewer_numbers_are_the_first_of_more():
    for draw in (random.uniform, random.normal, random.bits):
        assert torch.equal(draw(KEYS, 1, (5, 2)), draw(KEYS, 1, (50, 2))[:, :5])


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_graph_gives_the_same_numbers():
    """Scalar loops, vectorised loops with a remainder, keys folded by position. Few draws: compiling is slow."""

    def draw(keys: Tensor) -> tuple[Tensor, ...]:
        position = torch.arange(33, device=keys.device)
        return random.bits(keys, 0, (5,)), random.bits(keys, 0, (20,)), random.fold(keys[:, None], position)

    torch.compiler.reset()
    compiled = torch.compile(draw, fullgraph=True)
    for keys in (KEYS[:25], KEYS[25:50]):
        assert all(torch.equal(a, b) for a, b in zip(compiled(keys), draw(keys), strict=True))


def test_vmap_gives_the_same_numbers():
    keys = KEYS[:20]
    for draw in (
        lambda key: random.uniform(key, 0, (3, 2)),
        lambda key: random.normal(key, 0, (5,)),
        lambda key: random.integers(key, 1, (5,), 10),
        lambda key: random.permutation(key, 2, 9, 4),
        lambda key: random.permutation(key, 2, 9),
        lambda key: random.fold(key, 8),
    ):
        assert torch.equal(torch.func.vmap(draw)(keys), draw(keys))
