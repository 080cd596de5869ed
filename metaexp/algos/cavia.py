"""Fast context adaptation."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import grad

from metaexp.algos.base import MetaLearner, ModelFactory
from metaexp.algos.maml import check_inner_loop
from metaexp.algos.views import Scatter, View
from metaexp.constraints import Count, Natural, Positive
from metaexp.inner import SGD, InnerOptimiser, Tree, descend
from metaexp.mapping import map_tasks
from metaexp.models.context import ChannelContext, FiLM, InputContext
from metaexp.types import Episode, Examples


class CAVIA(MetaLearner):
    """Adapt a few context parameters phi, a second input of the network, and share all of its weights theta.

    "Fast Context Adaptation via Meta-Learning", Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson, 2019. The inner loop goes
    from phi_0 = 0 by phi <- phi - a grad_phi L_S(phi, theta); the outer loop learns theta through it by the query
    loss. phi stands behind a vector input, or makes the scale and shift of a convolution's maps (FiLM; as in the
    authors' code after the norm of the third convolution, before the ReLU).

    Differs from the authors' code in that FiLM's scale starts at 1 (theirs at the bias of a linear layer), stands
    before the pooling where there is one, and that meta-gradients are not clipped (theirs to +-10 per task on sines;
    `clip.value` clips their mean).

    Args:
        context: "input" (behind the flattened input), "film" or "channel" (constant planes behind the picture's
            channels); None: "film" where the network can be modulated (`channels`, `forward(x, modulate)`, as cnn4),
            else "input". A ready module in place of a factory must take the longer input itself.
        context_size: length of phi; None: 5 with "input", else 100 (the authors' on sines and on mini-ImageNet).
        film_block: the block of the network that is modulated, from 0.
        inner_lr, inner_steps: of the inner loop at training.
        test_lr, test_steps: of the inner loop at validation and test; None takes the training value.
        first_order: inner gradients count as constants.
        inner: the inner optimiser, `metaexp.inner.SGD` or `Adam`.

    Raises:
        ValueError: a setting out of range, or a network that does not take the context in this way.
    """

    def __init__(
        self,
        family: Any,
        model: ModelFactory | nn.Module,
        context: Literal["input", "film", "channel"] | None = None,
        context_size: Count | None = None,
        film_block: Natural = 2,
        inner_lr: Positive = 1.0,
        inner_steps: Count = 1,
        test_steps: Natural | None = None,
        test_lr: Positive | None = None,
        first_order: bool = False,
        inner: InnerOptimiser = SGD(),
        loss: Any = None,
        mapping: str | int = "auto",
    ):
        if context not in (None, "input", "film", "channel"):
            raise ValueError(f"context={context}: must be input, film or channel")
        if context_size is not None and context_size < 1:
            raise ValueError(f"context_size={context_size}: must be at least 1")

        def make(x_shape: tuple[int, ...], out: int) -> nn.Module:
            return _with_context(model, x_shape, out, context, context_size, film_block)

        super().__init__(family, make, loss, mapping)
        self.inner_lr, self.inner_steps = inner_lr, inner_steps
        self.test_lr = inner_lr if test_lr is None else test_lr
        self.test_steps = inner_steps if test_steps is None else test_steps
        check_inner_loop(inner_lr, inner_steps, self.test_lr, self.test_steps)
        self.first_order, self.inner = first_order, inner
        size: int = self.model.size  # type: ignore[assignment]
        self.start: Tensor  # phi_0
        self.register_buffer("start", torch.zeros(size), persistent=False)

    def _loss(self, adapted: Tree, examples: Examples) -> Tensor:
        return self.loss(self.predict(adapted, examples.x), examples.y)

    def _path(self, support: Examples, lr: float, steps: int, first_order: bool) -> list[Tree]:
        start = {"phi": self.start}
        return descend(lambda phi, _: self._loss(phi, support), start, self.inner, lr, steps, first_order).path

    def adapt(self, support: Examples, key: Tensor) -> Tree:
        """phi [context_size] after `inner_steps` steps on the support set."""
        return self._path(support, self.inner_lr, self.inner_steps, self.first_order)[-1]

    def path(self, support: Examples, key: Tensor, steps: int) -> list[Tree]:
        """phi after 0, 1, ..., steps steps at the test rate."""
        return self._path(support, self.test_lr, steps, first_order=True)

    def predict(self, adapted: Tree, x: Tensor) -> Tensor:
        """The shared network in this context."""
        prediction: Tensor = self.model(x, adapted["phi"])
        return prediction

    def diagnostics(self, episode: Episode) -> dict[str, Tensor]:
        """`inner_gradient_norm`: Euclidean norm of the support loss's gradient in phi, at 0."""
        return {"inner_gradient_norm": grad(self._loss)({"phi": self.start}, episode.support)["phi"].norm()}

    def views(self, episode: Episode) -> dict[str, View]:
        """`context`: phi of each task after adaptation, coloured by the first number that is known of each task."""
        adapted = map_tasks(
            lambda one: self.path(one.support, one.key, self.test_steps)[-1]["phi"],
            episode._replace(info={}),
            self.mapping,
        )
        known = {name: value for name, value in episode.info.items() if value.dim() == 1}
        name = next(iter(known), None)
        colour = known[name] if name else torch.zeros(len(adapted))
        title = f"context parameters, coloured by {name}" if name else "context parameters"
        return {"context": Scatter(adapted, colour, ["context"] * len(adapted), title)}


def _with_context(
    model: ModelFactory | nn.Module,
    x_shape: tuple[int, ...],
    out: int,
    context: str | None,
    size: int | None,
    block: int,
) -> nn.Module:
    """The network with a context as its second input."""

    def network(*shape: int) -> nn.Module:
        return model if isinstance(model, nn.Module) else model(shape, out)

    if context in (None, "film"):
        plain = network(*x_shape)
        channels = getattr(plain, "channels", None)
        if channels is not None:
            if not 0 <= block < len(channels):
                raise ValueError(f"film_block={block}: must be from 0 to {len(channels) - 1}")
            return FiLM(plain, size or 100, block)
        if context == "film":
            raise ValueError("context=film: needs a network with channels and forward(x, modulate), as cnn4; use input")
    if context == "channel":
        if len(x_shape) != 3:
            raise ValueError(f"context=channel: needs pictures (channels, height, width), not {x_shape}; use input")
        size = size or 100
        return ChannelContext(network(x_shape[0] + size, *x_shape[1:]), size)
    size = size or 5
    return InputContext(network(math.prod(x_shape) + size), size)
