"""Fast context adaptation."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import grad

from metaexp.algos.base import ModelFactory
from metaexp.algos.gradient import GradientLearner
from metaexp.algos.views import Scatter, View
from metaexp.constraints import Count, Natural, Positive
from metaexp.inner import SGD, InnerLoop, InnerOptimiser, Tree
from metaexp.mapping import map_tasks
from metaexp.models.context import with_context
from metaexp.models.functional import check_output
from metaexp.types import Episode


class CAVIA(GradientLearner):
    """Adapt a few context parameters phi, a second input of the network, and share all of its weights theta.

    "Fast Context Adaptation via Meta-Learning", Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson, 2019. The inner loop goes
    from phi_0 = 0 by phi <- phi - a grad_phi L_S(phi, theta); the outer loop learns theta through it by the query
    loss. phi is appended to a vector input, or gives the scale and shift of a convolution's maps (FiLM; as in the
    authors' code after the norm of the third convolution, before the ReLU).

    Differs from the authors' code in that FiLM's scale starts at 1 (theirs at the bias of a linear layer), comes
    before the pooling where there is one, and that meta-gradients are not clipped (theirs to +-10 per task on sines;
    `clip.value` clips their mean).

    Args:
        context: "input" (appended to the flattened input), "film" or "channel" (constant planes appended to the
            channels of a picture); None: "film" where the network can be modulated (`channels`, `forward(x, modulate)`,
            as cnn4), else "input". A ready module instead of a factory must take the longer input itself.
        context_size: length of phi; None: 5 with "input", else 100 (the authors' on sines and on mini-ImageNet).
        film_block: the block of the network that is modulated, from 0.
        inner_lr, inner_steps, test_lr, test_steps, first_order, inner: of the inner loop, as in `MAML`.

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
        inner_loop = InnerLoop.of(inner, inner_lr, inner_steps, test_lr, test_steps, first_order)
        if context not in (None, "input", "film", "channel"):
            raise ValueError(f"context={context}: must be input, film or channel")
        if context_size is not None and context_size < 1:
            raise ValueError(f"context_size={context_size}: must be at least 1")

        def make(x_shape: tuple[int, ...], out: int) -> nn.Module:
            return with_context(model, x_shape, out, context, context_size, film_block)

        super().__init__(family, make, inner_loop, loss, mapping)
        size: int = self.model.size  # type: ignore[assignment]
        self.start: Tensor  # phi_0
        self.register_buffer("start", torch.zeros(size), persistent=False)

    def initial(self) -> Tree:
        """phi_0."""
        return {"phi": self.start}

    def read(self, adapted: Tree, z: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, out]: the shared network in this context."""
        prediction: Tensor = self.model(z, adapted["phi"])
        check_output(prediction, z)
        return prediction

    def diagnostics(self, episode: Episode) -> dict[str, Tensor]:
        """`inner_gradient_norm`: Euclidean norm of the support loss's gradient in phi, at 0."""
        return {"inner_gradient_norm": grad(self.inner_loss)(self.initial(), episode.support)["phi"].norm()}

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
