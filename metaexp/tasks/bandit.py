"""Bandits with several arms, whose rewards are coins or Gaussian."""

from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from metaexp.constraints import Limit, Positive, checked
from metaexp.random import fold, normal, uniform
from metaexp.tasks.world import Task, TimeStep, Trajectory, World

Kind = Literal["bernoulli", "gaussian"]
MEANS, REWARD = 0, 0  # streams of a task's key, and of a step's


class Bandit(World):
    """`arms` arms, of which a trial pulls one after the other, `pulls` times.

    With kind "bernoulli" an arm pays 1 with its own probability, drawn for each task from Beta(a, b), otherwise 0;
    Beta(1, 1), uniform, is the bandit of "RL^2: Fast Reinforcement Learning via Slow Reinforcement Learning", Duan,
    Schulman, Chen, Bartlett, Sutskever, Abbeel, 2016, section 3.1. With "gaussian" it pays N(mean, noise^2), its mean
    drawn from N(m, s^2). Nothing is to be seen but one's own actions and rewards: the observation is 0.

    In a test task the same pull of the same arm at the same time pays every learner the same.

    Args:
        arms: number of arms.
        pulls: steps of a trial, which is one episode.
        kind: of the rewards.
        prior: (a, b), whole numbers, of the Beta distribution of an arm's probability; null: (1, 1).
        means: (m, s) of the Gaussian distribution of an arm's mean; null: (0, 1).
        noise: standard deviation of a Gaussian reward.

    Raises:
        ValueError: a number out of range, or a setting of the other kind; the message starts with its name.
    """

    x_shape = (1,)

    @checked
    def __init__(
        self,
        arms: Annotated[int, Limit(least=2)] = 5,
        pulls: Annotated[int, Limit(least=1)] = 10,
        kind: Kind = "bernoulli",
        prior: tuple[int, int] | None = None,
        means: tuple[float, float] | None = None,
        noise: Positive = 1.0,
        seed: int = 0,
        eval_seed: int = 0,
    ):
        if kind == "bernoulli" and means is not None:
            raise ValueError("means: for kind=gaussian; coins have a prior=[a,b] of whole numbers")
        if kind == "gaussian" and prior is not None:
            raise ValueError("prior: for kind=bernoulli; Gaussian arms have means=[mean,deviation]")
        if prior is not None and min(prior) < 1:
            raise ValueError(f"prior=[{prior[0]}, {prior[1]}]: must be whole numbers of at least 1")
        if means is not None and means[1] < 0:
            raise ValueError(f"means=[{means[0]}, {means[1]}]: the second is a standard deviation, at least 0")
        self.actions = self.arms = arms
        super().__init__(pulls, 1, seed, eval_seed)
        self.pulls, self.kind, self.noise = pulls, kind, noise
        self.prior, self.means = tuple(prior or (1, 1)), tuple(means or (0.0, 1.0))
        arm = {"prior": list(self.prior)} if kind == "bernoulli" else {"means": list(self.means), "noise": noise}
        self.protocol = {"arms": arms, "pulls": pulls, "kind": kind, **arm}

    def draw(self, key: Tensor) -> Task:
        """`mean` [tasks, arms]: expected reward of each arm."""
        if self.kind == "gaussian":
            return {"mean": self.means[0] + self.means[1] * normal(key, MEANS, (self.arms,), dtype=self.dtype)}
        a, b = self.prior
        u = uniform(key, MEANS, (self.arms, a + b - 1), dtype=self.dtype)
        return {"mean": u.sort(-1).values[..., a - 1]}  # of a + b - 1 uniform numbers, number a is Beta(a, b)

    def reset(self, task: Task, key: Tensor) -> tuple[Any, Tensor]:
        """No state, and nothing to see."""
        return (), torch.zeros(1, dtype=self.dtype, device=self.device)

    def step(self, task: Task, state: Any, action: Tensor, key: Tensor) -> tuple[Any, Tensor, Tensor, Tensor]:
        """The reward of the arm `action`, int64 []."""
        mean = task["mean"].gather(0, action[None])[0]
        if self.kind == "gaussian":
            # One number per arm: two learners that pull other arms at a time are not luckier or less so together.
            noise = normal(fold(key, action), REWARD, (), dtype=self.dtype)
            reward = mean + self.noise * noise
        else:
            reward = (uniform(fold(key, action), REWARD, (), dtype=self.dtype) < mean).to(self.dtype)
        never = torch.zeros((), dtype=torch.bool, device=self.device)
        return state, torch.zeros(1, dtype=self.dtype, device=self.device), reward, never

    def sketch(self, axes: Any, task: Task, trajectory: Trajectory) -> None:
        """Which arm was pulled when, dark where it paid most; the arms' means beside them."""
        low, high = float(trajectory.reward.min()), float(trajectory.reward.max())
        shade = ((trajectory.reward - low) / max(high - low, 1e-9)).tolist()
        step = range(1, len(shade) + 1)
        look = {"cmap": "Blues", "vmin": -0.3, "vmax": 1, "s": 20, "edgecolors": "grey"}
        axes.scatter(step, trajectory.action.tolist(), c=shade, **look)
        axes.locator_params(axis="x", integer=True)
        axes.set_ylim(self.arms - 0.4, -0.6)
        axes.set_yticks(range(self.arms), [f"{mean:.2f}" for mean in task["mean"].tolist()])
        axes.set_xlabel("pull")
        axes.set_ylabel("arm, by its mean")

    def best(self, task: Task) -> Tensor:
        """The best arm at every pull."""
        return self.pulls * task["mean"].max()

    def plan(self, task: Task) -> tuple[Tensor, Any]:
        """The best arm; the first of equals."""
        return task["mean"].argmax(), ()

    def informed(self, task: Task, plan: Tensor, memory: Any, seen: TimeStep, t: Tensor) -> tuple[Tensor, Any]:
        """It, always."""
        return plan, memory
