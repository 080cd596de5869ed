"""Checks of what a prediction depends on: not on query targets, other queries, info, orders; on the support set."""

import math

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from metaexp.algos.base import MODES
from metaexp.audit.measures import largest, relative_difference
from metaexp.audit.subject import Subject, predictions, seen
from metaexp.audit.table import Finding, above, at_most, not_applicable
from metaexp.evaluation.scores import chunks
from metaexp.random import fold, permutation
from metaexp.types import Episode, Examples

ROUNDING = 1e-8
ORDER = 1e-6  # sums in another order, through many inner steps
INFO = "it says that it reads the task's info (reads_info), as upper bounds do"
TASKS, LEAST = 200, 40  # tasks with shuffled targets: the most, and the fewest in bounded time
STREAM = 977  # of the audit's own random numbers, drawn from the tasks' keys


def query_targets(subject: Subject) -> Finding:
    """Other query targets change no prediction and, of what the learner asks the family meanwhile, nothing is known."""
    learner = subject.learner
    if learner.reads_info:
        return not_applicable(INFO)
    episode = seen(learner, subject.episodes())
    asked = _Asked(subject)
    with asked:
        own = predictions(learner, episode)
    query = Examples(episode.query.x, _other_targets(episode.query.y, subject.family.classification))
    apart = relative_difference(predictions(learner, episode._replace(query=query)), own)
    if asked.count:
        return at_most(asked.count, 0, "while it adapts or predicts it draws tasks from the family, with their targets")
    return at_most(apart, 0, "predictions change with the targets of the queries, which no prediction may see")


class _Asked:
    """Inside, counts how often tasks or pooled examples are drawn from the family."""

    def __init__(self, subject: Subject):
        self.family, self.count = subject.family, 0

    def __enter__(self) -> "_Asked":
        for name in ("sample", "pool"):
            setattr(self.family, name, self._counted(getattr(self.family, name)))
        return self

    def _counted(self, function):  # type: ignore[no-untyped-def]
        def counted(*args, **kwargs):  # type: ignore[no-untyped-def]
            self.count += 1
            return function(*args, **kwargs)

        return counted

    def __exit__(self, *_: object) -> None:
        for name in ("sample", "pool"):
            delattr(self.family, name)


def _other_targets(y: Tensor, classes: bool) -> Tensor:
    """Targets of the same kind, all of them others."""
    return y.roll(1, -1) if classes else 1.5 * y.flip(-2) + 1


def other_queries(subject: Subject) -> Finding:
    """The prediction of a query does not depend on the other queries, in every mode that claims so."""
    learner, modes = subject.learner, subject.claims()
    if learner.reads_info:
        return not_applicable(INFO)
    if not modes:
        return not_applicable("its batch statistics come from the queries, and it makes no other claim")
    episode = seen(learner, subject.episodes())
    n = episode.query.x.shape[1]
    if n < 2:
        return not_applicable("a task has one query only")
    x = torch.where(_odd(n, episode.query.x), episode.query.x.roll(1, 0) * 0.7 + 0.3, episode.query.x)
    found: dict[str, float] = {}
    for suffix, mode in modes.items():
        own = predictions(learner, episode, {suffix: mode})
        changed = predictions(learner, episode._replace(query=Examples(x, episode.query.y)), {suffix: mode})
        first = tree_map(lambda t: t[:, :1], episode.query)
        alone = predictions(learner, episode._replace(query=first), {suffix: mode})
        kept = [{name: t[:, :, ::2] for name, t in tree.items()} for tree in (changed, own)]
        single = [{name: t[:, :, :1] for name, t in tree.items()} for tree in (alone, own)]
        found[mode] = largest([relative_difference(*kept), relative_difference(*single)])
    worst = max(found, key=lambda mode: math.inf if math.isnan(found[mode]) else found[mode])
    return at_most(
        found[worst], ROUNDING,
        f'in mode "{worst}" a prediction depends on the other queries of its batch: a norm or mean over the batch that '
        "is not one of the layers that metaexp knows",
    )  # fmt: skip


def _odd(n: int, x: Tensor) -> Tensor:
    return (torch.arange(n) % 2 == 1).view(1, n, *(1,) * (x.dim() - 2))


def query_order(subject: Subject) -> Finding:
    """Queries in another order get the same predictions, in every mode."""
    learner = subject.learner
    if learner.acts:
        return not_applicable("a world has no queries")
    episode = seen(learner, subject.episodes())
    order = torch.arange(episode.query.x.shape[1]).roll(1).flip(0)
    turned = episode._replace(query=Examples(*(t[:, order] for t in episode.query)))
    own = {name: t[:, :, order] for name, t in predictions(learner, episode).items()}
    return at_most(
        relative_difference(predictions(learner, turned), own), ROUNDING,
        "predictions depend on the place of a query among the queries, and tasks list them class by class",
    )  # fmt: skip


def info(subject: Subject) -> Finding:
    """What a task says about itself for figures and upper bounds changes nothing."""
    learner = subject.learner
    if learner.reads_info:
        return not_applicable(INFO)
    episode = subject.episodes()
    if not episode.info:
        return not_applicable("the tasks of this family have no info")
    other = episode._replace(info={name: t.roll(1, 0) if len(t) > 1 else t * 2 for name, t in episode.info.items()})
    parts = [predictions(learner, one) for one in (episode, other, episode._replace(info={}))]
    return at_most(
        largest([relative_difference(parts[0], part) for part in parts[1:]]), 0,
        "predictions depend on the task's info, which is for figures and upper bounds",
    )  # fmt: skip


