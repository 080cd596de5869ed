"""A mother trains several children, learns what each is good for, and combines them for every task."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils._pytree import tree_map

from metaexp.algos.base import MetaLearner
from metaexp.algos.gradient import trainable
from metaexp.algos.held_out import held_out_losses
from metaexp.algos.mother_views import mother_views
from metaexp.algos.views import View
from metaexp.checks import whole
from metaexp.constraints import Count, Limit, Natural, NonNegative, Positive, Share
from metaexp.inner import SGD, InnerLoop, InnerOptimiser, Tree, descend
from metaexp.mapping import map_tasks
from metaexp.metrics import without_support
from metaexp.models.functional import predicted
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
        inner_lr, inner_steps, test_lr, test_steps, first_order, inner: of the children's inner loop, as in `MAML`.
        folds: number of folds of the support set (example j is in fold j modulo folds); None: leave-one-out.
        select: "soft" or "top1".
        weights: "learned" or "uniform".
        competition, judging, second_feedback: see above.
        embedding, hidden: dimensions of e, and width of the mother's networks.

    Raises:
        ValueError: a setting out of range, or a ready module instead of a factory of models.
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
        for name, size in (("children", children), ("embedding", embedding), ("hidden", hidden)):
            whole(name, size, 1)
        if isinstance(model, nn.Module):
            raise ValueError("model: Mother makes several children, so it needs a class or a function, not a module")
        own: Sequence[dict[str, Any]] = [{}] * children if overrides is None else overrides
        if len(own) != children:
            raise ValueError(f"overrides={list(own)}: must have one group of settings for each of {children}")
        made = nn.ModuleList(model(family.x_shape, family.y_dim, **settings) for settings in own)
        super().__init__(family, made, loss, mapping)
        self.inner = InnerLoop.of(inner, inner_lr, inner_steps, test_lr, test_steps, first_order)
        self.inner_lr, self.test_steps = inner_lr, self.inner.test_steps
        if folds is not None and (not isinstance(folds, int) or folds < 2):
            raise ValueError(f"folds={folds}: must be a whole number, at least 2, or null for leave-one-out")
        for name, word, words in (("select", select, ("soft", "top1")), ("weights", weights, ("learned", "uniform"))):
            if word not in words:
                raise ValueError(f"{name}={word}: must be {' or '.join(words)}")
        if not 0 <= competition <= 1:
            raise ValueError(f"competition={competition}: must be from 0 to 1")
        if not judging >= 0:
            raise ValueError(f"judging={judging}: must be at least 0")
        self.folds, self.top1 = folds, select == "top1"
        self.competition, self.judging, self.second_feedback = competition, judging, second_feedback
        self.learned, self.alike = weights == "learned", overrides is None and children > 1
        constants = self.learned and (not second_feedback or judging > 0)  # what counts as constant, see above
        self.exact_gradient = not first_order and not constants
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
        return self.alike and self.mapping != "loop"  # native kernels do not work under vmap

    def _each(self, function: Callable[..., Any], *parts: Any) -> Any:
        """function(child, its part of each of `parts`): a tree of [M, ...] where children are stacked, else a list."""
        if self._stacked():
            return vmap(partial(function, self._models[0]))(*parts)
        return [function(child, *(part[i] for part in parts)) for i, child in enumerate(self._models)]

    def starts(self) -> Any:
        """theta_i of every child, as `_each` takes them."""
        own = [trainable(child) for child in self._models]
        return {name: torch.stack([tree[name] for tree in own]) for name in own[0]} if self._stacked() else own

    def _learn(self, child: nn.Module, start: Tree, data: Examples, lr: Any, steps: int, first: bool) -> list[Tree]:
        def loss(params: Tree, _: int) -> Tensor:
            return self.loss(predicted(child, params, data.x), data.y)

        return descend(loss, start, self.inner.optimiser, lr, steps, first).path

    def held_out(self, support: Examples, key: Tensor, lr: Any, steps: int) -> Tensor:
        """h_i after 0, 1, ..., steps steps: [M, steps + 1]."""
        n = len(support.x)
        if n == 0:  # nothing to learn from, nothing to hold out: no child is better
            return support.y.new_ones(len(self._models), steps + 1)
        starts = self.starts()
        if not self.second_feedback:
            starts = tree_map(lambda t: t.detach(), starts)
        count, constant = min(self.folds or n, n), not self.second_feedback

        def of_child(child: nn.Module, start: Tree) -> Tensor:
            def learn(rest: Examples) -> list[Tree]:
                return self._learn(child, start, rest, lr, steps, constant)

            def answer(params: Tree, x: Tensor) -> Tensor:
                return predicted(child, params, x)

            joined, classes = depends_on_batch(child), self.family.classification
            return held_out_losses(learn, answer, self.loss, support, key, count, steps, joined, classes, self.mapping)

        losses = self._each(of_child, starts)
        losses = losses if isinstance(losses, Tensor) else torch.stack(losses)
        return losses if self.second_feedback else losses.detach()

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
        found = {"embedding": e, "log_held_out": log_h, "log_judged": log_r}
        return found | {"distance": distance, "weights": weights}

    def _judged(self, embedding: Tensor, log_held_out: Tensor) -> Tensor:
        log_r: Tensor = self.judges(torch.cat((embedding.expand(len(log_held_out), -1), log_held_out[:, None]), 1))
        return log_r

    def _points(
        self, support: Examples, key: Tensor, lr: Any, steps: int, first_order: bool, only_last: bool = False
    ) -> list[dict[str, Any]]:
        """After 0, 1, ..., steps steps: the `children`'s parameters, and what `feedback` gives (but `weights` at 0)."""
        learn = partial(self._learn, data=support, lr=lr, steps=steps, first=first_order)
        paths = self._each(learn, self.starts())
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

    def _trained(self, support: Examples, key: Tensor) -> dict[str, Any]:
        """The point after `inner_steps` steps as in training."""
        return self._points(support, key, self.inner.lr, self.inner.steps, self.inner.first_order, True)[0]

    def _chosen(self, point: dict[str, Any]) -> dict[str, Any]:
        weights = point["weights"]
        return {"children": point["children"], "weights": _largest(weights) if self.top1 else weights}

    def adapt(self, support: Examples, key: Tensor) -> dict[str, Any]:
        """The `children`'s adapted parameters and their `weights` [M]."""
        return self._chosen(self._trained(support, key))

    def path(self, support: Examples, key: Tensor, steps: int) -> list[dict[str, Any]]:
        """The same after 0, 1, ..., steps steps at the test rate."""
        points = self._points(support, key, self.inner.test_lr, steps, first_order=True)
        return [self._chosen(point) for point in points]

    def answers(self, children: Any, x: Tensor) -> Tensor:
        """f_i(x) of every child: [M, n, out]."""
        found = self._each(lambda child, params: predicted(child, params, x), children)
        return found if isinstance(found, Tensor) else torch.stack(found)

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        """O(x): [n, out]."""
        return _blend(adapted["weights"], self.answers(adapted["children"], x))

    def meta_loss(self, episode: Episode) -> tuple[Tensor, dict[str, Any]]:
        """L; logs: the query metrics of O, and the judges' error."""
        (support, query, key), y = episode[:3], episode.query.y
        point = self._trained(support, key)
        answers = self.answers(point["children"], query.x)
        alone = torch.stack([self.loss(answer, y) for answer in answers])
        blend = _blend(point["weights"], answers)
        logs = {name: metric(blend, y) for name, metric in without_support(self.metrics).items()}
        loss = (1 - self.competition) * self.loss(blend, y) + self.competition * (point["weights"] * alone).sum()
        if self.learned:
            judged = self._judged(point["embedding"], point["log_held_out"].detach())
            error = ((judged - torch.log(alone.detach() + TINY)) ** 2).mean()
            loss, logs = loss + self.judging * error, logs | {"judging": error}
        return loss, logs

    # -- what it shows -------------------------------------------------------------------------------------------------

    def variants(self, adapted: dict[str, Any]) -> dict[str, Any]:
        """The mother itself; as `uniform_`, `top1_` and `child_I_` the same children with other weights."""
        own = adapted["weights"]
        weights = {"uniform_": torch.full_like(own, 1 / len(own)), "top1_": _largest(own)}
        weights |= {f"child_{i}_": one for i, one in enumerate(torch.eye(len(own)).to(own))}
        return {"": adapted} | {prefix: adapted | {"weights": others} for prefix, others in weights.items()}

    def _seen(self, episode: Episode) -> dict[str, Tensor]:
        """What the mother made of one task at test, and `log_loss`: the children's query losses [M]."""
        point = self._points(episode.support, episode.key, self.inner.test_lr, max(self.test_steps, 1), True, True)[0]
        answers = self.answers(point.pop("children"), episode.query.x)
        alone = torch.stack([self.loss(answer, episode.query.y) for answer in answers])
        return point | {"log_loss": torch.log(alone + TINY)}

    def diagnostics(self, episode: Episode) -> dict[str, Tensor]:
        """`weight/I` of child I; `weights_entropy` in nats; `picks/...`: whether a feedback names the best child."""
        if not self.learned:
            return {}
        seen = self._seen(episode)
        w, best = seen["weights"], seen["log_loss"].argmin()
        named = {"held_out": "log_held_out", "judged": "log_judged", "nearest": "distance"}
        signs = {name: seen[key] for name, key in named.items()} | {"mother": -w}
        picks = {f"picks/{name}": (value.argmin() == best).to(w.dtype) for name, value in signs.items()}
        weights = {f"weight/{i}": value for i, value in enumerate(w)}
        return weights | picks | {"weights_entropy": -torch.xlogy(w, w).sum()}

    def views(self, episodes: Episode) -> dict[str, View]:
        """Weights per kind of task (`info["kind"]`, else per task), judgements against losses, embeddings and keys.

        With kinds, also the embedded tasks by kind, and how well each feedback's first child agrees with the kinds.
        """
        if not self.learned:
            return {}
        with torch.no_grad():
            seen = map_tasks(self._seen, episodes._replace(info={}), self.mapping)
        return mother_views(seen, self.keys.detach(), episodes.info.get("kind"), self.family.kind_names)


def _blend(weights: Tensor, answers: Tensor) -> Tensor:
    share = weights[:, None, None]
    return (share * torch.where(share == 0, 0.0, answers)).sum(0)  # a child of weight 0 may predict inf


def _largest(weights: Tensor) -> Tensor:
    return (torch.arange(len(weights), device=weights.device) == weights.argmax()).to(weights.dtype)
