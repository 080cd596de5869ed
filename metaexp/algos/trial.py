"""Trying a learner on two tasks before it is trained: which mapping over tasks is right for it, and what it learns.

vmap cannot take every function (recurrent layers of torch, branches on data, `.item()`), and gives a wrong
derivative of some (batch norm called as a function, in torch 2.13). The loop over tasks takes them all. Nothing here
changes the learner, draws from a global generator or counts as training.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from metaexp.errors import MetaexpError, NothingLearnedError
from metaexp.mapping import Mapping, map_tasks, piece_size
from metaexp.models.attention import plain_attention
from metaexp.models.norms import one_by_one, prepare
from metaexp.types import Episode

AGREE = {torch.float64: 1e-6, torch.float32: 1e-3}  # relative difference between two mappings that counts as rounding


def first_tasks(learner: Any, number: int = 2) -> Episode:
    """The first training tasks, as training sees them."""
    device = learner.family.device
    with torch.no_grad():
        return learner.train_batch(torch.arange(number, device=device))._replace(info={})


def two(episode: Episode) -> Episode:
    """The first two tasks of a meta-batch; the first one twice if there is no second."""
    rows = [0, min(1, len(episode.key) - 1)]
    return tree_map(lambda t: t[rows], episode)


def known(learner: Any) -> bool:
    """Whether all parts of a learner are of this package or plain layers of torch, which tests hold right under every
    mapping: trying them again would cost each run the time of a hundred steps."""
    family, loss = learner.family, learner.loss
    metrics = [getattr(metric, "function", metric) for metric in learner.metrics.values()]
    own = [part for value in vars(learner).values() for part in (value if isinstance(value, tuple) else (value,))]
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in learner.modules())
    return not hooked and all(map(_known, [*learner.modules(), family, loss, *metrics, *own]))


_HOMES = ("metaexp.", "builtins", "collections", "torch.")
_PLAIN_LAYERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Flatten, nn.Identity, nn.Sequential, nn.ModuleList, nn.ModuleDict,
    nn.ReLU, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Softplus, nn.Tanh, nn.Sigmoid,
)  # fmt: skip


def _known(part: Any) -> bool:
    if isinstance(part, nn.Module) and not type(part).__module__.startswith("metaexp."):
        return type(part) in _PLAIN_LAYERS
    home = part.__module__ if callable(part) and hasattr(part, "__qualname__") else type(part).__module__
    return str(home).startswith(_HOMES) and not isinstance(part, partial)


def fitting_mapping(learner: Any, asked: Mapping, episode: Episode | None = None) -> tuple[Mapping, str | None]:
    """(the mapping to use, why it is not the one chosen by `metaexp.mapping.choose`), found by a trial on two tasks.

    Args:
        learner: with the chosen mapping.
        asked: what the user typed; only "auto" is replaced.
        episode: a meta-batch to try training on; None: two training tasks.

    Raises:
        ValueError: vmap was typed and cannot take the learner, or the loop over tasks cannot either.
    """
    if piece_size(learner.mapping, 2) == 1 or known(learner):
        return learner.mapping, None
    train = two(first_tasks(learner) if episode is None else episode) if learner.trains else None
    reason = why_not_vmap(learner, train, None if learner.reads_info else test_tasks(learner))
    if reason is None:
        return learner.mapping, None
    if asked != "auto":
        raise ValueError(f"mapping={asked}: {reason}; take mapping=loop, or auto")
    return "loop", reason


def test_tasks(learner: Any) -> Episode:
    """Two validation tasks."""
    with torch.no_grad():
        index = torch.arange(2, device=learner.family.device)
        episode: Episode = learner.family.sample("val", index, **learner.family.common("val", index))
    return episode._replace(info={})


def why_not_vmap(learner: Any, train: Episode | None, test: Episode | None) -> str | None:
    """Whether vmap raises an error or gives another loss, meta-gradient or prediction than the loop over tasks.

    Args:
        learner: any.
        train, test: meta-batches of two tasks; None: training, or the test, is left out.

    Raises:
        ValueError: the loop over tasks raises an error too.
    """
    for what, episode, compute in (("meta-gradient", train, training_of), ("prediction", test, predictions)):
        if episode is None:
            continue
        right, _ = in_one_line(lambda c=compute, e=episode: c(learner, e, "loop"))  # type: ignore[misc]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's notes on operations that vmap does one by one
                found, dtype = compute(learner, episode, "vmap")
        except Exception as error:
            return f"vmap cannot take this learner ({first_line(error)})"
        if (apart := difference(found, right)) > AGREE.get(dtype, 0.1):
            return f"under vmap the {what} is wrong by {apart:.1g} of its largest element"
    return None


def in_one_line(compute: Callable[[], Any]) -> Any:
    """compute(), whose errors become a ValueError of one line."""
    try:
        return compute()
    except (ValueError, MetaexpError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ValueError(f"model: fails on the first task: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Kind and first line of an error."""
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text[:120]}" if text else type(error).__name__


def difference(a: Any, b: Any) -> float:
    """Largest |a - b| over the leaves of two trees, relative to the largest |b|; inf where only one is finite."""
    pairs = [(x.detach(), y.detach()) for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True) if x.numel()]
    if any(bool((x.isfinite() != y.isfinite()).any()) for x, y in pairs):
        return float("inf")
    finite = [(torch.nan_to_num(x, 0, 0, 0), torch.nan_to_num(y, 0, 0, 0)) for x, y in pairs]
    scale = max((float(y.abs().max()) for _, y in finite), default=0.0)
    apart = max((float((x - y).abs().max()) for x, y in finite), default=0.0)
    return apart / scale if scale else apart


