"""What every moving system says about itself, and the least squares with which its parameters are found."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from metaexp.random import uniform

Parameters = dict[str, Tensor]  # the hidden parameters, each [*tasks]
GRAVITY = 9.81  # m/s^2
SAMPLES = 4096  # draws from which the mean and covariance of a system's coefficients are computed


class System(ABC):
    """A system in discrete time. All functions broadcast over leading dimensions.

    Attributes of a subclass:
        dt: seconds of one step.
        ranges: (low, high) of each hidden parameter, uniform.
        state_names, action_names: what the numbers of a state [*, n] and of an action [*, a] are, with units.
        input_names, target_names: of `inputs` and `change`, with the unit in which each is counted.
        past: actions before the current one that are part of the state.
        rates: lowest and highest frequency in random actions, Hz.
        place_unit: unit of `place`.
        curves: numbers of a state that a picture shows against time; none: it shows the path of `place`.
        curve_name: what is drawn upwards.
    """

    dt: ClassVar[float]
    ranges: ClassVar[dict[str, tuple[float, float]]]
    state_names: ClassVar[Sequence[str]]
    action_names: ClassVar[Sequence[str]]
    input_names: ClassVar[Sequence[str]]
    target_names: ClassVar[Sequence[str]]
    past: ClassVar[int] = 0
    rates: ClassVar[tuple[float, float]]
    place_unit: ClassVar[str]
    curves: ClassVar[Sequence[int]]
    curve_name: ClassVar[str]

    def draw(self, key: Tensor, dtype: torch.dtype) -> Parameters:
        """Hidden parameters of the tasks with these keys, int64 [*tasks]."""
        drawn = {
            name: uniform(key, place, (), *bounds, dtype=dtype)
            for place, (name, bounds) in enumerate(self.ranges.items())
        }
        return self.completed(drawn)

    def completed(self, drawn: Parameters) -> Parameters:
        """The parameters that follow from those drawn; by default none do."""
        return drawn

    def nominal(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Parameters:
        """The parameters in the middle of their ranges, [] each."""
        middle = {
            name: torch.tensor((low + high) / 2, dtype=dtype, device=device)
            for name, (low, high) in self.ranges.items()
        }
        return self.completed(middle)

    @abstractmethod
    def start(self, key: Tensor, past: Tensor) -> Tensor:
        """A random state [*, n], of the keys int64 [*] and the actions before it [*, past, a]."""

    @abstractmethod
    def step(self, task: Parameters, state: Tensor, action: Tensor) -> Tensor:
        """The state one step later, [*, n]; actions [*, a] are clipped to [-1, 1]."""

    @abstractmethod
    def inputs(self, state: Tensor, action: Tensor) -> Tensor:
        """What a model of the system is given, [*, x]: numbers of order one."""

    @abstractmethod
    def state_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """State and action of these inputs: undoes `inputs`, up to what the change does not depend on."""

    @abstractmethod
    def change(self, state: Tensor, after: Tensor) -> Tensor:
        """What it shall predict, [*, y]: the change of the state over one step, as numbers of order one."""

    @abstractmethod
    def moved(self, state: Tensor, action: Tensor, change: Tensor) -> Tensor:
        """The next state from a (predicted) change: undoes `change`."""

    @abstractmethod
    def place(self, task: Parameters, state: Tensor) -> Tensor:
        """The point in the plane whose distance from the true one is the error of a rollout, [*, 2]."""

    def solved(self, x: Tensor, y: Tensor, noise: float) -> Parameters | None:
        """Least squares: the coefficients of ONE task that its support set x [k, x], y [k, y] tells; None: not known.

        They are what `predicted` takes.
        """
        return None

    def predicted(self, coefficients: Parameters, x: Tensor) -> Tensor:
        """The change that these coefficients predict for inputs x [m, x]: [m, y]."""
        raise NotImplementedError


def least_squares(rows: Tensor, right: Tensor, mean: Tensor, covariance: Tensor, noise: float) -> Tensor:
    """The coefficients c [p] of rows [k, p] @ c = right [k] + noise: ridge regression towards what is known of them.

    c minimises |rows c - right|^2 / noise^2 + (c - mean)' covariance^-1 (c - mean): the best linear estimate for
    coefficients of this mean [p] and covariance [p, p], and with enough rows and vanishing noise the exact solution.
    Computed in float64, where the device has it; `noise` is at least what rounding leaves of `right`.
    """
    dtype = right.dtype
    wide = dtype if right.device.type == "mps" else torch.float64
    floor = 100 * torch.finfo(dtype).eps * float(mean.abs().max().clamp(min=1))
    rows, right, mean, covariance = (t.to(right.device, wide) for t in (rows, right, mean, covariance))
    root = torch.linalg.cholesky(covariance)  # c = mean + root z with z of covariance 1
    # By singular values, not by normal equations: the precision of a few exact rows would be lost in the square.
    u, s, v = torch.linalg.svd(rows @ root, full_matrices=False)
    z = v.T @ (s / (s.square() + max(noise, floor) ** 2) * (u.T @ (right - rows @ mean)))
    return (mean + root @ z).to(dtype)


def moments(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [p] and covariance [p, p] of coefficients [n, p]."""
    return draws.mean(0), torch.cov(draws.T)
