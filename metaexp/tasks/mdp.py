"""Random tabular Markov decision processes."""

from typing import Annotated

import torch
from torch import Tensor

from metaexp.constraints import Count, Limit, Positive, checked
from metaexp.random import dirichlet, normal, uniform
from metaexp.tasks.world import State, Task, TimeStep, World

MEANS, TRANSITIONS = 0, 1  # streams of a task's key
REWARD, NEXT = 0, 1  # streams of a step's key


class MDP(World):
    """Every task is another random MDP, in which a trial plays `episodes` episodes of `horizon` steps from state 0 on.

    "RL^2: Fast Reinforcement Learning via Slow Reinforcement Learning", Duan, Schulman, Chen, Bartlett, Sutskever,
    Abbeel, 2016, section 3.2 (after Osband, Russo, Van Roy 2013): 10 states, 5 actions and a horizon of 10. The reward
    of an action in a state is N(mean, noise^2), its mean drawn from N(1, 1); the next state's probabilities are drawn
    from Dirichlet(1, ..., 1). The observation is the state, one-hot.

    Args:
        states, actions: their numbers.
        horizon: steps of one episode.
        episodes: episodes of one trial.
        noise: standard deviation of a reward.

    Raises:
        ValueError: a number out of range.
    """

    actions: int
    prior = (1.0, 1.0)  # mean and standard deviation of the rewards' means

    @checked
    def __init__(
        self,
        states: Count = 10,
        actions: Annotated[int, Limit(least=2)] = 5,
        horizon: Count = 10,
        episodes: Count = 10,
        noise: Positive = 1.0,
        seed: int = 0,
        eval_seed: int = 0,
    ):
        self.states, self.actions, self.noise = states, actions, noise
        self.x_shape = (states,)
        super().__init__(horizon, episodes, seed, eval_seed)
        self.protocol = {**self.protocol, "states": states, "actions": actions, "noise": noise}

    def draw(self, key: Tensor) -> Task:
        """`mean` [tasks, states, actions], the rewards'; `transition` [tasks, states, actions, states]."""
        mean, deviation = self.prior
        means = normal(key, MEANS, (self.states, self.actions), dtype=self.dtype)
        shape = (self.states, self.actions, self.states)
        return {"mean": mean + deviation * means, "transition": dirichlet(key, TRANSITIONS, shape, dtype=self.dtype)}

    def reset(self, task: Task, key: Tensor) -> tuple[State, Tensor]:
        """State 0: int64 []."""
        state = torch.zeros((), dtype=torch.int64, device=self.device)
        return state, self.observe(state)

    def step(self, task: Task, state: Tensor, action: Tensor, key: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        """The reward of `action`, int64 [], and the state after it."""
        place = state * self.actions + action
        mean = task["mean"].flatten().index_select(0, place[None])[0]
        after = task["transition"].flatten(0, 1).index_select(0, place[None])[0]  # [states]
        reward = mean + self.noise * normal(key, REWARD, (), dtype=self.dtype)
        u = uniform(key, NEXT, (), dtype=self.dtype)
        # The first state whose cumulative probability is above u; rounding may leave the last one below it.
        state = (after.cumsum(0)[:-1] <= u).sum()
        return state, self.observe(state), reward, torch.zeros((), dtype=torch.bool, device=self.device)

    def observe(self, state: Tensor) -> Tensor:
        """int64 [] -> one-hot [states]."""
        return (torch.arange(self.states, device=self.device) == state).to(self.dtype)

    # -- one who knows the task ----------------------------------------------------------------------------------------

    def solve(self, mean: Tensor, transition: Tensor) -> tuple[Tensor, Tensor]:
        """Value iteration over the horizon, for any leading dimensions.

        Args:
            mean: of the rewards, [*, states, actions].
            transition: probabilities of the next state, [*, states, actions, states].

        Returns:
            (the best action by step and state, int64 [*, horizon, states]; the return of an episode by its first state,
            [*, states])
        """
        value = torch.zeros_like(mean[..., 0])
        rows = []
        for _ in range(self.horizon):
            q = mean + (transition @ value[..., None, :, None])[..., 0]  # [*, states, actions]
            value, action = q.max(-1)
            rows.append(action)
        return torch.stack(rows[::-1], -2), value

    def best(self, task: Task) -> Tensor:
        """The return of the best policy in all episodes."""
        return self.episodes * self.solve(task["mean"], task["transition"])[1][0]

    def plan(self, task: Task) -> tuple[Tensor, tuple[()]]:
        """The best policy: int64 [horizon, states]."""
        return self.solve(task["mean"], task["transition"])[0], ()

    def informed(
        self, task: Task, plan: Tensor, memory: tuple[()], seen: TimeStep, t: Tensor
    ) -> tuple[Tensor, tuple[()]]:
        """What the best policy does in the state that is seen, at step t of the episode."""
        return self.act_by(plan, seen, t), memory

    def act_by(self, policy: Tensor, seen: TimeStep, t: Tensor) -> Tensor:
        """The action, int64 [], of a policy [horizon, states] in the state that is seen, at step t of the episode."""
        place = t.clamp(0, self.horizon - 1) * self.states + seen.observation.argmax()
        return policy.flatten().index_select(0, place[None])[0]
