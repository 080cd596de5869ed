"""Small families in float64, and independent plain-PyTorch references that several tests compare with."""

import logging
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from metaexp.algos.acnp import ACNP
from metaexp.algos.cnp import CNP
from metaexp.algos.hypernet import HyperNet
from metaexp.algos.incontext import InContext
from metaexp.contract import largest_difference, new, parameters, pictures
from metaexp.inner import minibatches
from metaexp.models.cnn4 import CNN4
from metaexp.models.linear import Linear
from metaexp.models.mlp import MLP
from metaexp.tasks.gp import GP
from metaexp.tasks.linear import Linear as LinearTasks
from metaexp.tasks.sine import Sine
from metaexp.types import Episode

F64 = torch.float64


NET = partial(MLP, hidden=[8, 6], activation="tanh")
CNN = partial(CNN4, filters=4)
LINE = partial(Linear, bias=False)  # f(x) = w x
W = "model.head.weight"


def lines(**settings) -> LinearTasks:
    return LinearTasks(**{"shots": 5, "queries": 7, "inputs": 1, "noise": 0.3} | settings).to("cpu", F64)


def sines(**settings) -> Sine:
    return Sine(**{"shots": 6, "queries": 7} | settings).to("cpu", F64)


def close(a, b, tolerance: float = 1e-12) -> None:
    error = largest_difference(a, b)
    assert error < tolerance, error


def mlp(p: dict[str, Tensor], x: Tensor) -> Tensor:
    z = torch.tanh(x @ p["body.0.weight"].T + p["body.0.bias"])
    z = torch.tanh(z @ p["body.1.weight"].T + p["body.1.bias"])
    return z @ p["head.weight"].T + p["head.bias"]


def cnn4(p: dict[str, Tensor], x: Tensor) -> Tensor:
    for i in range(4):
        x = F.conv2d(x, p[f"convolutions.{i}.weight"], p[f"convolutions.{i}.bias"], stride=2, padding=1)
        x = F.relu(F.batch_norm(x, None, None, p[f"norms.{i}.weight"], p[f"norms.{i}.bias"], True))
    return x.mean((2, 3)) @ p["head.weight"].T + p["head.bias"]


def plain_maml(net, loss, learner, batch, lr, steps, first_order, adapted):
    """A Python loop over tasks with torch.autograd: the gradient of the mean query loss, and that loss."""
    params = {k: p.detach().clone().requires_grad_() for k, p in learner.model.named_parameters()}
    total = torch.zeros((), dtype=F64)
    for i in range(len(batch.key)):
        fast = dict(params)
        for _ in range(steps):
            inner = loss(net(fast, batch.support.x[i]), batch.support.y[i])
            names = [k for k in fast if k in adapted]
            grads = torch.autograd.grad(inner, [fast[k] for k in names], create_graph=not first_order)
            fast |= {k: fast[k] - lr * g for k, g in zip(names, grads, strict=True)}
        total = total + loss(net(fast, batch.query.x[i]), batch.query.y[i]) / len(batch.key)
    grads = torch.autograd.grad(total, list(params.values()))
    return {f"model.{k}": g for k, g in zip(params, grads, strict=True)}, total.detach()


def cross_entropy(logits: Tensor, one_hot: Tensor) -> Tensor:
    return F.cross_entropy(logits, one_hot.argmax(-1))


def gp(shots=5, queries=6, **settings) -> GP:
    return GP(shots, queries, **settings).to("cpu", F64)


def parts_of(episode, i):
    info = {name: float(value[i]) for name, value in episode.info.items()}
    (x, y), (at, target) = ((p.x[i, :, 0].numpy(), p.y[i, :, 0].numpy()) for p in (episode.support, episode.query))
    return x, y, at, target, info


HYPER = partial(HyperNet, model=NET, encoder=[8, 7], generator=[5])
CONTEXT = partial(InContext, model=NET, width=8, heads=2, layers=3, hidden=12)


families = pytest.mark.parametrize("family", [sines, partial(pictures, shots=3)], ids=["sine", "pictures"])


def made(make, family):
    """A learner away from its initial values, where shifts are 0 and scales 1."""
    learner = new(make, family)
    with torch.no_grad():
        for p in learner.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=F64))
    return learner


def batch_of(learner, tasks: int) -> Episode:
    return learner.family.sample("test", torch.arange(tasks))._replace(info={})


def answers(learner, episodes, queries=None):
    """Predictions for a meta-batch: [tasks, m, out]."""
    x = episodes.query.x if queries is None else queries
    with torch.no_grad():
        return vmap(lambda e, q: learner.predict(learner.adapt(e.support, e.key), q))(episodes, x)


def reported() -> list[str]:
    """The lines that the package logs from now on."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    log = logging.getLogger("metaexp")
    log.addHandler(Lines())
    log.setLevel(logging.INFO)
    return lines


SMALL_PROCESS = {"width": 12, "encoder_layers": 2, "decoder_layers": 2}
PROCESSES = {
    "cnp": partial(CNP, **SMALL_PROCESS),
    "acnp": partial(ACNP, heads=3, **SMALL_PROCESS),
    "acnp_residual": partial(ACNP, heads=3, residual=True, **SMALL_PROCESS),
}


class Parabola:
    """mean (w x - y)^2 = s w^2 - 2 c w + ... for every task, [tasks] each."""

    def __init__(self, examples):
        x, y = examples.x[..., 0], examples.y[..., 0]
        self.s, self.c, self.rest = (x * x).mean(-1), (x * y).mean(-1), (y * y).mean(-1)

    def loss(self, w: Tensor) -> Tensor:
        return self.s * w**2 - 2 * self.c * w + self.rest

    def gradient(self, w: Tensor) -> Tensor:
        return 2 * (self.s * w - self.c)

    def descend(self, w: Tensor, lr: float, steps: int) -> Tensor:
        best = self.c / self.s
        return best + (1 - 2 * lr * self.s) ** steps * (w - best)


def train_with_torch(params: dict[str, Tensor], optimiser, support, rows) -> list[Tensor]:
    """Trains in place with torch.optim on the given minibatches; returns the losses before each step."""
    losses = []
    for row in rows:
        optimiser.zero_grad()
        loss = F.mse_loss(mlp(params, support.x[row]), support.y[row])
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return losses


def batches(key: Tensor, n: int, size: int | None, steps: int) -> list:
    rows = minibatches(key, 64, n, size, steps)
    return [slice(None)] * steps if rows is None else list(rows)


def shaken(learner):
    """The learner away from its initial values, where biases and shifts are 0 and scales 1."""
    with torch.no_grad():
        for p in learner.model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=F64))
    return learner


def gradients(learner, batch) -> tuple[dict[str, Tensor], Tensor]:
    gradient, value, _ = learner.meta_gradient(parameters(learner), batch._replace(info={}))
    return gradient, value


def same_gradient(found: dict[str, Tensor], exact: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    scale = max(float(g.abs().max()) for g in exact.values())
    assert scale > 1e-3
    for name, g in found.items():
        assert (g - exact[name]).abs().max() < tolerance * scale, name


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(math.prod(shape)), dtype=F64)


def forward(net: MLP, x: np.ndarray) -> np.ndarray:
    """A network with ReLU in numpy: [n, inputs] -> [n, outputs]."""
    layers = [*net.body, net.head]
    for i, layer in enumerate(layers):
        x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        x = np.maximum(x, 0) if i < len(layers) - 1 else x
    return x
