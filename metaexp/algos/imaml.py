"""MAML with implicit gradients."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, grad_and_value, vjp

from metaexp.algos.base import MetaLearner, ModelFactory
from metaexp.algos.gradient import trainable
from metaexp.constraints import Count, Natural, NonNegative, Positive
from metaexp.inner import SGD, InnerLoop, InnerOptimiser, Tree, conjugate_gradient, minimise, with_gradient
from metaexp.models.functional import predicted
from metaexp.types import Episode, Examples


class IMAML(MetaLearner):
    """Meta-learn the centre theta of a proximal term; the meta-gradient depends on where the inner loop ends alone.

    "Meta-Learning with Implicit Gradients", Rajeswaran, Finn, Kakade, Levine, 2019. A task's parameters minimise
    G(phi) = L_S(phi) + lambda/2 |phi - theta|^2. At a minimum grad L_S(phi) + lambda (phi - theta) = 0, so
    (H + lambda I) dphi = lambda dtheta with H the Hessian of L_S at phi, and the meta-gradient is the g that solves
    (I + H / lambda) g = grad L_Q(phi), found by conjugate gradients. No inner step is differentiated or kept: any inner
    optimiser will do, and memory does not grow with the number of steps.

    Differs from the paper where its assumptions fail, as they do on sines, with NaN after some hundred outer steps: an
    inner step that raises G is taken back and the task's rate halved (`metaexp.inner.minimise`), and the solver stops
    at a direction in which I + H / lambda curves less than `least_curvature`: there G is all but flat or a saddle, and
    the exact g huge. The authors' code solves another system, ((1 + damping) I + H / (lambda + 10)) g = grad L_Q with a
    damping of 1, after inner steps without the proximal term and one on it alone. lambda is not learned here.

    Args:
        strength: lambda.
        inner_lr, inner_steps, test_lr, test_steps, inner: of the inner loop, as in `MAML`.
        cg_steps: products with the Hessian; 0 takes grad L_Q itself, the first-order meta-gradient.
        damping: added to the identity I.
        least_curvature: see above, relative to a direction's squared length; 0: the solution of the equation wherever
            there is one.

    Raises:
        ValueError: a setting out of range.
    """

    fixed_network = True  # a loss that changes from pass to pass has no minimum
    exact_gradient = False  # the inner loop ends near the minimum, and the system is solved in a few steps

    def __init__(
        self,
        family: Any,
        model: ModelFactory | nn.Module,
        strength: Positive = 2.0,
        inner_lr: Positive = 0.01,
        inner_steps: Count = 16,
        test_steps: Natural | None = None,
        test_lr: Positive | None = None,
        cg_steps: Natural = 5,
        damping: NonNegative = 0.0,
        least_curvature: NonNegative = 0.5,
        inner: InnerOptimiser = SGD(),
        loss: Any = None,
        mapping: str | int = "auto",
    ):
        super().__init__(family, model, loss, mapping)
        self.inner = InnerLoop.of(inner, inner_lr, inner_steps, test_lr, test_steps)
        self.inner_lr, self.test_steps = inner_lr, self.inner.test_steps
        if not strength > 0:
            raise ValueError(f"strength={strength}: must be above 0")
        if cg_steps < 0:
            raise ValueError(f"cg_steps={cg_steps}: must be at least 0")
        for name, value in (("damping", damping), ("least_curvature", least_curvature)):
            if not value >= 0:
                raise ValueError(f"{name}={value}: must be at least 0")
        self.strength, self.cg_steps = strength, cg_steps
        self.damping, self.least_curvature = damping, least_curvature

    def _tree(self, vector: Tensor) -> Tree:
        """A vector [parameters] as parameters by name."""
        start = trainable(self.model)
        pieces = vector.split([p.numel() for p in start.values()])
        return {name: piece.view(p.shape) for (name, p), piece in zip(start.items(), pieces, strict=True)}

    def _loss(self, vector: Tensor, examples: Examples) -> Tensor:
        return self.loss(self.predict(vector, examples.x), examples.y)

    def _exact(self) -> torch.autocast:
        """Around the inner problem: rounding to half precision looks like a rise of its objective, and ruins H v."""
        return torch.autocast(next(self.model.parameters()).device.type, enabled=False)

    def _centre(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in trainable(self.model).values()])

    def _minimise(self, support: Examples, lr: Any, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """phi and the gradient of G after 0, 1, ..., steps steps, as constants: vectors [parameters]."""
        centre = self._centre()

        def objective(params: Tree) -> Tensor:
            away = params["phi"] - centre
            return self._loss(params["phi"], support) + 0.5 * self.strength * (away @ away)

        for params, gradient in minimise(objective, {"phi": centre}, self.inner.optimiser, lr, steps):
            yield params["phi"], gradient["phi"]

    def adapt(self, support: Examples, key: Tensor) -> Tensor:
        """phi after `inner_steps` steps on the proximal objective: a vector, constant in theta."""
        with self._exact():
            return _last(self._minimise(support, self.inner.lr, self.inner.steps))[0]

    def path(self, support: Examples, key: Tensor, steps: int) -> list[Tensor]:
        """phi after 0, 1, ..., steps steps at the test rate."""
        with self._exact():
            return [phi for phi, _ in self._minimise(support, self.inner.test_lr, steps)]

    def predict(self, adapted: Tensor, x: Tensor) -> Tensor:
        """The network with the adapted parameters instead of its own."""
        return predicted(self.model, self._tree(adapted), x)

    def meta_loss(self, episode: Episode) -> tuple[Tensor, dict[str, Any]]:
        """The query loss at the end of the inner loop, with the implicit gradient."""
        adapted = self.adapt(episode.support, episode.key)

        def query(vector: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return self.loss_and_metrics(self.predict(vector, episode.query.x), episode.query.y)

        gradient, (value, metrics) = grad_and_value(query, has_aux=True)(adapted)
        if self.cg_steps:

            def slope(vector: Tensor) -> Tensor:
                return grad(self._loss)(vector, episode.support)

            with self._exact():
                hessian = vjp(slope, adapted)[1]  # v -> H v; its graph is made once

                def system(v: Tensor) -> Tensor:
                    return (1 + self.damping) * v + hessian(v)[0] / self.strength

                gradient = conjugate_gradient(system, gradient, self.cg_steps, least=self.least_curvature)
        return with_gradient(value, trainable(self.model), self._tree(gradient)), metrics

    def diagnostics(self, episode: Episode) -> dict[str, Tensor]:
        """Where the inner loop ends: `inner_gradient_norm` of the proximal objective, which would be 0 at its minimum,
        and `distance` |phi - theta|."""
        with self._exact():
            phi, gradient = _last(self._minimise(episode.support, self.inner.test_lr, self.test_steps))
        return {"inner_gradient_norm": gradient.norm(), "distance": (phi - self._centre()).norm()}


def _last(values: Iterable[Any]) -> Any:
    """The last one; none before it stays in memory."""
    for value in values:  # noqa: B007
        pass
    return value
