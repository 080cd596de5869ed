"""A hypernetwork: a network that reads the support set and writes the weights of the task's network."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metaexp.algos.base import ModelFactory
from metaexp.algos.features import FeatureLearner, check_head, feature_size, remove_head
from metaexp.constraints import Count, NonNegative, Positive
from metaexp.inner import Tree
from metaexp.models.functional import predicted
from metaexp.models.mlp import MLP
from metaexp.models.norms import depends_on_batch
from metaexp.types import Episode


class HyperNet(FeatureLearner):
    """Generate the task's network from the mean of codes of its support examples, in one forward pass.

    "HyperNetworks", Ha, Dai, Le, 2016: one network outputs the weights of another, and both are learned end to end.
    There the input is a learned embedding of the layer; here it is the support set, by an encoder of (x, y) and a mean
    over examples. Weights are theta_i + u_i g_i(code): a learned base, which starts as any network does, plus the
    generator's output in units u_i = scale / sqrt(fan-in) of the layer that it enters. Without the units generated
    weights have the wrong scale at the start ("Principled Weight Initialization for Hypernetworks", Chang, Flokas,
    Lipson, 2020, whose remedy is another).

    Regression on vectors: all parameters of `model` are generated, and the encoder reads the inputs themselves. Other
    regression: the head alone, and the encoder reads the features. Classes: one row of the head and its bias from the
    mean code of the class, so that any number of classes works; so does "Dynamic Few-Shot Visual Learning without
    Forgetting", Gidaris, Komodakis, 2018, with a cosine classifier and without a network as generator (weighted
    feature means and an attention over rows of training classes). The base of class k is the linear form of a
    prototypical network with a learned weight phi of each feature: row 2 phi o c_k and bias -sum(phi o c_k^2) for the
    mean feature c_k.

    Args:
        encoder: widths of the network that reads one example; the last is that of the code.
        generator: hidden widths of the network from code to weights.
        scale: of the generator's output.
        phi: for classes, the start of phi; below 1 where features are large, such as raw pixels.
        normalise: "running" or "batch", see `FeatureLearner`; norms of a network that is generated as a whole use
            the batch at hand.

    Raises:
        ValueError: a setting out of range; a network without `features` and `head` where these are needed.
    """

    any_ways = classes_alike = True

    def __init__(
        self,
        family: Any,
        model: ModelFactory | nn.Module,
        encoder: Sequence[Count] = (128, 128, 128),
        generator: Sequence[Count] = (128,),
        scale: Positive = 1.0,
        phi: NonNegative = 1.0,
        normalise: Literal["running", "batch"] = "running",
        loss: Any = None,
        mapping: str | int = "auto",
    ):
        super().__init__(family, model, loss, mapping)
        for name, widths, least in (("encoder", encoder, 1), ("generator", generator, 0)):
            if len(widths) < least or any(width < 1 for width in widths):
                raise ValueError(f"{name}={list(widths)}: must be {least} or more widths of at least 1")
        if not 0 < scale < math.inf:
            raise ValueError(f"scale={scale}: must be above 0")
        if not 0 <= phi < math.inf:
            raise ValueError(f"phi={phi}: must be at least 0")
        self.classes, self.whole = family.classification, not family.classification and len(family.x_shape) < 2
        if not self.whole:
            (remove_head if self.classes else check_head)(self.model, "HyperNet")
            self.keep(normalise)
        d = math.prod(family.x_shape) if self.whole else feature_size(self.model, family.x_shape)
        if self.classes:
            self.phi = nn.Parameter(torch.full((d,), float(phi)))
            self.shapes, units = {"weight": (d,), "bias": ()}, {"weight": d**-0.5, "bias": d**-0.5}
        else:
            self.shapes = {name: tuple(p.shape) for name, p in self._base().items()}
            units = {name: _fan_in(self._network(), name) ** -0.5 for name in self.shapes}
        if not self.shapes:
            raise ValueError("model: HyperNet generates its parameters, and none requires a gradient")
        self.units = {name: scale * unit for name, unit in units.items()}
        self.encoder = MLP((d if self.classes else d + family.y_dim,), encoder[-1], encoder[:-1], "gelu")
        self.generator = MLP((encoder[-1],), sum(map(math.prod, self.shapes.values())), generator, "gelu")

    def _network(self) -> nn.Module:
        return self.model if self.whole else self.model.head  # type: ignore[return-value]

    def _base(self) -> Tree:
        return {name: p for name, p in self._network().named_parameters() if p.requires_grad}

    def features(self, x: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, d]: the inputs themselves where the whole network is generated."""
        return x if self.whole else super().features(x)

    def reads_batch(self) -> bool:
        """See FeatureLearner: what is generated may have a batch norm."""
        return not self.classes and depends_on_batch(self._network())

    def generate(self, code: Tensor) -> Tree:
        """[k, code] -> what is added to the base, [k, *shape] by name."""
        parts = self.generator(code).split([math.prod(shape) for shape in self.shapes.values()], dim=1)
        return {
            name: self.units[name] * part.reshape(-1, *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def _parts(self, z: Tensor, y: Tensor) -> tuple[Tree, Tree]:
        """(base, what is added to it) for support features z [n, d] and targets y [n, y_dim]."""
        if self.classes:
            mean = y.T / torch.clamp(y.sum(0), min=1.0).unsqueeze(-1)  # [ways, n]: of no examples 0
            centre = mean @ z  # [ways, d]
            row = self.phi * centre
            base = {"weight": 2 * row, "bias": -(row * centre).sum(1)}
            return base, self.generate(mean @ self.encoder(z))
        codes = self.encoder(torch.cat((z.flatten(1), y), 1))  # [n, code]
        made = self.generate(codes.sum(0, keepdim=True) / max(len(codes), 1))
        return self._base(), {name: part[0] for name, part in made.items()}

    def fit(self, z: Tensor, y: Tensor, key: Tensor) -> Tree:
        """The generated parameters by name; for classes weight [ways, d] and bias [ways]."""
        base, made = self._parts(z, y)
        return {name: p + made[name] for name, p in base.items()}

    def read(self, adapted: Tree, z: Tensor) -> Tensor:
        """The generated network on inputs or features."""
        if self.classes:
            return z @ adapted["weight"].T + adapted["bias"]
        return predicted(self._network(), adapted, z)

    def diagnostics(self, episode: Episode) -> dict[str, Tensor]:
        """`added`: Euclidean norm of what is added to the base over that of the base."""
        base, made = self._parts(self.features(episode.support.x), episode.support.y)
        added, of = (torch.cat([t.flatten() for t in tree.values()]).norm() for tree in (made, base))
        return {"added": added / torch.clamp(of, min=torch.finfo(of.dtype).tiny)}


def _fan_in(network: nn.Module, name: str) -> int:
    """Numbers that enter one output of the layer that the parameter belongs to."""
    layer = network.get_submodule(name.rpartition(".")[0])
    weight = getattr(layer, "weight", None)
    return weight[0].numel() if isinstance(weight, Tensor) and weight.dim() > 1 else 1
