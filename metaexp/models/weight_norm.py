"""Weight normalisation with the right second derivative."""

import torch
import torch.nn.utils.parametrizations as new
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.weight_norm import WeightNorm

_NEW: type[nn.Module] = new._WeightNorm


def plain_weight_norm(v: Tensor, g: Tensor, dim: int) -> Tensor:
    """g v / |v| with the norm over all dimensions but `dim` (-1: over all), in elementary operations.

    torch 2.13 gives a wrong second derivative for its own function, `torch._weight_norm`.
    """
    others = [d for d in range(v.dim()) if d != dim % v.dim() or dim == -1]
    length = torch.linalg.vector_norm(v, dim=others, keepdim=dim != -1) if others else v.abs()
    return v * (g / length)


class _New(_NEW):  # type: ignore[misc, valid-type]
    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return plain_weight_norm(weight_v, weight_g, self.dim)


class _Old(WeightNorm):
    def compute_weight(self, module: nn.Module) -> Tensor:
        return plain_weight_norm(getattr(module, self.name + "_v"), getattr(module, self.name + "_g"), self.dim)


def adopt_weight_norms(model: nn.Module) -> int:
    """Replace torch's two kinds of weight norm in a module, keeping parameters and names; returns their number."""
    found = 0
    for module in list(model.modules()):
        for hook in module._forward_pre_hooks.values():
            if type(hook) is WeightNorm:
                hook.__class__ = _Old
                found += 1
        if isinstance(module, ParametrizationList):
            for part in module:
                if type(part) is _NEW:
                    part.__class__ = _New
                    found += 1
    return found