def support_order(subject: Subject) -> Finding:
    """The support set is a set, where the learner claims that."""
    learner = subject.learner
    if learner.reads_info:
        return not_applicable(INFO)
    if not learner.permutation_invariant:
        return not_applicable("it says that the order of the support set matters (permutation_invariant)")
    episode = seen(learner, subject.episodes())
    order = permutation(torch.tensor(5), STREAM, episode.support.x.shape[1])
    turned = episode._replace(support=Examples(*(t[:, order] for t in episode.support)))
    return at_most(
        relative_difference(predictions(learner, turned), predictions(learner, episode)), ORDER,
        "predictions depend on the order of the support examples, in which tasks list them class by class",
    )  # fmt: skip


def class_order(subject: Subject) -> Finding:
    """Renaming the classes renames the predictions, where the learner claims that."""
    learner = subject.learner
    if not subject.family.classification:
        return not_applicable("there are no classes")
    if learner.reads_info:
        return not_applicable(INFO)
    if not learner.classes_alike:
        return not_applicable("it does not say that classes are alike (classes_alike)")
    episode = seen(learner, subject.episodes())
    ways = episode.support.y.shape[-1]
    order = torch.arange(ways).roll(1)
    renamed = episode._replace(support=Examples(episode.support.x, episode.support.y[..., order]))
    own = {name: t[..., order] for name, t in predictions(learner, episode).items()}
    return at_most(
        relative_difference(predictions(learner, renamed), own),
        ORDER,
        "a class is treated by its number, not by its examples",
    )


def uses_support(subject: Subject) -> Finding:
    """Other support targets change the predictions."""
    learner = subject.learner
    if learner.reads_info:
        return not_applicable(INFO)
    episode = seen(learner, subject.episodes())
    y = episode.support.y
    if y.shape[1] == 0:
        return not_applicable("the support sets are empty")
    if subject.family.classification:  # all examples of one class: no frequency, no mean stays as it was
        y = torch.zeros_like(y).index_fill(-1, torch.tensor([0]), 1.0)
    else:
        y = 1.5 * y.roll(1, 0) + 1
    other = episode._replace(support=Examples(episode.support.x, y))
    return above(
        relative_difference(predictions(learner, other), predictions(learner, episode)), 1e-12,
        "predictions are the same whatever the support targets are: nothing is learned from the support set",
    )  # fmt: skip


def shuffled_targets(subject: Subject) -> Finding:
    """With shuffled support targets nothing is known of the task: what is still predicted has leaked."""
    if subject.learner.reads_info:
        return not_applicable(INFO)
    if subject.family.sizes["test"]["shots"] == 0:
        return not_applicable("the support sets are empty")
    return _classes(subject) if subject.family.classification else _targets(subject)


def _shuffled(episode: Episode) -> Episode:
    """Each task's support targets in a random order; the inputs stay where they are."""
    n = episode.support.y.shape[1]
    order = permutation(fold(episode.key, STREAM), 0, n)  # [tasks, n]
    y = torch.stack([targets[place] for targets, place in zip(episode.support.y, order, strict=True)])
    return episode._replace(support=Examples(episode.support.x, y))


def _last(subject: Subject, episode: Episode) -> Tensor:
    """The method's own predictions after the last inner step, in its first mode: [tasks, n, out]."""
    learner = subject.learner
    suffix, mode = next(iter(learner.modes(list(MODES)).items()))
    return predictions(learner, seen(learner, episode), {suffix: mode})[suffix][:, -1]


def _classes(subject: Subject) -> Finding:
    """Accuracy with shuffled labels, against chance: ties among the largest logits share the point."""
    right, share = [], torch.zeros(())
    for indices in chunks(subject.family, "test", subject.many, 20):
        episode = subject.family.sample("test", indices)
        logits, y = _last(subject, _shuffled(episode)), episode.query.y
        top = logits == logits.amax(-1, keepdim=True)
        right.append(((top * y).sum(-1) / top.sum(-1)).mean(-1))
        share = share + y.mean(1).sum(0)
    each = torch.cat(right)
    chance = float(share.max()) / len(each)
    spread = max(float(each.std()) if len(each) > 1 else 1.0, 0.02)
    return at_most(
        float(each.mean()), chance + 5 * spread / math.sqrt(len(each)),
        f"accuracy on {len(each)} tasks with shuffled support labels, chance is {chance:.3g}: the labels of the "
        "queries are known from elsewhere, for instance from the order of the support set",
    )  # fmt: skip


def _targets(subject: Subject) -> Finding:
    """Share of the tasks on which shuffled targets do better than their mean and the mean of many tasks.

    A trained learner may know what all tasks have in common: it must also do better than it does with the support set
    of another task.
    """
    better = []
    for indices in chunks(subject.family, "test", subject.many, 20):
        episode = subject.family.sample("test", indices)
        y, width = episode.query.y, episode.query.y.shape[-1]
        foreign = Episode(Examples(*(t.roll(1, 0) for t in episode.support)), episode.query, episode.key.roll(1), {})
        found = [_last(subject, one)[..., :width] for one in (_shuffled(episode), foreign)]
        found.append(episode.support.y.mean(1, keepdim=True).expand_as(y))
        found.append(episode.support.y.mean((0, 1)).expand_as(y))
        errors = [((prediction - y) ** 2).mean((1, 2)) for prediction in found]
        slack = 1 - 1e-6  # what is equal but for rounding is no better
        gain = errors[0] < slack * torch.minimum(errors[2], errors[3])
        better.append(gain & (errors[0] < slack * errors[1]) if subject.trained else gain)
    each = torch.cat(better).double()
    return at_most(
        float(each.mean()), 0.8,
        f"share of {len(each)} tasks on which predictions from shuffled support targets are better than any mean "
        "of targets: the targets of the queries are known from elsewhere",
    )  # fmt: skip
