"""What conditional neural processes share: features, encoder, decoder, Gaussian loss and metrics."""

from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from metaexp import losses
from metaexp.algos.base import ModelFactory, Validate
from metaexp.algos.features import FeatureLearner, remove_head
from metaexp.constraints import Count, Limit, NonNegative
from metaexp.metrics import Metric, class_log_likelihood, gaussian_metrics
from metaexp.models.functional import check_output
from metaexp.models.sets import ClassDecoder, GaussianDecoder, keep_scale, perceptron
from metaexp.types import Episode, Examples


class NeuralProcess(FeatureLearner):
    """A set encoder and a decoder; a method writes how a query reads the encoded support set (`fit` and `read`).

    An input x enters as z, the features of the network `model` before its head: of pictures those of the convolutions,
    of vectors x itself where `model=linear`, else the last hidden layer of `model=mlp`, beside x with `skip`.

    Regression: (z, y) of every support example is encoded, the prediction is Gaussian and the loss its negative
    log-likelihood. Classification: z is encoded, representations are made for each class apart, and one decoder
    gives each class its logit (`ClassDecoder`), so that the number of classes may change.

    Args:
        width: of all hidden layers and of the representation.
        encoder_layers, decoder_layers: linear layers of each network.
        sigma_floor: the least standard deviation of a prediction; sigma = floor + (1 - floor) softplus(raw).
        targets: of the training loss: "query", or "both" support and query set, as in the authors' notebook.
        normalise: "running" or "batch", see `FeatureLearner`.
        skip: of vectors, x itself stands beside the features of a network with parameters.
        init: initial weights of encoder and decoder: torch's, or "he", which keep the scale of a signal through all
            layers. With torch's, the deviation learns the spread of the targets long before the mean learns anything.
        means: for classes, the factor at the start of the cosines to class means that are added to the logits
            (`FeatureLearner.stand_beside_means`); 0: none.

    Raises:
        ValueError: a setting out of range, or a network without `features` and `head`.
    """

    any_ways = classes_alike = True

    def __init__(
        self,
        family: Any,
        model: ModelFactory | nn.Module,
        width: Count = 128,
        encoder_layers: Count = 4,
        decoder_layers: Count = 3,
        sigma_floor: Annotated[float, Limit(above=0, below=1)] = 0.1,
        targets: Literal["query", "both"] = "query",
        normalise: Literal["running", "batch"] = "running",
        loss: Any = None,
        mapping: str | int = "auto",
        skip: bool = False,
        init: Literal["torch", "he"] = "torch",
        means: NonNegative = 0.0,
    ):
        self.regression = not family.classification
        super().__init__(family, model, loss or (losses.gaussian_nll if self.regression else None), mapping)
        for name, value in {"width": width, "encoder_layers": encoder_layers, "decoder_layers": decoder_layers}.items():
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if not 0 < sigma_floor < 1:
            raise ValueError(f"sigma_floor={sigma_floor}: must be above 0 and below 1")
        if targets not in ("query", "both"):
            raise ValueError(f"targets={targets}: must be query or both")
        if init not in ("torch", "he"):
            raise ValueError(f"init={init}: must be torch or he")
        remove_head(self.model, type(self).__name__)
        self.init = init
        self.skip = skip and len(family.x_shape) == 1 and any(True for _ in self.model.parameters())
        with torch.no_grad():
            self.inputs = self.features(torch.zeros(2, *family.x_shape)).shape[1]  # features of one input
        self.keep(normalise)
        self.sigma_floor, self.targets = sigma_floor, targets
        y_dim = family.y_dim if self.regression else 0
        self.encoder = perceptron(self.inputs + y_dim, width, width, encoder_layers)
        self.decoder: nn.Module = (
            GaussianDecoder(self.inputs, width, y_dim, decoder_layers, sigma_floor)
            if self.regression
            else ClassDecoder(self.inputs, width, decoder_layers)
        )
        if init == "he":
            keep_scale(self.encoder)
            keep_scale(self.decoder.net)
        if means:
            self.stand_beside_means(means, self.decoder.net.head)

    @property
    def metrics(self) -> dict[str, Metric]:
        """Of a Gaussian: log-likelihood, the family's of its mean, coverages; of classes the family's first."""
        if self.regression:
            return gaussian_metrics(super().metrics)
        return super().metrics | {"log_likelihood": class_log_likelihood}

    def outputs(self, family: Any) -> int:
        """Any number: the head is left out."""
        return 1

    def features(self, x: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, d]: the network without its head, and with `skip` x itself."""
        z: Tensor = self.model(x)
        check_output(z, x)
        return torch.cat((z, x), -1) if self.skip else z

    def encode(self, z: Tensor, y: Tensor) -> Tensor:
        """Each support example by itself: [n, d], [n, y_dim] -> [n, width]."""
        h: Tensor = self.encoder(torch.cat((z, y), -1) if self.regression else z)
        return h

    def member(self, y: Tensor) -> Tensor:
        """Which example is in which set: [n, y_dim] -> [n, 1] for regression, [n, ways] for classes."""
        return torch.ones_like(y[:, :1]) if self.regression else y

    def train_batch(self, indices: Tensor) -> Episode:
        """The training meta-batch; with targets="both" the support set precedes the queries."""
        episode = super().train_batch(indices)
        if self.targets == "query":
            return episode
        pairs = zip(episode.support, episode.query, strict=True)
        return episode._replace(query=Examples(*(torch.cat(pair, 1) for pair in pairs)))

    def finish(self, validate: Validate) -> dict[str, Any]:
        """What the likelihood of a neural process depends on besides the family."""
        varying, shots = self.family.varying("train"), self.family.sizes["train"]["shots"]
        context = [varying.fewest, varying.most] if varying else [shots, shots]
        record = {"targets": self.targets, "context_in_targets": self.targets == "both", "context": context}
        return record | ({"sigma_floor": self.sigma_floor} if self.regression else {})
