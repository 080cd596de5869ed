"""Posterior sampling in tabular Markov decision processes: a planner that knows the prior."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from metaexp.algos.acting import ActingLearner
from metaexp.constraints import checked
from metaexp.random import exponential, normal
from metaexp.tasks.mdp import MDP
from metaexp.tasks.world import TimeStep

MEANS, TRANSITIONS = 0, 1  # streams of a step's key


class Memory(NamedTuple):
    """What was seen in the trial of ONE task, and what is done in this episode."""

    moves: Tensor  # int64 [steps] (state, action, next state) as one number for every step so far; -1: not seen
    total: Tensor  # [states * actions] sums of rewards
    number: Tensor  # [states * actions] number of rewards
    policy: Tensor  # int64 [horizon, states]
    state: Tensor  # int64 [] the state before
    step: Tensor  # int64 [] of the trial
    t: Tensor  # int64 [] of the episode


class PSRL(ActingLearner):
    """Before each episode an MDP is drawn from the posterior, and its best policy is followed for the episode.

    "(More) Efficient Reinforcement Learning via Posterior Sampling", Osband, Russo, Van Roy, 2013, algorithm 1, with
    the prior from which the tasks are drawn: N(1, 1) for the means of rewards whose noise is known, and
    Dirichlet(1, ..., 1) for the transitions. The next state after the last step of an episode is not seen. With
    `planned: mean` the best policy for the posterior's means is followed instead, which never explores on purpose. No
    network, nothing to meta-train.

    Args:
        planned: "sample", an MDP drawn from the posterior, or "mean", that of the posterior's means.

    Raises:
        ValueError: a world that is no tabular MDP.
    """

    trains = False
    family: MDP

    @checked
    def __init__(
        self,
        family: Any,
        model: Any = None,
        planned: Literal["sample", "mean"] = "sample",
        loss: Any = None,
        mapping: str | int = "auto",
    ):
        super().__init__(family, nn.Identity(), loss, mapping)
        if not self.is_floor_of(family):
            raise ValueError(f"family: {type(self).__name__} plans in tabular MDPs (task=mdp), not in this world")
        self.planned = planned

    @staticmethod
    def is_floor_of(family: Any) -> bool:
        """Whether the world is a tabular MDP."""
        return hasattr(family, "solve")

    def begin(self, adapted: Any) -> Memory:
        """Nothing seen."""
        world = self.family
        device, pairs, zero = world.device, world.states * world.actions, torch.zeros((), dtype=torch.int64)
        return Memory(
            torch.full((world.steps,), -1, device=device),
            torch.zeros(pairs, dtype=world.dtype, device=device),
            torch.zeros(pairs, dtype=world.dtype, device=device),
            torch.zeros(world.horizon, world.states, dtype=torch.int64, device=device),
            *(zero.to(device),) * 3,
        )

    def act(self, adapted: Any, memory: Memory, seen: TimeStep, key: Tensor) -> tuple[Tensor, Memory, Any]:
        """What this episode's policy does, which is made when an episode begins."""
        world = self.family
        state, pair = seen.observation.argmax(), memory.state * world.actions + seen.action
        later = memory.step > 0  # there is a reward to learn from, and a move unless an episode begins
        here = (torch.arange(len(memory.total), device=pair.device) == pair) & later
        move = torch.where(later & ~seen.first, pair * world.states + state, torch.full_like(pair, -1))
        moves = torch.where(torch.arange(world.steps, device=pair.device) == memory.step - 1, move, memory.moves)
        total, count = memory.total + here * seen.reward, memory.number + here
        policy = torch.where(seen.first, world.solve(*self.planned_for(moves, total, count, key))[0], memory.policy)
        t = torch.where(seen.first, torch.zeros_like(memory.t), memory.t)
        action = world.act_by(policy, seen, t)
        return action, Memory(moves, total, count, policy, state, memory.step + 1, t + 1), ()

    def planned_for(self, moves: Tensor, total: Tensor, count: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """The MDP to plan for: means [states, actions] and transitions [states, actions, states].

        The posterior of the transitions is Dirichlet with parameters 1 + number of moves. An exponential number for
        each prior count and each move seen, added up and normalised, is a draw from it; ones give its mean.
        """
        world = self.family
        mean, deviation = world.prior
        precision = deviation**-2 + count * world.noise**-2
        means = (mean * deviation**-2 + total * world.noise**-2) / precision
        cells = len(total) * world.states
        weight = torch.ones(cells + len(moves), dtype=total.dtype, device=total.device)
        if self.planned == "sample":
            means = means + normal(key, MEANS, means.shape, dtype=total.dtype) * torch.rsqrt(precision)
            weight = exponential(key, TRANSITIONS, weight.shape, dtype=total.dtype)
        seen = torch.where(moves >= 0, weight[cells:], torch.zeros_like(weight[cells:]))
        weight = weight[:cells].scatter_add(0, moves.clamp(min=0), seen).view(-1, world.states)
        transition = weight / weight.sum(-1, keepdim=True)
        shape = (world.states, world.actions)
        return means.view(shape), transition.view(*shape, world.states)