# -- what is computed ------------------------------------------------------------------------------------------------


def training_of(learner: Any, episode: Episode, mapping: Mapping, shift: float = 0.0) -> tuple[Any, torch.dtype]:
    """((meta-gradient by name, outer loss []), the precision in which they were computed): float64 where it can be.

    Args:
        shift: how far from the learner's own meta-parameters.

    Raises:
        ValueError: a buffer of the network has changed on the way.
    """
    own = next((p.dtype for p in learner.parameters() if p.is_floating_point()), torch.float64)
    if episode.key.device.type != "mps":
        with suppress(RuntimeError, TypeError):  # a constant of the network in the run's own precision
            return _training(learner, episode, mapping, shift, torch.float64), torch.float64
    return _training(learner, episode, mapping, shift, own), own


def _training(learner: Any, episode: Episode, mapping: Mapping, shift: float, dtype: torch.dtype) -> Any:
    device = episode.key.device

    def cast(t: Tensor) -> Tensor:
        return t.detach().to(device, dtype if t.dtype.is_floating_point else t.dtype)

    learned = learner.meta_parameters()
    rest = [*learner.named_buffers(), *learner.named_parameters()]
    others = {name: cast(t).clone() for name, t in rest if name not in learned}
    before = {name: t.clone() for name, t in others.items()}
    params = {name: cast(p) for name, p in learned.items()}
    if shift:
        params = {n: p + shift * torch.cos(torch.arange(p.numel()).to(p)).view(p.shape) for n, p in params.items()}
    with mapped_by(learner, mapping), torch.autocast(device.type, enabled=False):
        gradient, loss, _ = learner.meta_gradient(params, tree_map(cast, episode), others)
    for name, was in before.items():
        if not torch.equal(torch.nan_to_num(others[name]), torch.nan_to_num(was)):
            raise ValueError(
                f"model: a forward pass changes the buffer {name}, so that one task would change the next; call "
                ".eval() on that layer if this stops it, or keep it constant"
            )
    return gradient, loss


def predictions(learner: Any, episode: Episode, mapping: Mapping) -> tuple[Any, torch.dtype]:
    """(what each task's queries are predicted to be before and after one step, in every mode of the test; their
    precision)."""

    def one(task: Episode) -> dict[str, Tensor]:
        made = {}
        for place, adapted in enumerate(learner.path(task.support, task.key, min(1, learner.test_steps))):
            for suffix, mode in learner.modes(["queries", "single", "support"]).items():
                made[f"{place}{suffix}"] = learner.predict_as(mode, adapted, task.support, task.query.x)
        return made

    apart = one_by_one(learner.model) if mapping == "loop" else nullcontext()
    with torch.no_grad(), at_test(learner), mapped_by(learner, mapping), plain_attention(), apart:
        made = map_tasks(one, episode, mapping)
    return made, next((t.dtype for t in made.values()), torch.float32)


@contextmanager
def mapped_by(learner: Any, mapping: Mapping) -> Iterator[None]:
    """Inside, the learner's tasks are mapped this way."""
    before = learner.mapping
    learner.mapping = mapping
    prepare(learner.model, native=mapping == "loop")
    try:
        yield
    finally:
        learner.mapping = before
        prepare(learner.model, native=before == "loop")


@contextmanager
def at_test(learner: Any) -> Iterator[None]:
    """Inside, the user's modules that behave differently in training are in evaluation mode."""
    modes = {module: module.training for module in learner.modules()}
    learner.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


# -- what is learned -------------------------------------------------------------------------------------------------


def unreached(learner: Any, episode: Episode) -> list[str]:
    """Meta-parameters whose gradient is exactly 0 on two tasks, with their own and with other values.

    Empty for a learner that trains nothing. Zero at the start alone (the factor of a matrix that starts at zero) does
    not count.
    """
    if not learner.trains:
        return []
    few = two(episode)
    missing: set[str] = set(learner.meta_parameters())
    for shift in (0.0, 0.03, 0.3):
        (gradient, _), _ = training_of(learner, few, "loop", shift)
        missing = {name for name in missing if not bool(gradient[name].any())}
        if not missing:
            break
    return [name for name in learner.meta_parameters() if name in missing]


def check_connected(learner: Any, episode: Episode) -> list[str]:
    """The names of `unreached`.

    Raises:
        NothingLearnedError: no meta-parameter has a gradient on the tasks of this meta-batch.
    """
    names = in_one_line(lambda: unreached(learner, episode))
    if learner.trains and len(names) == len(learner.meta_parameters()):
        (gradient, _), _ = training_of(learner, episode, "loop")
        if not any(bool(g.any()) for g in gradient.values()):
            raise NothingLearnedError(nothing_learned(learner))
    return list(names)


def nothing_learned(learner: Any) -> str:
    """What to say where the meta-gradient is exactly zero."""
    return (
        f"model: the meta-gradient is exactly zero for all {len(learner.meta_parameters())} learned tensors, so "
        "nothing can be learned; look for .detach(), torch.no_grad(), rounding or a comparison on the way to the loss"
    )
