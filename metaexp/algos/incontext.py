"""Learning in context: a transformer that reads the support set and answers queries."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from metaexp.algos.base import ModelFactory
from metaexp.algos.features import FeatureLearner, feature_size, remove_head
from metaexp.algos.views import View, attention
from metaexp.constraints import Count, NonNegative
from metaexp.models.transformer import Memory, Transformer
from metaexp.types import Episode


class InContext(FeatureLearner):
    """A transformer whose tokens are the support examples, and which no gradient step adapts: p(y | x, support).

    "Transformers Can Do Bayesian Inference", Mueller, Hollmann, Pineda Arango, Grabocka, Hutter, 2022: a token is the
    sum of a map of the input's features and, for support examples, a map of the target, without positional encoding;
    support and queries attend to support. `adapt` keeps every layer's keys and values of the support set, `predict`
    reads them. Differs from the authors' code in that norms precede attention and network (theirs: after), a query does
    not attend to itself, its answer is read by one linear map (theirs: two layers), and regression predicts the mean
    under the squared error (theirs: a distribution over bars). Inputs first pass `model` without its head.

    Args:
        width, heads, layers, hidden: of the transformer, see `metaexp.models.transformer.Transformer`.
        normalise: "running" or "batch", see `FeatureLearner`.
        means: for classes, the factor at the start of the cosines to class means that are added to the logits
            (`FeatureLearner.stand_beside_means`); 0: none.

    Raises:
        ValueError: a setting out of range, or a network without `features` and `head`.
    """

    def __init__(
        self,
        family: Any,
        model: ModelFactory | nn.Module,
        width: Count = 64,
        heads: Count = 4,
        layers: Count = 4,
        hidden: Count | None = None,
        normalise: Literal["running", "batch"] = "running",
        loss: Any = None,
        mapping: str | int = "auto",
        means: NonNegative = 0.0,
    ):
        super().__init__(family, model, loss, mapping)
        remove_head(self.model, "InContext")
        self.keep(normalise)
        self.transformer = Transformer(width, heads, layers, hidden)
        self.embed_x = nn.Linear(feature_size(self.model, family.x_shape), width)
        self.embed_y = nn.Linear(family.y_dim, width)  # its bias marks support examples
        self.answer = nn.Linear(width, self.outputs(family))
        self.stand_beside_means(means, self.answer)

    def fit(self, z: Tensor, y: Tensor, key: Tensor) -> list[Memory]:
        """Keys and values of the support set in every layer, [heads, n, width / heads] each."""
        return self.transformer.remember(self.embed_x(z) + self.embed_y(y))

    def read(self, adapted: list[Memory], z: Tensor) -> Tensor:
        """[m, d] -> [m, y_dim], each query by itself."""
        answer: Tensor = self.answer(self.transformer.ask(self.embed_x(z), adapted))
        return answer

    def views(self, episode: Episode) -> dict[str, View]:
        """Per layer the attention of the first task's queries over its support, mean over heads."""
        support, query = (type(part)(part.x[0], part.y[0]) for part in (episode.support, episode.query))
        with torch.no_grad():
            adapted = self.fit(self.features(support.x), support.y, episode.key[0])
            weights = self.transformer.attention(self.embed_x(self.features(query.x)), adapted)
        classes = self.family.classification
        return {f"attention_layer{i}": attention(w.mean(0), query, support, classes) for i, w in enumerate(weights)}
