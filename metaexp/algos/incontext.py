"""Learning in context: a transformer that reads the support set and answers queries."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from metaexp.algos.base import ModelFactory
from metaexp.algos.features import FeatureLearner, feature_size, remove_head
from metaexp.algos.views import Heatmap, View
from metaexp.constraints import Count
from metaexp.models.transformer import Memory, Transformer
from metaexp.types import Episode


class InContext(FeatureLearner):
    """A transformer whose tokens are the support examples, and which no gradient step adapts: p(y | x, support).

    "Transformers Can Do Bayesian Inference", Mueller, Hollmann, Pineda Arango, Grabocka, Hutter, 2022: a token is the
    sum of a map of the input's features and, for support examples, a map of the target; there is no positional
    encoding; support attends to support and queries to support. `adapt` puts the support set through the layers once
    and keeps every layer's keys and values, `predict` asks them. Differs from the authors' code in that norms stand
    before attention and network (theirs: after), that a query does not attend to itself, that its answer is read by
    one linear map (theirs: two layers), and that regression predicts the mean under the squared error (theirs: a
    distribution over bars). Inputs pass the network `model` without its head first.

    Args:
        width, heads, layers, hidden: of the transformer, see `metaexp.models.transformer.Transformer`.
        normalise: "running" or "batch", see `FeatureLearner`.

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
    ):
        super().__init__(family, model, loss, mapping)
        remove_head(self.model, "InContext")
        self.keep(normalise)
        self.transformer = Transformer(width, heads, layers, hidden)
        self.embed_x = nn.Linear(feature_size(self.model, family.x_shape), width)
        self.embed_y = nn.Linear(family.y_dim, width)  # its bias tells support from query
        self.answer = nn.Linear(width, self.outputs(family))

    def fit(self, z: Tensor, y: Tensor, key: Tensor) -> list[Memory]:
        """Keys and values of the support set in every layer, [heads, n, width / heads] each."""
        return self.transformer.remember(self.embed_x(z) + self.embed_y(y))

    def read(self, adapted: list[Memory], z: Tensor) -> Tensor:
        """[m, d] -> [m, y_dim], each query by itself."""
        answer: Tensor = self.answer(self.transformer.ask(self.embed_x(z), adapted))
        return answer

    def views(self, episode: Episode) -> dict[str, View]:
        """Per layer the attention of the first task's queries over its support, mean over heads.

        Examples stand in the order of their classes, or of their inputs where these are numbers.
        """
        support, query = (type(part)(part.x[0], part.y[0]) for part in (episode.support, episode.query))
        with torch.no_grad():
            adapted = self.adapt(support, episode.key[0])
            weights = self.transformer.attention(self.embed_x(self.features(query.x)), adapted)
        (rows, names), (columns, column_names) = (_order(part, self.family.classification) for part in (query, support))
        return {
            f"attention_layer{i}": Heatmap(w.mean(0)[rows][:, columns], "query", "support", names, column_names)
            for i, w in enumerate(weights)
        }


def _order(examples: Any, classes: bool) -> tuple[Tensor, list[str]]:
    """Rows of the examples in a readable order, and a name for each."""
    if classes:
        values = examples.y.argmax(-1)
    elif examples.x[:1].numel() == 1:
        values = examples.x.flatten()
    else:
        values = torch.arange(len(examples.x))
    order = torch.argsort(values, stable=True)
    return order, [f"{value:.2f}" if isinstance(value, float) else str(value) for value in values[order].tolist()]
