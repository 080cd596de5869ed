"""How much each action of a batch of trials is credited with: returns to go, baselines and advantages.

A batch has n trials of `episodes` x `horizon` steps in ONE task. Every baseline here is of the leave-one-out kind: that
of one trial is worked out from the others, so that it does not depend on the trial's own actions and leaves the
expectation of a score-function gradient as it is (Williams 1992, section 2).
"""

from typing import Literal

import torch
from torch import Tensor

Baseline = Literal["linear", "mean", "none"]
RIDGE = 1e-5  # of the linear baseline, relative to the mean square of the features


def to_go(reward: Tensor, horizon: int, discount: float = 1.0) -> Tensor:
    """Discounted sum of the rewards from each step to the end of its episode: [..., steps] -> [..., steps]."""
    steps = torch.arange(horizon, device=reward.device)
    ahead = steps - steps[:, None]  # [horizon, horizon]: how far the column's step lies behind the row's
    weight = torch.where(ahead >= 0, discount ** ahead.clamp(min=0).to(reward.dtype), 0.0).to(reward.dtype)
    return (reward.unflatten(-1, (-1, horizon)) @ weight.T).flatten(-2)


def advantages(
    gain: Tensor, observation: Tensor, alive: Tensor, horizon: int, baseline: Baseline, normalise: bool = False
) -> Tensor:
    """Returns to go less their baseline: [n, steps], 0 where idle.

    Args:
        gain: returns to go, [n, steps].
        observation: before each action, [n, steps, *x_shape].
        alive: bool [n, steps].
        horizon: steps of an episode.
        baseline: `linear`: least squares in the observation, its square, and the first three powers of the time (Duan
            et al. 2016, "Benchmarking deep reinforcement learning for continuous control", section 5); `mean`: the mean
            at the same step of the trial; `none`: 0. Each is fitted on the other trials.
        normalise: to mean 0 and deviation 1 over all steps.
    """
    here = alive.to(gain.dtype)  # [n, steps]
    if baseline == "mean":
        number = here.sum(0) - here  # [n, steps]: of the others
        gain = gain - ((gain * here).sum(0) - gain * here) / number.clamp(min=1)
    elif baseline == "linear":
        gain = gain - _linear(gain, observation, here, horizon)
    gain = gain * here
    if normalise:
        count = here.sum().clamp(min=1)
        centred = (gain - gain.sum() / count) * here
        gain = centred / ((centred**2).sum() / count).sqrt().clamp(min=1e-8)
    return gain


def _linear(gain: Tensor, observation: Tensor, here: Tensor, horizon: int) -> Tensor:
    """The linear baseline [n, steps], fitted for each trial on the others."""
    n, steps = gain.shape
    seen = observation.reshape(n, steps, -1).to(gain.dtype)
    time = (torch.arange(steps, device=gain.device) % horizon).to(gain.dtype) / horizon
    powers = torch.stack([torch.ones_like(time), time, time**2, time**3], -1).expand(n, steps, 4)
    features = torch.cat([seen, seen**2, powers], -1)  # [n, steps, k]
    used = features * here[..., None]
    moments = used.mT @ features  # [n, k, k]
    targets = (used.mT @ gain[..., None])[..., 0]  # [n, k]
    scale = torch.diagonal(moments.sum(0), dim1=-2, dim2=-1).mean()
    ridge = RIDGE * scale.clamp(min=1) * torch.eye(features.shape[-1], device=gain.device, dtype=gain.dtype)
    weights = torch.linalg.solve(moments.sum(0) - moments + ridge, (targets.sum(0) - targets)[..., None])
    return (features @ weights)[..., 0]


def left_out_mean(values: Tensor) -> Tensor:
    """For each of [m] numbers the mean of the others: [m]; 0 if there are none."""
    return (values.sum() - values) / max(1, len(values) - 1)
