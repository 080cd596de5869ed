"""RL^2: a recurrent policy whose memory is what it learns within a task, trained by proximal policy optimisation."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from metaexp.algos.base import ModelFactory
from metaexp.algos.features import feature_size, remove_head
from metaexp.algos.policy import draw, entropy, log_prob
from metaexp.algos.rollouts import RolloutLearner
from metaexp.constraints import Count, NonNegative, Positive, Share, checked
from metaexp.models.functional import functional_call
from metaexp.models.gru import GRU
from metaexp.tasks.world import TimeStep, Trajectory, World
from metaexp.types import Episode


class Trials(NamedTuple):
    """Trials to learn from, [tasks, steps, ...] each; of ONE task without the first dimension."""

    key: Tensor  # int64 [tasks]
    seen: TimeStep
    action: Tensor  # what was done
    log_prob: Tensor  # its log-probability then
    advantage: Tensor
    target: Tensor  # the value of what is left of the trial, by the rewards that came
    weight: Tensor  # of a step: 0 where idle; mean over the tasks of the sum over steps: 1
    unit: Tensor  # [tasks] of the critic's squared error: the variance over the meta-batch of what it should have said


class RL2(RolloutLearner):
    """A GRU sees observation, last action, last reward and whether an episode begins, over the whole trial.

    "RL^2: Fast Reinforcement Learning via Slow Reinforcement Learning", Duan, Schulman, Chen, Bartlett, Sutskever,
    Abbeel, 2016: the memory is kept from episode to episode of a trial, and the policy is trained to maximise the sum
    of rewards over the trial. Differs from the paper in the optimiser: clipped policy gradients ("Proximal Policy
    Optimization Algorithms", Schulman et al. 2017, equations 7 and 9) in place of TRPO, with a critic on the same
    memory, generalised advantage estimation (Schulman et al. 2016, equation 16) over the whole trial, advantages with
    mean 0 and deviation 1 over the meta-batch, and a value loss in units of the returns' variance. Observations first
    pass `model` without its head. Idle steps count in neither loss.

    A memory that begins empty does not know how much of a trial is left, and in a long trial that is nearly all that
    the sum of later rewards depends on: the errors of a critic of that sum drown what an action is worth. With
    `values: pace` the critic tells the mean reward of a step that is left, each step weighted by its discount, and is
    multiplied by how many there are.

    Args:
        hidden: length of the memory.
        keep: how long the memory is kept: over the whole trial; over an episode, so that nothing is carried from one
            to the next; or not at all ("step"): one policy for all tasks, told neither its last action nor reward.
        discount, smoothing: gamma and lambda of the advantages.
        ratio: PPO's epsilon: how far the probability of an action may move with a gradient.
        entropy: weight of the policy's entropy in the objective.
        critic: weight of the critic's loss.
        values: what the critic tells: the discounted sum of later rewards ("total") or their mean per step ("pace").
        epochs, minibatches: of each outer step: times that every trial is used, and shares of the tasks for an update.

    Raises:
        ValueError: a setting out of range, or a network without `features` and `head`.
    """

    @checked
    def __init__(
        self,
        family: Any,
        model: ModelFactory | nn.Module,
        hidden: Count = 64,
        keep: Literal["trial", "episode", "step"] = "trial",
        discount: Share = 0.99,
        smoothing: Share = 0.9,
        ratio: Positive = 0.2,
        entropy: NonNegative = 0.01,
        critic: NonNegative = 0.5,
        values: Literal["total", "pace"] = "total",
        epochs: Count = 4,
        minibatches: Count = 4,
        loss: Any = None,
        mapping: str | int = "auto",
    ):
        super().__init__(family, model, loss, mapping)
        world: World = self.family
        remove_head(self.model, "RL2")
        self.keep, self.values = keep, values
        self.hidden, self.discount, self.smoothing, self.ratio = hidden, discount, smoothing, ratio
        self.entropy, self.critic, self.epochs, self.minibatches = entropy, critic, epochs, minibatches
        self.memory = GRU(feature_size(self.model, world.x_shape) + world.y_dim + 2, hidden)
        self.policy, self.value = nn.Linear(hidden, world.y_dim), nn.Linear(hidden, 1)
        self.log_std = nn.Parameter(torch.full((world.y_dim,), -0.5)) if world.actions is None else None
        with torch.no_grad():
            self.policy.weight.mul_(0.1)  # all actions begin nearly alike
            self.policy.bias.zero_()
            self.value.bias.zero_()

    # -- one step of ONE task ------------------------------------------------------------------------------------------

    def begin(self, adapted: Any) -> Tensor:
        """An empty memory, [hidden]."""
        return torch.zeros(self.hidden, dtype=self.family.dtype, device=self.family.device)

    def act(self, adapted: Any, memory: Tensor, seen: TimeStep, key: Tensor) -> tuple[Tensor, Tensor, Any]:
        """(action, memory [hidden], (log-probability of the action [], what the critic tells [])) of ONE step."""
        memory = self.memory(self.inputs(seen), self.kept(memory, seen.first))
        out = self.policy(memory)
        action = draw(out, self.log_std, key)
        return action, memory, (log_prob(out, self.log_std, action), self.value(memory)[0])

    def kept(self, memory: Tensor, first: Tensor) -> Tensor:
        """What is left of the memory [hidden] before a step; first: bool [], an episode begins."""
        if self.keep == "trial":
            return memory
        return torch.where(first, torch.zeros_like(memory), memory) if self.keep == "episode" else 0 * memory

    def inputs(self, seen: TimeStep) -> Tensor:
        """What the GRU is told, for any leading dimensions: [*, features + actions + 2]."""
        leading = seen.reward.shape
        observation = seen.observation.reshape(-1, *self.family.x_shape)
        features: Tensor = self.model.features(observation)  # type: ignore[operator]
        features = features.unflatten(0, leading) if leading else features[0]
        action = seen.action
        if self.family.actions is not None:
            action = (action[..., None] == torch.arange(self.family.actions, device=action.device)).to(features.dtype)
        told = torch.stack((seen.reward.to(features.dtype), seen.first.to(features.dtype)), -1)
        past = torch.cat((action.to(features.dtype), told), -1)
        return torch.cat((features, 0 * past if self.keep == "step" else past), -1)

    # -- learning from trials ----------------------------------------------------------------------------------------

    def collect(self, episode: Episode, play: Callable[[Episode], Trajectory] | None = None) -> Any:
        """One trial in every task of the meta-batch, with advantages and the critic's targets."""
        return self.judged(episode.key, (play or self.played)(episode))

    def judged(self, key: Tensor, made: Trajectory) -> tuple[Trials, dict[str, Tensor]]:
        """Trials [tasks, steps, ...] with advantages and targets, and logs; key: int64 [tasks]."""
        log_p, told = made.more  # [tasks, steps] each
        value = told * self.left(told)
        advantage = self.advantages(made.reward, value, made.alive)
        alive = made.alive.to(value.dtype)
        weight = alive / alive.sum(1).mean()  # mean over tasks of the sum over steps: 1
        share = weight / len(weight)
        centred = advantage - (share * advantage).sum()
        target = advantage + value
        left = self.left(target)
        error, unit = (share * (advantage / left) ** 2).sum(), _variance(share, target / left).clamp(min=1e-8)
        seen = {"return": made.reward.sum(1).mean(), "explained": 1 - error / unit}
        advantage = centred / (share * centred**2).sum().sqrt().clamp(min=1e-8)
        trials = Trials(key, made.seen, made.action, log_p, advantage, target, weight, unit.expand(len(weight)))
        return trials, seen

    def left(self, like: Tensor) -> Tensor:
        """The steps that are left before each step of a trial, later ones discounted: [steps]; ones for "total"."""
        if self.values == "total":
            return torch.ones_like(like[..., :1])
        steps = self.family.steps
        share = self.discount ** torch.arange(steps, dtype=like.dtype, device=like.device)
        return share.cumsum(0).flip(0)

    def advantages(self, reward: Tensor, value: Tensor, alive: Tensor) -> Tensor:
        """Generalised advantage estimates over whole trials, [tasks, steps] each; idle steps are passed over."""
        following, advantage = torch.zeros_like(value[:, 0]), torch.zeros_like(value[:, 0])
        rows = []
        for t in reversed(range(reward.shape[1])):
            error = reward[:, t] + self.discount * following - value[:, t]
            made = error + self.discount * self.smoothing * advantage
            advantage = torch.where(alive[:, t], made, advantage)
            following = torch.where(alive[:, t], value[:, t], following)
            rows.append(torch.where(alive[:, t], made, torch.zeros_like(made)))
        return torch.stack(rows[::-1], 1)

    def update_loss(self, trial: Trials) -> tuple[Tensor, dict[str, Any]]:
        """PPO's loss for ONE task's trial, with the memory run through its steps one by one."""
        inputs, memory, memories = self.inputs(trial.seen), self.begin(None), []
        for row, first in zip(inputs.unbind(0), trial.seen.first.unbind(0), strict=True):
            memory = self.memory(row, self.kept(memory, first))
            memories.append(memory)
        return self.objective(torch.stack(memories), trial)

    def objective(self, memories: Tensor, trial: Trials) -> tuple[Tensor, dict[str, Any]]:
        """The loss [*] and logs of trials [*, steps, ...] with these memories [*, steps, hidden]."""
        out, value = self.policy(memories), self.value(memories)[..., 0]  # [*, steps, actions], [*, steps]
        change = log_prob(out, self.log_std, trial.action) - trial.log_prob
        moved = change.exp()
        kept = moved.clamp(1 - self.ratio, 1 + self.ratio)
        gain = torch.minimum(moved * trial.advantage, kept * trial.advantage)
        spread = entropy(out, self.log_std)
        error = (value - trial.target / self.left(value)) ** 2 / trial.unit[..., None]
        told = {
            "policy_gain": gain,
            "critic_error": error,
            "entropy": spread,
            "kl": moved - 1 - change,
            "clipped": (moved - kept).ne(0).to(error.dtype),
        }
        means = {name: (trial.weight * term).sum(-1) for name, term in told.items()}
        loss = self.critic * means["critic_error"] - means["policy_gain"] - self.entropy * means["entropy"]
        return loss, {name: mean.detach() for name, mean in means.items()}

    def update_gradient(
        self, params: dict[str, Tensor], trials: Trials, buffers: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor, Any]:
        """The same numbers with the memories of all tasks computed at once, by `GRU.sequence`."""
        own = {name: p.detach().requires_grad_() for name, p in params.items()}
        with torch.enable_grad():
            tensors = {f"learner.{name}": value for name, value in (buffers | own).items()}
            losses, logs = functional_call(_BatchLoss(self), tensors, (trials,))
            loss = losses.mean()
            grads = torch.autograd.grad(loss, list(own.values()))
        return dict(zip(own, grads, strict=True)), loss.detach(), {name: log.mean(0) for name, log in logs.items()}

    def batch_loss(self, trials: Trials) -> tuple[Tensor, dict[str, Any]]:
        """The loss [tasks] and logs of all trials of a minibatch."""
        inputs = self.inputs(tree_map(lambda t: t.transpose(0, 1), trials.seen))  # [steps, tasks, ...]
        steps, tasks = inputs.shape[:2]
        span = {"trial": steps, "episode": self.family.horizon, "step": 1}[self.keep]  # steps of one memory
        # Spans stand beside each other: [span, spans * tasks, ...].
        beside = inputs.unflatten(0, (-1, span)).transpose(0, 1).flatten(1, 2)
        made = self.memory.sequence(beside, self.begin(None).expand(beside.shape[1], -1))
        memories = made.unflatten(1, (-1, tasks)).transpose(0, 1).flatten(0, 1).transpose(0, 1)
        return self.objective(memories, trials)


class _BatchLoss(nn.Module):
    # functional_call calls forward; this makes forward the loss of a minibatch.
    def __init__(self, learner: RL2):
        super().__init__()
        self.learner = learner

    def forward(self, trials: Trials) -> tuple[Tensor, dict[str, Any]]:
        return self.learner.batch_loss(trials)


def _variance(share: Tensor, values: Tensor) -> Tensor:
    """Variance [] of values with shares that sum to 1."""
    return (share * (values - (share * values).sum()) ** 2).sum()
