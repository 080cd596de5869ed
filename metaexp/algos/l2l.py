"""Learning to learn by gradient descent by gradient descent: a learned update rule."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from metaexp.algos.base import MetaLearner, ModelFactory
from metaexp.checks import whole
from metaexp.constraints import Count, Natural, Positive
from metaexp.inner import InnerOptimiser, Tree, descend
from metaexp.metrics import without_support
from metaexp.models.functional import predicted
from metaexp.models.lstm_rule import LSTMRule
from metaexp.random import normal
from metaexp.types import Episode, Examples


class L2L(MetaLearner):
    """Learn the update rule, not the start: an LSTM reads each coordinate's gradient and gives its next step.

    "Learning to learn by gradient descent by gradient descent", Andrychowicz, Denil, Gomez, Hoffman, Pfau, Schaul,
    Shillingford, de Freitas, 2016, section 2: theta_{t+1} = theta_t + g_t with (g_t, h_{t+1}) = m(grad f(theta_t), h_t;
    phi), and phi minimises sum_t w_t f(theta_t). Here f is the task's support loss and w_t = 1 / T for the T =
    `inner_steps` points after the start. The gradient that the rule reads counts as a constant (the paper's dropped
    second derivatives) unless `second_order`. The trajectory is cut into segments of `truncation` steps between which
    no gradient flows; the authors' code changes phi after each segment, here one outer step follows the whole
    trajectory.

    The start theta_0 is not learned: every element is normal, drawn from the task's key, with the mean and deviation
    that the elements of its tensor have in the model as it was made (a tensor of equal elements, such as zero biases,
    starts there), or with `init_std` about zero. The model's own weights stay as they are and only set this scale.

    Args:
        rule: makes the rule, an `InnerOptimiser`: `LSTMRule`, or a hand-made one (`metaexp.inner.SGD`, `Adam`), with
            which nothing is trained.
        inner_lr: factor on the rule's steps (the rate of a hand-made rule).
        inner_steps, test_steps: length of the trajectory at training and at test; None takes that of training.
        truncation: steps of a segment; None: no cuts.
        objective: "support", or "query" for a rule that should generalise: the loss that phi minimises.
        second_order: the rule's input is differentiated too.
        init_std: see above.

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(
        self,
        family: Any,
        model: ModelFactory | nn.Module,
        rule: Callable[[], InnerOptimiser] = LSTMRule,
        inner_lr: Positive = 0.1,
        inner_steps: Count = 20,
        truncation: Count | None = None,
        test_steps: Natural | None = None,
        objective: Literal["support", "query"] = "support",
        second_order: bool = False,
        init_std: Positive | None = None,
        loss: Any = None,
        mapping: str | int = "auto",
    ):
        super().__init__(family, model, loss, mapping)
        self.inner_lr, self.inner_steps, self.second_order = inner_lr, inner_steps, second_order
        self.test_steps = inner_steps if test_steps is None else test_steps
        self.truncation, self.objective, self.init_std = truncation, objective, init_std
        for name, value in (("inner_lr", inner_lr), ("init_std", init_std)):
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value}: must be above 0")
        for name, steps, least in (
            ("inner_steps", inner_steps, 1), ("test_steps", self.test_steps, 0), ("truncation", truncation, 1)
        ):  # fmt: skip
            if steps is not None:
                whole(name, steps, least)
        if objective not in ("support", "query"):
            raise ValueError(f"objective={objective}: must be support or query")
        self.names = [name for name, p in self.model.named_parameters() if p.requires_grad]
        self.rule = rule()
        self.trains = isinstance(self.rule, nn.Module) and any(p.requires_grad for p in self.rule.parameters())
        self.exact_gradient = second_order and (truncation is None or truncation >= inner_steps)
        if self.trains:  # the rule alone
            self.model.requires_grad_(False)

    def start(self, key: Tensor) -> Tree:
        """theta_0 of a task."""
        drawn = {}
        for stream, (name, p) in enumerate((n, p) for n, p in self.model.named_parameters() if n in self.names):
            noise = normal(key, 128 + stream, tuple(p.shape), dtype=p.dtype)
            drawn[name] = noise * self.init_std if self.init_std else p.mean() + p.std(correction=0) * noise
        return {name: p.detach() for name, p in drawn.items()}

    def adapt(self, support: Examples, key: Tensor) -> Tree:
        """The parameters after `inner_steps` steps of the rule."""
        return self.trajectory(support, key, self.inner_steps, not self.second_order)[-1]

    def path(self, support: Examples, key: Tensor, steps: int) -> list[Tree]:
        """The parameters after 0, 1, ..., steps steps of the rule."""
        return self.trajectory(support, key, steps, first_order=True)

    def trajectory(self, support: Examples, key: Tensor, steps: int, first_order: bool) -> list[Tree]:
        """theta_0, ..., theta_steps, with no gradient across the borders of segments."""
        params = self.start(key)
        path, state, segment = [params], self.rule.init(params), self.truncation or max(steps, 1)
        for first in range(0, steps, segment):
            params, state = tree_map(lambda t: t.detach(), (params, state))
            part = descend(
                lambda p, _: self._loss(p, support), params, self.rule, self.inner_lr, min(segment, steps - first),
                first_order, state,
            )  # fmt: skip
            path += part.path[1:]
            params, state = part.path[-1], part.state
        return path

    def _loss(self, params: Tree, examples: Examples) -> Tensor:
        return self.loss(self.predict(params, examples.x), examples.y)

    def predict(self, adapted: Tree, x: Tensor) -> Tensor:
        """The network with the given parameters."""
        return predicted(self.model, adapted, x)

    def meta_loss(self, episode: Episode) -> tuple[Tensor, dict[str, Any]]:
        """Mean loss of theta_1, ..., theta_T; logs: the query metrics of theta_T."""
        path = self.trajectory(episode.support, episode.key, self.inner_steps, not self.second_order)
        examples = episode.query if self.objective == "query" else episode.support
        losses = torch.stack([self._loss(params, examples) for params in path[1:]])
        prediction = self.predict(path[-1], episode.query.x)
        metrics = {name: metric(prediction, episode.query.y) for name, metric in without_support(self.metrics).items()}
        return losses.mean(), {"last_inner_loss": losses[-1]} | metrics

    def diagnostics(self, episode: Episode) -> dict[str, Tensor]:
        """`support_loss`: what the rule minimises, after `test_steps` steps."""
        return {
            "support_loss": self._loss(self.path(episode.support, episode.key, self.test_steps)[-1], episode.support)
        }
