"""DPT: an in-context policy, pretrained with labels of the optimal action."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from metaexp.algos.acting import ADAPT, ActingLearner
from metaexp.algos.policy import draw, most_likely
from metaexp.constraints import Count, checked
from metaexp.mapping import map_tasks
from metaexp.models.causal import CausalTransformer
from metaexp.models.transformer import Memory
from metaexp.random import dirichlet, fold, integers
from metaexp.tasks.world import TimeStep, World, play
from metaexp.types import Episode, Examples

ARMS, SHARE, FAVOURITE, BEHAVIOUR = 0, 1, 2, 17  # streams of a task's behaviour, and what its key is folded with


class Context(NamedTuple):
    """What one has seen of ONE task before it acts."""

    memories: list[Memory]  # of the transformer
    before: Tensor  # [x] the observation before, flat
    step: Tensor  # int64 [] of the trial
    t: Tensor  # int64 [] of the episode


class DPT(ActingLearner):
    """A transformer is trained to predict the optimal action from a context of other actions in the same task.

    "Supervised Pretraining Can Learn In-Context Reinforcement Learning", Lee, Xie, Pacchiano, Chandak, Finn, Nachum,
    Brunskill, 2023, algorithm 1: contexts come from a behaviour policy, labels from a planner that knows the task
    (`World.informed`), the loss is the cross-entropy of the label after every prefix of the context. At test it acts
    online with its own context and draws actions from the predicted distribution, as posterior sampling would.
    Differs from the paper in that the queries are the states which the behaviour policy meets next, that a token holds
    a whole transition (observation, action, reward, next observation, whether an episode begins, and the share of the
    episode that is over, as optimal actions depend on it), and that there is no positional encoding.

    Args:
        width, heads, layers: of the transformer, see `metaexp.models.causal.CausalTransformer`.
        behaviour: "mixed": in each task one distribution over actions, a mixture of a draw from Dirichlet(1, ..., 1)
            and of one favourite action, as in the paper's bandits; "uniform": all actions alike.
        acting: at test, "sample" an action from the prediction, or take the most "likely".

    Raises:
        ValueError: a setting out of range, or a world with continuous actions or without a planner.
    """

    @checked
    def __init__(
        self,
        family: Any,
        model: Any = None,
        width: Count = 32,
        heads: Count = 4,
        layers: Count = 4,
        behaviour: Literal["mixed", "uniform"] = "mixed",
        acting: Literal["sample", "likely"] = "sample",
        loss: Any = None,
        mapping: str | int = "auto",
    ):
        super().__init__(family, nn.Identity(), loss, mapping)
        world: World = self.family
        if world.actions is None or world.informed is None:
            raise ValueError(
                f"family: DPT learns which of several actions a planner takes that knows the task; "
                f"{type(world).__name__} has {'no such planner' if world.informed is None else 'action vectors'}"
            )
        self.behaviour, self.acting = behaviour, acting
        self.observed = int(torch.Size(world.x_shape).numel())
        self.embed = nn.Linear(2 * self.observed + world.actions + 3, width)
        self.transformer = CausalTransformer(width, heads, layers)
        self.answer = nn.Linear(width, world.actions)

    # -- acting in ONE task --------------------------------------------------------------------------------------------

    def begin(self, adapted: Any) -> Context:
        """An empty context."""
        world = self.family
        zero = torch.zeros((), dtype=torch.int64, device=world.device)
        before = torch.zeros(self.observed, dtype=world.dtype, device=world.device)
        return Context(self.transformer.begin(world.steps), before, zero, zero)

    def act(self, adapted: Any, memory: Context, seen: TimeStep, key: Tensor) -> tuple[Tensor, Context, Any]:
        """An action from the prediction for what is seen, after what was seen before."""
        t = torch.where(seen.first, torch.zeros_like(memory.t), memory.t)
        token = self.embed(self.token(seen, memory.before, memory.step, t))
        out, memories = self.transformer.step(token, memory.memories, memory.step)
        logits = self.answer(out)
        action = draw(logits, None, key) if self.acting == "sample" else most_likely(logits, None)
        return action, Context(memories, seen.observation.flatten(), memory.step + 1, t + 1), ()

    def token(self, seen: TimeStep, before: Tensor, step: Tensor, t: Tensor) -> Tensor:
        """The last transition and the state now: [2 x + actions + 3]."""
        dtype, actions = before.dtype, torch.arange(self.family.y_dim, device=before.device)
        action = ((seen.action == actions) & (step > 0)).to(dtype)
        told = torch.stack((seen.reward.to(dtype), seen.first.to(dtype), t.to(dtype) / self.family.horizon))
        return torch.cat((before, action, seen.observation.flatten().to(dtype), told))

    # -- pretraining -------------------------------------------------------------------------------------------------

    def train_batch(self, indices: Tensor) -> Episode:
        """Contexts of the behaviour policy as `query`: x tokens [tasks, steps, ...], y the optimal action, one-hot, or
        zeros where idle. They do not depend on the parameters."""
        key = self.family.keys("train", indices)
        none = torch.zeros(len(key), 0, dtype=self.family.dtype, device=key.device)
        x, y = map_tasks(lambda e: self.context(e.key), Episode(Examples(none, none), Examples(none, none), key, {}),
                         self.mapping)  # fmt: skip
        return Episode(Examples(x[:, :0], y[:, :0]), Examples(x, y), key, {})

    def context(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [steps, ...] and labels [steps, actions] of ONE task."""
        world = self.family
        task, chances = world.draw(key), self.chances(fold(key, BEHAVIOUR))

        def behave(memory: Any, seen: TimeStep, k: Tensor) -> tuple[Tensor, Any, Any]:
            before, step, t, planned = memory
            t = torch.where(seen.first, torch.zeros_like(t), t)
            label, planned = world.informed(task, plan, planned, seen, t)  # type: ignore[misc]
            more = (self.token(seen, before, step, t), label)
            return draw(chances, None, k), (seen.observation.flatten(), step + 1, t + 1, planned), more

        plan, planned = world.plan(task) if world.plan is not None else ((), ())
        zero = torch.zeros((), dtype=torch.int64, device=key.device)
        before = torch.zeros(self.observed, dtype=world.dtype, device=key.device)
        made = play(world, task, fold(key, ADAPT), behave, (before, zero, zero, planned))
        tokens, labels = made.more
        right = labels[:, None] == torch.arange(world.y_dim, device=key.device)
        return tokens, (right & made.alive[:, None]).to(world.dtype)

    def chances(self, key: Tensor) -> Tensor:
        """Logits [actions] of the behaviour policy in the task with this key."""
        actions, dtype = self.family.y_dim, self.family.dtype
        if self.behaviour == "uniform":
            return torch.zeros(actions, dtype=dtype, device=key.device)
        share = integers(key, SHARE, (), 11).to(dtype) / 10
        favourite = torch.arange(actions, device=key.device) == integers(key, FAVOURITE, (), actions)
        return torch.log((1 - share) * dirichlet(key, ARMS, (actions,), dtype) + share * favourite)

    def meta_loss(self, episode: Episode) -> tuple[Tensor, dict[str, Any]]:
        """Cross-entropy of the optimal action after every prefix of ONE task's context, mean over the steps."""
        tokens, right = episode.query  # [steps, ...], [steps, actions]
        logits = self.answer(self.transformer(self.embed(tokens)))
        count = right.sum().clamp(min=1)
        loss = -(right * torch.log_softmax(logits, -1)).sum() / count
        hits = right.gather(-1, logits.argmax(-1, keepdim=True)).sum() / count
        return loss, {"optimal_actions": hits.detach()}
