"""A pendulum that has to be swung up by a motor too weak to lift it."""

from typing import Any

import torch
from torch import Tensor

from metaexp.constraints import Count, checked
from metaexp.random import uniform
from metaexp.tasks.motion import pendulum
from metaexp.tasks.world import State, Task, TimeStep, Trajectory, World

COST = 0.01  # of action 1, per step
LEADS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)  # seconds by which the planner looks ahead, of which it takes the best
EXCESS = 0.25  # energy above that of the upright at which it stops pushing, as a share of g / l
CATCH, REACH = 1.5, 1.2  # it catches where the gains ask for less than this action, within this angle in rad


class SwingUp(World):
    """A pendulum hangs and is to be swung up and held, with a motor that holds 0.3 to 0.7 of its weight.

    Mass, length, friction and gain differ between tasks; equations, ranges and the integrator are those of
    `metaexp.tasks.motion.pendulum`. The observation is (cos, sin, speed / 5 rad/s) with the angle from the upright, the
    action the torque in units of the gain, [-1, 1]. An episode begins within 0.1 rad of hanging, at up to 0.1 rad/s.
    The reward of a step of 0.05 s is the height of the mass after it, 0 hanging and 1 upright, minus 0.01 times the
    squared action: an episode of 100 steps gives less than 100.

    Who knows the task (`informed`) pumps energy into the pendulum until it has that of the upright ("Swinging up a
    pendulum by energy control", Astrom, Furuta, 2000), pushing in the direction of the speed that it will soon have
    (which of six leads is best it finds by simulation), and holds it with the gains of the linear-quadratic regulator
    for the discrete-time equations and this reward. That is a good controller, not a proven optimum.

    Args:
        horizon, episodes, seed, eval_seed: see `World`.
    """

    x_shape = (3,)
    action_dim = 1

    @checked
    def __init__(self, horizon: Count = 100, episodes: Count = 2, seed: int = 0, eval_seed: int = 0):
        super().__init__(horizon, episodes, seed, eval_seed)
        self.system = pendulum.Pendulum()

    def draw(self, key: Tensor) -> Task:
        """mass [kg], length [m], friction [N m s], gain [N m], each [*tasks]."""
        return self.system.draw(key, self.dtype)

    def nominal(self, task: Task) -> Task:
        """The parameters in the middle of their ranges, whatever the task."""
        return self.system.nominal(self.dtype, self.device)

    def reset(self, task: Task, key: Tensor) -> tuple[State, Tensor]:
        """Hanging, nearly at rest; the state is (angle, speed)."""
        state = 0.1 * uniform(key, 0, (2,), -1.0, 1.0, dtype=self.dtype) + self._hanging()
        return state, self._seen(state)

    def step(self, task: Task, state: State, action: Tensor, key: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        """One step of 0.05 s with the torque action [1]."""
        state = self.system.step(task, state, action)
        return state, self._seen(state), self._reward(state, action), torch.zeros_like(state[0], dtype=torch.bool)

    def _hanging(self) -> Tensor:
        return torch.tensor((torch.pi, 0.0), dtype=self.dtype, device=self.device)

    def _seen(self, state: Tensor) -> Tensor:
        return torch.stack((torch.cos(state[0]), torch.sin(state[0]), state[1] / self.system.speed_unit))

    def _reward(self, state: Tensor, action: Tensor) -> Tensor:
        """Of states [*, 2] after the actions [*, 1]: [*]."""
        return (1 + torch.cos(state[..., 0])) / 2 - COST * action[..., 0].clamp(-1.0, 1.0) ** 2

    # -- who knows the task ------------------------------------------------------------------------------------------

    def plan(self, task: Task) -> tuple[tuple[Tensor, Tensor], Any]:
        """The gains of the regulator [2], and the lead [] that is best from hanging, by simulating an episode each."""
        gains = self._gains(task)
        leads = torch.tensor(LEADS, dtype=self.dtype, device=self.device)
        start = torch.tensor(((-0.07, 0.05), (0.07, 0.05), (0.0, -0.07)), dtype=self.dtype, device=self.device)
        state = (self._hanging() + start)[:, None].expand(-1, len(LEADS), -1)  # [starts, leads, 2]
        total = torch.zeros_like(state[..., 0])
        for _ in range(self.horizon):
            action = self._control(task, gains, leads, state)[..., None]
            state = self.system.step(task, state, action)
            total = total + self._reward(state, action)
        return (gains, leads[total.sum(0).argmax()]), ()

    def informed(self, task: Task, plan: Any, memory: Any, seen: TimeStep, t: Tensor) -> tuple[Tensor, Any]:
        """Pump, then catch and hold."""
        cos, sin, speed = seen.observation.unbind()
        state = torch.stack((torch.atan2(sin, cos), speed * self.system.speed_unit))
        gains, lead = plan
        return self._control(task, gains, lead, state)[None], memory

    def _gains(self, task: Task) -> Tensor:
        """Riccati's recursion about the upright, where the step is linear: action = -gains . (angle, speed), [2]."""
        dt, (pull, drag, push) = self.system.dt, self.system.coefficients(task).unbind(-1)
        faster, slower = torch.stack((dt * pull, 1 - dt * drag)), torch.stack((torch.zeros_like(pull), dt * push))
        # The speed gains first, then the angle moves with the new speed.
        a = torch.stack((dt * faster, faster)) + torch.diag(torch.tensor((1.0, 0.0)).to(faster))
        b = torch.stack((dt * slower[1], slower[1]))  # [2]
        q = torch.diag(torch.tensor((0.25, 0.01)).to(a))  # 1 - height = angle^2 / 4; and a little for the speed
        p, gains = q, torch.zeros_like(b)
        for _ in range(200):
            gains = (b @ p @ a) / (COST + b @ p @ b)
            p = q + a.T @ p @ (a - b[:, None] * gains)
        return gains

    def _control(self, task: Task, gains: Tensor, lead: Tensor, state: Tensor) -> Tensor:
        """The action [*] in states [*, 2], with leads [*]."""
        pull = self.system.coefficients(task)[..., 0]
        angle = torch.remainder(state[..., 0] + torch.pi, 2 * torch.pi) - torch.pi
        speed = state[..., 1]
        hold = -(gains[0] * angle + gains[1] * speed)
        lacking = 1 + EXCESS - (speed**2 / (2 * pull) + torch.cos(angle))  # energy in units of m g l
        soon = speed + lead * pull * torch.sin(angle)
        pump = (10 * lacking).clamp(-1.0, 1.0) * torch.where(soon < 0, -1.0, 1.0)
        near = (hold.abs() < CATCH) & (angle.abs() < REACH)
        return torch.where(near, hold.clamp(-1.0, 1.0), pump)

    def sketch(self, axes: Any, task: Task, trajectory: Trajectory) -> None:
        """The angle from the upright against time, an episode each, later ones darker; inset: speed against angle."""
        inset = axes.inset_axes((0.66, 0.7, 0.34, 0.3))
        turn, seen = 2 * torch.pi, [torch.zeros(1)]
        for episode in range(self.episodes):
            rows = slice(episode * self.horizon, (episode + 1) * self.horizon)
            cos, sin, speed = trajectory.seen.observation[rows].T
            angle = torch.remainder(torch.atan2(sin, cos), turn)  # the hanging pendulum is at pi
            jumps = torch.cat((torch.zeros(1), torch.round(angle.diff() / turn)))
            angle = angle - turn * jumps.cumsum(0)
            shade = 0.3 + 0.7 * (episode + 1) / self.episodes
            axes.plot(self.system.dt * torch.arange(len(angle)), angle, color="#0072B2", alpha=shade, linewidth=1.5)
            inset.plot(angle, speed * self.system.speed_unit, color="#0072B2", alpha=shade, linewidth=0.8)
            seen.append(angle)
        low, high = torch.cat(seen).min(), torch.cat(seen).max()
        for upright in range(int(low / turn) - 1, int(high / turn) + 2):
            axes.axhline(turn * upright, color="#009E73", linewidth=1, linestyle=":")
        axes.set(xlabel="time [s]", ylabel="angle [rad]", ylim=(float(low) - 0.3, max(float(high), 6.4) + 3.2))
        inset.set(xticks=(), yticks=())
        inset.set_xlabel("angle", fontsize=8, labelpad=1)
        inset.set_ylabel("speed", fontsize=8, labelpad=1)
