"""Distributions over actions: drawing from a key, log-probabilities and entropies.

A policy's network gives one vector of outputs for each observation. In a discrete world they are the logits of a
categorical distribution. In a continuous one they are the mean of a Gaussian with independent coordinates, whose
logarithmic standard deviations `log_std` are parameters beside the network. Everything works for ONE step of ONE task
under vmap, and for any leading dimensions.
"""

import math

import torch
from torch import Tensor

from metaexp.random import normal, uniform

LOG_STD = (-5.0, 2.0)  # what a learned logarithmic standard deviation is clamped to


def draw(out: Tensor, log_std: Tensor | None, key: Tensor) -> Tensor:
    """An action drawn from a key, without gradient.

    Discrete actions are drawn by the Gumbel-max trick (Maddison, Tarlow, Minka 2014, "A* sampling", section 2).

    Args:
        out: the network's outputs, [*, actions] or [*, action_dim].
        log_std: [action_dim], or None in a discrete world.
        key: int64 [*].

    Returns:
        int64 [*], or float [*, action_dim].
    """
    return chosen(out, log_std, noise(key, out.shape[-1], log_std is None, out.dtype))


def noise(key: Tensor, size: int, discrete: bool, dtype: torch.dtype) -> Tensor:
    """All that is random in `draw`: [*, size] for keys int64 [*], so that many steps' can be drawn at once."""
    if not discrete:
        return normal(key, 0, (size,), dtype=dtype)
    u = uniform(key, 0, (size,), dtype=dtype)  # u = 0 gives -inf: never chosen
    return -torch.log(-torch.log(u))


def chosen(out: Tensor, log_std: Tensor | None, noise: Tensor) -> Tensor:
    """The action that `draw` makes of its `noise` [*, actions] or [*, action_dim]."""
    out = out.detach()
    if log_std is None:
        return torch.argmax(out + noise, -1)
    return out + torch.exp(log_std.detach().clamp(*LOG_STD)) * noise


def log_prob(out: Tensor, log_std: Tensor | None, action: Tensor) -> Tensor:
    """Logarithm of the probability (density) of an action: [*]; arguments as of `draw`."""
    if log_std is None:
        return torch.log_softmax(out, -1).gather(-1, action[..., None])[..., 0]
    log_std = log_std.clamp(*LOG_STD)
    z = (action - out) * torch.exp(-log_std)
    return (-0.5 * z * z - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def entropy(out: Tensor, log_std: Tensor | None) -> Tensor:
    """Entropy of the distribution in nats: [*]; arguments as of `draw`."""
    if log_std is None:
        log_p = torch.log_softmax(out, -1)
        return -(log_p.exp() * log_p).sum(-1)
    per_dim = log_std.clamp(*LOG_STD) + 0.5 * math.log(2 * math.pi * math.e)
    return per_dim.sum(-1).expand(out.shape[:-1])


def most_likely(out: Tensor, log_std: Tensor | None) -> Tensor:
    """The action of largest probability: int64 [*], or float [*, action_dim]."""
    return torch.argmax(out, -1) if log_std is None else out
