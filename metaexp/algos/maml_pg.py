"""Model-agnostic meta-learning of policies, by policy gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import vmap

from metaexp.algos import policy
from metaexp.algos.acting import ADAPT, ActingLearner
from metaexp.algos.base import ModelFactory
from metaexp.algos.credit import Baseline, advantages, left_out_mean, to_go
from metaexp.constraints import Count, Natural, Positive, Share, checked
from metaexp.inner import SGD, InnerOptimiser, Tree, descend
from metaexp.models.functional import predicted
from metaexp.random import fold
from metaexp.tasks.world import ACTION, Task, TimeStep, Trajectory, play
from metaexp.types import Episode

AFTER = 1 << 20  # folded into a batch's key: the trials after all inner steps

# (parameters, step) -> trials [n, ...] acted with them; step -1: those after all inner steps
Collect = Callable[[Tree, int], Trajectory]


class Attempt(NamedTuple):
    """What is left of one adaptation in ONE task; its gradients are those of both parts of the estimator."""

    after: Tensor  # [] log-probabilities of the later actions, each times its advantage: mean over trials
    score: Tensor  # [] log-probability of all that was done before and between the inner steps
    before: Tensor  # [] mean return of the trials before the first inner step
    returned: Tensor  # [] mean return of the trials after the last


class MAMLPG(ActingLearner):
    """MAML for policies: meta-learn a policy from which few policy-gradient steps lead to a good one in a new task.

    "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", Finn, Abbeel, Levine, 2017, algorithm 3. In a
    task, the policy of theta acts for `trials` trials D, and theta' = U(theta, D) is one gradient step on the mean over
    the steps of D of -log pi_theta(a|s) A(D), where the advantages A are numbers made of D alone. With more inner steps
    each has a batch of its own, acted with the policy of that moment. The objective is the expected return afterwards,

        J(theta) = E over D ~ pi_theta of  E over D' ~ pi_theta'  of R(D').

    D depends on theta, too, so the gradient has two terms (Al-Shedivat et al. 2018, "Continuous adaptation via
    meta-learning in nonstationary and competitive environments", eq. 8; Stadie et al. 2018, "Some considerations on
    learning to explore via meta-reinforcement learning"; Rothfuss et al. 2019, "ProMP", eq. 3):

        E[ grad log pi_theta'(D') R(D')  +  grad log pi_theta(D) R(D') ],   the first through theta' = U(theta, D).

    They are the gradient of the surrogate `after + score * (R(D') - b)`, whose second factor is a constant, as the
    numbers in `after` are (Foerster et al. 2018, "DiCE", writes such surrogates in general). Baselines are unbiased:
    in `after` an action counts with its return to go less what the other trials of D' say about it; b is the return of
    the task's other, independent adaptations (`batches`), 0 if there are none.

    Differs from the authors' code: that leaves out the second term (`score_before=false` does) and takes trust region
    steps; here the outer optimiser follows the gradient. Inner advantages come from a baseline fitted to the other
    trials, not to the trial itself.

    Args:
        inner_lr, inner_steps: of the inner loop at training; 0 steps train one policy for all tasks together.
        test_lr, test_steps: of the inner loop at validation and test; None takes the training value.
        trials: trials of each inner step.
        outer_trials: trials after the last step at training.
        batches: independent adaptations in each training task.
        baseline: of the returns to go, inside and outside; see `metaexp.algos.credit`.
        discount: of the rewards in the inner advantages; the objective is the plain return.
        normalise: whether the inner advantages are brought to mean 0 and deviation 1.
        score_before: whether the outer gradient has the term of the trials before the inner steps; without it the
            gradient is not that of J.
        first_order: inner gradients count as constants.
        inner: the inner optimiser.
        std: initial standard deviation of actions that are vectors, in units of the largest action; it is learned, and
            adapted.

    Raises:
        ValueError: a setting out of range.
    """

    exact_gradient = False  # the loss is a sample; its gradient is right in expectation

    @checked
    def __init__(
        self,
        family: Any,
        model: ModelFactory | nn.Module,
        inner_lr: Positive = 0.1,
        inner_steps: Natural = 1,
        test_steps: Natural | None = None,
        test_lr: Positive | None = None,
        trials: Count = 20,
        outer_trials: Count = 20,
        batches: Count = 2,
        baseline: Baseline = "linear",
        discount: Share = 0.99,
        normalise: bool = True,
        score_before: bool = True,
        first_order: bool = False,
        inner: InnerOptimiser = SGD(),
        std: Positive = 1.0,
        loss: Any = None,
        mapping: str | int = "auto",
    ):
        super().__init__(family, model, loss, mapping)
        self.inner_lr, self.inner_steps = inner_lr, inner_steps
        self.test_lr = inner_lr if test_lr is None else test_lr
        self.test_steps = inner_steps if test_steps is None else test_steps
        self.trials, self.outer_trials, self.batches = trials, outer_trials, batches
        self.baseline, self.discount, self.normalise = baseline, discount, normalise
        self.score_before, self.first_order, self.inner = score_before, first_order, inner
        self.log_std = None
        if family.actions is None:
            self.log_std = nn.Parameter(torch.full((family.action_dim,), std).log())

    @property
    def chunk(self) -> int:  # type: ignore[override]
        """Tasks tested at once: in each of them, `trials` trials are acted at the same time."""
        return max(1, super().chunk // self.trials)

    # -- the policy --------------------------------------------------------------------------------------------------

    def initial(self) -> Tree:
        """What the inner loop adapts: the network's parameters, and `log_std` of a policy over vectors."""
        return dict(self.meta_parameters())

    def output(self, params: Tree, observation: Tensor) -> Tensor:
        """[n, *x_shape] -> [n, actions] logits, or [n, action_dim] means."""
        own = {name.removeprefix("model."): p for name, p in params.items() if name.startswith("model.")}
        return predicted(self.model, own, observation)

    def act(self, adapted: Tree, memory: Any, seen: TimeStep, key: Tensor) -> tuple[Tensor, Any, Any]:
        """An action drawn from the policy, which remembers nothing."""
        return policy.draw(self.output(adapted, seen.observation[None])[0], adapted.get("log_std"), key), (), ()

    def log_prob(self, params: Tree, trials: Trajectory) -> Tensor:
        """Log-probabilities [n, steps] of the actions of n trials; 0 where idle."""
        seen = trials.seen.observation
        out = self.output(params, seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
        return policy.log_prob(out, params.get("log_std"), trials.action) * trials.alive

    def collect(self, params: Tree, task: Task, key: Tensor, trials: int) -> Trajectory:
        """Trials of ONE task, [trials, steps, ...], acted with the parameters; without a graph."""
        fixed = {name: p.detach() for name, p in params.items()}
        log_std, discrete = fixed.get("log_std"), self.log_std is None
        times = torch.arange(self.family.steps, device=key.device)

        def one(key: Tensor) -> Trajectory:
            # As `trial` does, but what is random in its actions is drawn for all steps at once.
            drawn = policy.noise(fold(fold(key, ACTION), times), self.family.y_dim, discrete, self.family.dtype)
            steps = iter(drawn.unbind(0))

            def act(memory: Any, seen: TimeStep, _: Tensor) -> tuple[Tensor, Any, Any]:
                out = self.output(fixed, seen.observation[None])[0]
                return policy.chosen(out, log_std, next(steps)), (), ()

            return play(self.family, task, key, act, ())

        with torch.no_grad():
            return vmap(one)(fold(key, torch.arange(trials, device=key.device)))

    # -- the inner loop ----------------------------------------------------------------------------------------------

    def credit(self, trials: Trajectory, inner: bool) -> Tensor:
        """What each action of n trials is credited with, [n, steps]: inside the inner loop, or in the objective."""
        horizon, discount = self.family.horizon, self.discount if inner else 1.0
        gain = to_go(trials.reward, horizon, discount)
        seen, alive = trials.seen.observation, trials.alive
        return advantages(gain, seen, alive, horizon, self.baseline, inner and self.normalise)

    def inner_loss(self, params: Tree, trials: Trajectory) -> Tensor:
        """Minus the mean over steps of log-probability times advantage, []."""
        weighted = self.log_prob(params, trials) * self.credit(trials, inner=True)
        return -weighted.sum() / trials.alive.sum().clamp(min=1)

    def descent(
        self, start: Tree, collect: Collect, steps: int, lr: float, first_order: bool
    ) -> tuple[list[Tree], list[Trajectory]]:
        """(parameters after 0, 1, ..., steps inner steps, the trials of each step)."""
        path, seen, state = [start], [], self.inner.init(start)
        for step in range(steps):
            trials = collect(path[-1], step)

            def loss(params: Tree, _: int, trials: Trajectory = trials) -> Tensor:
                return self.inner_loss(params, trials)

            made = descend(loss, path[-1], self.inner, lr, 1, first_order, state)
            state = made.state
            path.append(made.path[-1])
            seen.append(trials)
        return path, seen

    def policies(self, episode: Episode) -> list[Tree]:
        """The parameters after 0, 1, ..., test_steps steps on trials of their own in the task."""
        collect = self._collector(episode.info, fold(fold(episode.key, ADAPT), 0))
        start = {name: p.detach() for name, p in self.initial().items()}
        return self.descent(start, collect, self.test_steps, self.test_lr, first_order=True)[0]

    def _collector(self, task: Task, key: Tensor) -> Collect:
        def collect(params: Tree, step: int) -> Trajectory:
            number = self.outer_trials if step < 0 else self.trials
            return self.collect(params, task, fold(key, AFTER if step < 0 else step), number)

        return collect

    # -- the objective -----------------------------------------------------------------------------------------------

    def attempt(self, start: Tree, collect: Collect) -> Attempt:
        """One adaptation in ONE task, from the parameters `start`."""
        path, seen = self.descent(start, collect, self.inner_steps, self.inner_lr, self.first_order)
        later = collect(path[-1], -1)
        after = (self.log_prob(path[-1], later) * self.credit(later, inner=False)).sum() / len(later.reward)
        returned = later.reward.sum() / len(later.reward)
        before = seen[0].reward.sum() / len(seen[0].reward) if seen else returned
        scores = [self.log_prob(params, trials).sum() for params, trials in zip(path, seen, strict=False)]
        return Attempt(after, sum(scores, torch.zeros_like(after)), before, returned)

    def objective(self, attempts: Attempt) -> Tensor:
        """Independent adaptations in ONE task, [batches] each -> [], whose value is their mean return, and whose
        gradient estimates that of J."""
        credit = attempts.returned if self.baseline == "none" else attempts.returned - left_out_mean(attempts.returned)
        surrogate = attempts.after + (attempts.score * credit.detach() if self.score_before else 0)
        return (attempts.returned.detach() + surrogate - surrogate.detach()).mean()

    def meta_loss(self, episode: Episode) -> tuple[Tensor, dict[str, Any]]:
        """Minus the objective of one task, whose hidden parameters are drawn from its key; logs: returns."""
        task = {name: value[0] for name, value in self.family.draw(episode.key[None]).items()}
        keys = fold(fold(episode.key, ADAPT), torch.arange(self.batches, device=episode.key.device))
        start = self.initial()
        attempts = vmap(lambda key: self.attempt(start, self._collector(task, key)))(keys)
        logs = {"return": attempts.returned.mean(), "return_before": attempts.before.mean()}
        return -self.objective(attempts), logs
