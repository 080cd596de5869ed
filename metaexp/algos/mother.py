"""A mother: she trains several children, learns what each is good for, and combines them for every task."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map

from metaexp.algos.base import MetaLearner, Metric
from metaexp.algos.maml import check_inner_loop
from metaexp.algos.views import Heatmap, Scatter, View
from metaexp.constraints import Count, Limit, Natural, NonNegative, Positive, Share
from metaexp.inner import SGD, InnerOptimiser, Tree, descend
from metaexp.mapping import map_tasks
from metaexp.models.norms import depends_on_batch
from metaexp.models.sets import Judges, SetEncoder
from metaexp.types import Episode, Examples

TINY = 1e-6  # added to a loss before its logarithm
TRUST = (1.0, 0.1, 0.1)  # a, b, c at the start


class Mother(MetaLearner):
    """M children adapt to the support set S, each from a start of its own; the mother weights them for this task.

    The project's own method. Child i has the start theta_i and learns S as in MAML: theta_i'(S) after `inner_steps`
    steps of descent of the support loss. Its answer is f_i(x) = f(x; theta_i'(S)), and the mother's is

        O(x) = sum_i w_i f_i(x)   (for classes: of logits),   w = softmax_i(-a log h_i - b log r_i - c |e - k_i|^2)

    with learned a, b, c > 0, from three kinds of feedback:

        h_i  held-out loss: mean over folds F of L_F(theta_i'(S without F)); leave-one-out where `folds` is None. The
             loss of the adapted child on S itself would favour the child that overfits. Folds that hold out a class
             of which no example is left do not count; where none is left (one shot), h_i = 1 for all.
        r_i  the child's own judgement of its query loss: a small network per child on (e, log h_i).
        e    the support set's embedding by a set encoder, and k_i a key per child: where the tasks lie that it serves.

    The outer loss trains starts, encoder, keys, judges, a, b, c together:

        L = (1 - competition) L_Q(O) + competition sum_i w_i L_Q(f_i) + judging mean_i (log r_i - log L_Q(f_i))^2

    The first term asks for a good blend, the second for children that are good where they are trusted. In the last,
    h_i and L_Q(f_i) count as constants, so that no child is bent to be predictable. w_i depends on the starts
    through h_i as well; that gradient, as costly as n further adaptations, is dropped unless `second_feedback`.

    With `select="top1"` the child of the largest weight answers alone at validation and test; training is soft.
    With `weights="uniform"` w_i = 1/M and there is no mother: an ensemble; of MAMLs trained apart where competition
    is 1. Point 0 of the path, before the support set is seen, has equal weights. A child whose held-out loss is not
    finite has weight 0 (in training, a query loss that is not finite is an outer step that is not finite all the same).
    Batch norms see a fold together with the examples that were learned. Judges learn the loss after `inner_steps` at
    `inner_lr`, and judge at test the child after `test_steps` at `test_lr`.

    Args:
        children: their number M.
        overrides: for each child the settings of the model that are its own, e.g. [{hidden: [20]}, {hidden: [40]}];
            None: all alike.
        inner_lr, inner_steps, test_lr, test_steps, first_order, inner: of the children's inner loop, as in MAML.
        folds: number of folds of the support set (example j is in fold j modulo folds); None: leave-one-out.
        select: "soft" or "top1".
        weights: "learned" or "uniform".
        competition, judging, second_feedback: see above.
        embedding, hidden: dimensions of e, and width of the mother's networks.

    Raises:
        ValueError: a setting out of range, or a ready module in place of a maker of models.
    """

    view_tasks = 64  # enough for a mean per kind

    def __init__(
        self,
        family: Any,
        model: Callable[..., nn.Module],
        children: Count = 3,
        overrides: Sequence[dict[str, Any]] | None = None,
        inner_lr: Positive = 0.01,
        inner_steps: Count = 1,
        test_steps: Natural | None = None,
        test_lr: Positive | None = None,
        first_order: bool = False,
        inner: InnerOptimiser = SGD(),
        folds: Annotated[int, Limit(least=2)] | None = None,
        select: Literal["soft", "top1"] = "soft",
        weights: Literal["learned", "uniform"] = "learned",
        competition: Share = 0.5,
        judging: NonNegative = 0.1,
        second_feedback: bool = False,
        embedding: Count = 8,
        hidden: Count = 16,
        loss: Any = None,
        mapping: str | int = "auto",
    ):
        _check_sizes(children=children, embedding=embedding, hidden=hidden)
        if isinstance(model, nn.Module):
            raise ValueError("model: Mother makes several children, so it needs a class or a function, not a module")
        if overrides is not None and len(overrides) != children:
            raise ValueError(f"overrides={list(overrides)}: must have one group of settings for each of {children}")
        own: Sequence[dict[str, Any]] = [{}] * children if overrides is None else overrides
        made = nn.ModuleList(model(family.x_shape, family.y_dim, **settings) for settings in own)
        super().__init__(family, made, loss, mapping)
        self.inner_lr, self.inner_steps = inner_lr, inner_steps
        self.test_lr = inner_lr if test_lr is None else test_lr
        self.test_steps = inner_steps if test_steps is None else test_steps
        check_inner_loop(inner_lr, inner_steps, self.test_lr, self.test_steps)
        if folds is not None and (not isinstance(folds, int) or folds < 2):
            raise ValueError(f"folds={folds}: must be a whole number, at least 2, or null for leave-one-out")
        for name, word, words in (("select", select, ("soft", "top1")), ("weights", weights, ("learned", "uniform"))):
            if word not in words:
                raise ValueError(f"{name}={word}: must be {' or '.join(words)}")
        if not 0 <= competition <= 1:
            raise ValueError(f"competition={competition}: must be from 0 to 1")
        if not judging >= 0:
            raise ValueError(f"judging={judging}: must be at least 0")
        self.first_order, self.inner, self.folds, self.top1 = first_order, inner, folds, select == "top1"
        self.competition, self.judging, self.second_feedback = competition, judging, second_feedback
        self.learned, self.alike = weights == "learned", overrides is None and children > 1
        self.permutation_invariant = folds is None or not self.learned  # who shares a fold depends on the order
        if self.learned:
            self.encoder = SetEncoder(math.prod(family.x_shape) + family.y_dim, hidden, embedding)
            self.judges = Judges(children, embedding + 1, hidden)
            self.keys = nn.Parameter(torch.randn(children, embedding))
            self.log_trust = nn.Parameter(torch.tensor(TRUST).log())

    # -- the children --------------------------------------------------------------------------------------------------

    @property
    def _models(self) -> list[nn.Module]:
        return list(self.model)  # type: ignore[call-overload]

    def _stacked(self) -> bool:
        return self.alike and self.mapping != "loop"  # native kernels do not bear vmap

    def _each(self, function: Callable[..., Any], *parts: Any) -> Any:
        """function(child, its part of each of `parts`): a tree of [M, ...] where children are stacked, else a list."""
        if self._stacked():
            return vmap(partial(function, self._models[0]))(*parts)
        return [function(child, *(part[i] for part in parts)) for i, child in enumerate(self._models)]

    def starts(self) -> Any:
        """theta_i of every child, as `_each` takes them."""
        own = [{n: p for n, p in child.named_parameters() if p.requires_grad} for child in self._models]
        return {name: torch.stack([tree[name] for tree in own]) for name in own[0]} if self._stacked() else own

    def _learn(self, child: nn.Module, start: Tree, data: Examples, lr: float, steps: int, first: bool) -> list[Tree]:
        def loss(params: Tree, _: int) -> Tensor:
            return self.loss(functional_call(child, params, (data.x,)), data.y)

        return descend(loss, start, self.inner, lr, steps, first).path

    def held_out(self, support: Examples, key: Tensor, lr: float, steps: int) -> Tensor:
        """h_i after 0, 1, ..., steps steps: [M, steps + 1]."""
        n = len(support.x)
        if n == 0:  # nothing to learn from, nothing to hold out: no child is better
            return support.y.new_ones(len(self._models), steps + 1)
        count = min(self.folds or n, n)
        folds = [list(range(first, n, count)) for first in range(count)]
        rests = [[j for j in range(n) if j not in fold] for fold in folds]
        starts = self.starts()
        if not self.second_feedback:
            starts = tree_map(lambda t: t.detach(), starts)

        def of_child(child: nn.Module, start: Tree) -> Tensor:
            def of_fold(part: Episode) -> Tensor:
                path = self._learn(child, start, part.support, lr, steps, not self.second_feedback)
                seen = part.support.x if depends_on_batch(child) else part.support.x[:0]
                x = torch.cat((seen, part.query.x))
                answers = [functional_call(child, params, (x,))[len(seen) :] for params in path]
                losses = torch.stack([self.loss(answer, part.query.y) for answer in answers])
                known = self._known(part)
                return torch.cat((torch.where(known, losses, 0.0), known.to(losses.dtype)[None]))

            total = torch.zeros(steps + 2, dtype=support.y.dtype, device=support.y.device)
            for same in (slice(n % count), slice(n % count, count)):  # folds of one size
                if folds[same]:
                    rest, held = (_rows(support, index[same]) for index in (rests, folds))
                    parts = Episode(rest, held, key.expand(len(folds[same])), {})
                    total = total + map_tasks(of_fold, parts, self.mapping).sum(0) * len(folds[same][0])
            return torch.where(total[-1] > 0, total[:-1] / total[-1].clamp(min=1), 1.0)

        losses = self._each(of_child, starts)
        losses = losses if isinstance(losses, Tensor) else torch.stack(losses)
        return losses if self.second_feedback else losses.detach()

    def _known(self, part: Episode) -> Tensor:
        """Whether every class that a fold holds out is among the rest, []: else h would praise who learns least."""
        if not self.family.classification:
            return torch.ones((), dtype=torch.bool, device=part.key.device)
        gone = part.support.y.sum(0) == 0
        return ~((part.query.y > 0) & gone).any()

    # -- the mother ----------------------------------------------------------------------------------------------------

    def feedback(self, support: Examples, held_out: Tensor) -> dict[str, Tensor]:
        """From h [M]: the `embedding` e; `log_held_out`, `log_judged`, `distance` to keys, `weights`: [M] each."""
        e = self.encoder(support.x, support.y)
        log_h = torch.log(held_out + TINY)
        well = torch.isfinite(log_h)  # the others have diverged
        log_h = torch.where(well, log_h, 0.0)
        log_r = self._judged(e, log_h)
        distance = ((e - self.keys) ** 2).sum(1)
        a, b, c = self.log_trust.exp()
        weights = torch.softmax(torch.where(well, -a * log_h - b * log_r - c * distance, -math.inf), 0)
        return {
            "embedding": e, "log_held_out": log_h, "log_judged": log_r, "distance": distance, "weights": weights,
        }  # fmt: skip

    def _judged(self, embedding: Tensor, log_held_out: Tensor) -> Tensor:
        inputs = (embedding.expand(len(log_held_out), -1), log_held_out[:, None])
        log_r: Tensor = self.judges(torch.cat(inputs, 1))
        return log_r

    def _points(
        self, support: Examples, key: Tensor, lr: float, steps: int, first_order: bool, only_last: bool = False
    ) -> list[dict[str, Any]]:
        """After 0, 1, ..., steps steps: the `children`'s parameters, and what `feedback` gives (but `weights` at 0)."""
        learn = partial(self._learn, data=support, lr=lr, steps=steps, first=first_order)
        paths = self._each(lambda child, start: learn(child, start), self.starts())
        held_out = self.held_out(support, key, lr, steps) if self.learned else None
        equal = torch.full((len(self._models),), 1 / len(self._models), dtype=support.x.dtype)
        points = []
        for step in range(steps if only_last else 0, steps + 1):
            children = paths[step] if self._stacked() else [path[step] for path in paths]
            point = {"weights": equal.to(support.x.device)}
            if held_out is not None and step:
                point = self.feedback(support, held_out[:, step])
            points.append({"children": children} | point)
        return points

    def _chosen(self, point: dict[str, Any]) -> dict[str, Any]:
        weights = point["weights"]
        return {"children": point["children"], "weights": _largest(weights) if self.top1 else weights}

    def adapt(self, support: Examples, key: Tensor) -> dict[str, Any]:
        """The `children`'s adapted parameters and their `weights` [M]."""
        return self._chosen(self._points(support, key, self.inner_lr, self.inner_steps, self.first_order, True)[0])

    def path(self, support: Examples, key: Tensor, steps: int) -> list[dict[str, Any]]:
        """The same after 0, 1, ..., steps steps at the test rate."""
        return [self._chosen(point) for point in self._points(support, key, self.test_lr, steps, first_order=True)]

    def answers(self, children: Any, x: Tensor) -> Tensor:
        """f_i(x) of every child: [M, n, out]."""
        found = self._each(lambda child, params: functional_call(child, params, (x,)), children)
        return found if isinstance(found, Tensor) else torch.stack(found)

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        """O(x): [n, out]."""
        return _blend(adapted["weights"], self.answers(adapted["children"], x))

    def meta_loss(self, episode: Episode) -> tuple[Tensor, dict[str, Any]]:
        """L; logs: the query metrics of O, and the judges' error."""
        (support, query, key), y = episode[:3], episode.query.y
        point = self._points(support, key, self.inner_lr, self.inner_steps, self.first_order, True)[0]
        answers = self.answers(point["children"], query.x)
        alone = torch.stack([self.loss(answer, y) for answer in answers])
        blend = _blend(point["weights"], answers)
        logs = {name: metric(blend, y) for name, metric in self.metrics.items()}
        loss = (1 - self.competition) * self.loss(blend, y) + self.competition * (point["weights"] * alone).sum()
        if self.learned:
            judged = self._judged(point["embedding"], point["log_held_out"].detach())
            error = ((judged - torch.log(alone.detach() + TINY)) ** 2).mean()
            loss, logs = loss + self.judging * error, logs | {"judging": error}
        return loss, logs

    # -- what it shows -------------------------------------------------------------------------------------------------

    def score(
        self,
        episode: Episode,
        modes: dict[str, str],
        final: bool = False,
        tables: dict[str, Metric] | None = None,
    ) -> dict[str, Tensor]:
        """Her metrics; as `child_I_METRIC`, `uniform_METRIC`, `top1_METRIC` those of other weights in their place."""
        path = self.test_path(episode)
        scores: dict[str, list[Tensor]] = {}
        found: dict[str, Tensor] = {}
        for adapted in path[-1:] if final else path:
            own = adapted["weights"]
            who = {"": own, "uniform_": torch.full_like(own, 1 / len(own)), "top1_": _largest(own)}
            who |= {f"child_{i}_": one for i, one in enumerate(torch.eye(len(own)).to(own))}
            for suffix, mode in modes.items():
                for prefix, weights in who.items():
                    prediction = self.predict_as(mode, adapted | {"weights": weights}, episode.support, episode.query.x)
                    for name, metric in self.metrics.items():
                        scores.setdefault(prefix + name + suffix, []).append(metric(prediction, episode.query.y))
                    if prefix == "":
                        found |= {n + suffix: table(prediction, episode.query.y) for n, table in (tables or {}).items()}
        return {name: torch.stack(values) for name, values in scores.items()} | found

    def _seen(self, episode: Episode) -> dict[str, Tensor]:
        """What the mother made of one task at test, and `log_loss`: the children's query losses [M]."""
        point = self._points(episode.support, episode.key, self.test_lr, max(self.test_steps, 1), True, True)[0]
        answers = self.answers(point.pop("children"), episode.query.x)
        alone = torch.stack([self.loss(answer, episode.query.y) for answer in answers])
        return point | {"log_loss": torch.log(alone + TINY)}

    def diagnostics(self, episode: Episode) -> dict[str, Tensor]:
        """`weight/I` of child I; `weights_entropy` in nats; `picks/...`: whether a feedback names the best child."""
        if not self.learned:
            return {}
        seen = self._seen(episode)
        w, best = seen["weights"], seen["log_loss"].argmin()
        signs = {
            "held_out": seen["log_held_out"],
            "judged": seen["log_judged"],
            "nearest": seen["distance"],
            "mother": -w,
        }
        picks = {f"picks/{name}": (value.argmin() == best).to(w.dtype) for name, value in signs.items()}
        weights = {f"weight/{i}": value for i, value in enumerate(w)}
        return weights | picks | {"weights_entropy": -torch.xlogy(w, w).sum()}

    def views(self, episodes: Episode) -> dict[str, View]:
        """Weights per kind of task (`info["kind"]`, else per task), judgements against losses, embeddings and keys."""
        if not self.learned:
            return {}
        with torch.no_grad():
            seen = map_tasks(self._seen, episodes._replace(info={}), self.mapping)
        tasks, count = seen["weights"].shape
        device = self.keys.device
        kind = episodes.info.get("kind", torch.arange(tasks, device=device))
        kinds = sorted(set(kind.tolist()))
        names = [f"child {i}" for i in range(count)]
        table = torch.stack([seen["weights"][kind == k].mean(0) for k in kinds])
        children = torch.arange(count, device=device).repeat(tasks)
        judged = torch.stack((seen["log_loss"].flatten(), seen["log_judged"].flatten()), 1)
        places = torch.cat((seen["embedding"], self.keys.detach()))
        colour = torch.cat((seen["weights"].argmax(1), torch.arange(count, device=device)))
        return {
            "weights": Heatmap(table, "kind of task", "child", [str(k) for k in kinds], names, "mean weight"),
            "judgements": Scatter(judged, children, ["task"] * len(judged), "log query loss of a child, and as judged"),
            "tasks": Scatter(places, colour, ["task"] * tasks + ["key"] * count, "embedded tasks by their first child"),
        }


def _blend(weights: Tensor, answers: Tensor) -> Tensor:
    share = weights[:, None, None]
    return (share * torch.where(share == 0, 0.0, answers)).sum(0)  # of weight 0 a child may say inf


def _largest(weights: Tensor) -> Tensor:
    return (torch.arange(len(weights), device=weights.device) == weights.argmax()).to(weights.dtype)


def _rows(examples: Examples, index: list[list[int]]) -> Examples:
    rows = torch.tensor(index, dtype=torch.int64, device=examples.x.device)
    return Examples(examples.x[rows], examples.y[rows])


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: must be at least 1")
