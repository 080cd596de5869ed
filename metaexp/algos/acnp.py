"""Attentive conditional neural processes."""

from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from metaexp.algos.base import ModelFactory
from metaexp.algos.neural_process import NeuralProcess
from metaexp.algos.views import Heatmap, View
from metaexp.constraints import Count, Limit, NonNegative
from metaexp.inner import Tree
from metaexp.models.sets import CrossAttention, ResidualBlock, keep_scale, perceptron
from metaexp.types import Episode


class ACNP(NeuralProcess):
    """A conditional neural process whose queries read the support set by attention instead of its mean.

    "Attentive Neural Processes", Kim, Mnih, Schwarz, Garnelo, Eslami, Rosenbaum, Vinyals, Teh, 2019: the
    deterministic path alone. Values are the encoded support examples, keys and queries the inputs through one
    network, attention has several heads: r(x) = sum_i softmax_i(q(x) . k_i / sqrt(d)) v_i, (mu, sigma) = g(x, r(x)).
    The latent path, with its variational bound, is another method; the self-attention within the support set, which
    the authors' notebook leaves out too, is not here. Over no example r(x) is 0. For classes each class is attended by
    itself, and decoded as in `CNP`.

    With `residual` the query's own embedding joins what it has read: r <- norm(r + W q), r <- norm(r + f(r)), the end
    of a transformer's layer, as in NeuralProcesses.jl ("Meta-Learning Stationary Stochastic Process Prediction with
    Convolutional Neural Processes", Foong, Bruinsma, Gordon, Dubois, Requeima, Turner, 2020).

    Args:
        heads: of the attention; divides the width.
        key_layers: linear layers of the network of keys and queries.
        residual: a residual block with layer norms follows the attention.
        all others: see `NeuralProcess`.

    Raises:
        ValueError: a setting out of range, or a network without `features` and `head`.
    """

    def __init__(
        self,
        family: Any,
        model: ModelFactory | nn.Module,
        width: Count = 128,
        heads: Count = 8,
        encoder_layers: Count = 4,
        key_layers: Count = 2,
        decoder_layers: Count = 3,
        residual: bool = False,
        sigma_floor: Annotated[float, Limit(above=0, below=1)] = 0.1,
        targets: Literal["query", "both"] = "query",
        normalise: Literal["running", "batch"] = "running",
        loss: Any = None,
        mapping: str | int = "auto",
        skip: bool = False,
        init: Literal["torch", "he"] = "torch",
        means: NonNegative = 0.0,
    ):
        own = (family, model, width, encoder_layers, decoder_layers, sigma_floor, targets, normalise)
        super().__init__(*own, loss, mapping, skip, init, means)
        if heads < 1 or width % heads:
            raise ValueError(f"heads={heads}: must divide width={width}")
        if key_layers < 1:
            raise ValueError(f"key_layers={key_layers}: must be at least 1")
        self.place = perceptron(self.inputs, width, width, key_layers)
        if init == "he":
            keep_scale(self.place)
        self.attention = CrossAttention(width, heads)
        self.block = ResidualBlock(width) if residual else None

    def fit(self, z: Tensor, y: Tensor, key: Tensor) -> Tree:
        """Keys and values [heads, n, width / heads], and which example is in which set [n, sets]."""
        keys, values = self.attention.memory(self.place(z), self.encode(z, y))
        return {"keys": keys, "values": values, "member": self.member(y)}

    def read(self, adapted: Tree, z: Tensor) -> Tensor:
        """[m, d] -> [m, 2 y_dim], means and deviations, or logits [m, ways]."""
        q = self.place(z)
        r = self.attention(q, adapted["keys"], adapted["values"], adapted["member"])  # [m, sets, width]
        if self.block is not None:
            r = self.block(r, q.unsqueeze(1))
        prediction: Tensor = self.decoder(r, z)
        return prediction

    def weights(self, adapted: Tree, z: Tensor) -> Tensor:
        """Of queries over the support set, mean over heads: [m, d] -> [m, n]; a row sums to the number of sets."""
        return self.attention.weights(self.place(z), adapted["keys"], adapted["member"]).mean(0).sum(0)

    def views(self, episode: Episode) -> dict[str, View]:
        """The attention in the first task; 1-D inputs in their order, others as they come."""
        x, y, query_x = episode.support.x[0], episode.support.y[0], episode.query.x[0]
        if len(x) == 0:
            return {}
        with torch.no_grad():
            adapted = self.fit(self.features(x), y, episode.key[0])
            weights = self.weights(adapted, self.features(query_x))  # [m, n]
        if x.shape[1:] != (1,):
            return {"attention": Heatmap(weights, "query", "support", title="attention, mean over heads")}
        rows, columns = query_x[:, 0].argsort(), x[:, 0].argsort()
        at, given = ([f"{value:.2f}" for value in part.tolist()] for part in (query_x[rows, 0], x[columns, 0]))
        title = "attention, mean over heads"
        return {"attention": Heatmap(weights[rows][:, columns], "query x", "support x", at, given, title)}
