"""A car that has to stay in a lane, with steering that it does not know."""

from typing import Any

import torch
from torch import Tensor

from metaexp.constraints import Count, Positive, checked
from metaexp.random import fold, uniform
from metaexp.tasks.motion.bicycle import Bicycle
from metaexp.tasks.world import State, Task, TimeStep, Trajectory, World

HALF_WIDTH = 1.75  # of the lane, m
HEADING_UNIT, BEND_UNIT = 0.2, 0.02  # of the observation, rad and 1/m
AHEAD = (0.0, 5.0, 10.0, 15.0, 20.0)  # m ahead at which the bend of the lane is seen
WAVES = 3  # sines of which the bend is the sum
FREQUENCY = 4.0  # of the planner's closed loop, 1/s


class Driving(World):
    """Keep a car of constant speed in the middle of a curved lane; wheelbase, steering gain and delay differ.

    The car is the kinematic bicycle of `metaexp.tasks.motion.bicycle` (ranges there), in coordinates of the lane: the
    distance s along its middle, the offset e to the left of it and the heading h against it,

        s' = speed cos h / (1 - bend(s) e),   e' = speed sin h,   h' = speed tan(steer) / wheelbase - bend(s) s'

    ("A Stable Tracking Control Method for an Autonomous Mobile Robot", Kanayama, Kimura, Miyazaki, Noguchi, 1990, for a
    curved path), with one Runge-Kutta step of order 4 for each 0.1 s. The bend of the lane, 1 / radius, is the sum of
    three sines of wavelengths 30 to 120 m with heights of 0.002 to 0.0065 1/m, drawn for each task: at most 0.0195 1/m,
    which the least agile car can follow.

    The observation is e / 1.75 m, h / 0.2 rad and the bend 0, 5, 10, 15 and 20 m ahead / 0.02 1/m; the action the
    steering command, [-1, 1]. An episode begins at s = 0 with e within 0.5 m and h within 0.1 rad, and ends where the
    car leaves the lane, |e| > 1.75 m. The reward of a step is 1 - (e / 1.75 m)^2, at least 0: 100 steps give at most
    100.

    Who knows the task (`informed`) computes where the car will be when a command given now takes effect, and there asks
    for the bend of the lane plus a critically damped correction of offset and heading. Anybody else who uses that
    planner with the parameters in the middle of their ranges is `nominal`.

    Args:
        speed: of the car, m/s.
        horizon, episodes, seed, eval_seed: see `World`.
    """

    x_shape = (2 + len(AHEAD),)
    action_dim = 1

    @checked
    def __init__(
        self, speed: Positive = 10.0, horizon: Count = 100, episodes: Count = 2, seed: int = 0, eval_seed: int = 0
    ):
        super().__init__(horizon, episodes, seed, eval_seed)
        self.speed, self.system = speed, Bicycle()
        self.protocol = {**self.protocol, "speed": speed}

    def draw(self, key: Tensor) -> Task:
        """wheelbase [m], gain [rad], delay [steps], each [*tasks]; height, rate, phase of the lane [*tasks, 3]."""
        lane = fold(key, 1)
        height = uniform(lane, 0, (WAVES,), 0.002, 0.0065, dtype=self.dtype)
        rate = 2 * torch.pi * uniform(lane, 1, (WAVES,), 1 / 120, 1 / 30, dtype=self.dtype)
        phase = uniform(lane, 2, (WAVES,), 0.0, 2 * torch.pi, dtype=self.dtype)
        return self.system.draw(key, self.dtype) | {"height": height, "rate": rate, "phase": phase}

    def nominal(self, task: Task) -> Task:
        """The same lane with a car in the middle of the ranges."""
        return task | self.system.nominal(self.dtype, self.device)

    def bend(self, task: Task, s: Tensor) -> Tensor:
        """The curvature of the lane at the distances s [*], 1/m."""
        waves = task["height"] * torch.sin(task["rate"] * s[..., None] + task["phase"])
        return waves.sum(-1)

    def reset(self, task: Task, key: Tensor) -> tuple[State, Tensor]:
        """At the beginning of the lane; the state is (s, e, h) and the last four commands, [7]."""
        e, h = uniform(key, 0, (2,), -1.0, 1.0, dtype=self.dtype).unbind()
        zero = torch.zeros_like(e)
        state = torch.stack((zero, 0.5 * e, 0.1 * h, *[zero] * self.system.past))
        return state, self._seen(task, state)

    def step(self, task: Task, state: State, action: Tensor, key: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        """One step of 0.1 s with the command action [1]."""
        state = self._moved(task, state, action)
        off = state[1] / HALF_WIDTH
        return state, self._seen(task, state), (1 - off**2).clamp(min=0.0), off.abs() > 1

    def _seen(self, task: Task, state: Tensor) -> Tensor:
        ahead = torch.tensor(AHEAD, dtype=self.dtype, device=self.device)
        own = torch.stack((state[1] / HALF_WIDTH, state[2] / HEADING_UNIT))
        return torch.cat((own, self.bend(task, state[0] + ahead) / BEND_UNIT))

    def _moved(self, task: Task, state: Tensor, action: Tensor) -> Tensor:
        """The state [7] one step later."""
        commands = torch.cat((state[3:], action.clamp(-1.0, 1.0)))
        turn = self.system.turn(task, commands)

        def rate(place: Tensor) -> Tensor:  # (s, e, h) -> their rates of change
            s, e, h = place.unbind()
            bend = self.bend(task, s)
            along = self.speed * torch.cos(h) / (1 - bend * e).clamp(min=0.1)
            return torch.stack((along, self.speed * torch.sin(h), self.speed * turn - bend * along))

        place, dt = state[:3], self.system.dt
        k1 = rate(place)
        k2 = rate(place + dt / 2 * k1)
        k3 = rate(place + dt / 2 * k2)
        k4 = rate(place + dt * k3)
        return torch.cat((place + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4), commands[1:]))

    # -- who knows the task ------------------------------------------------------------------------------------------

    def plan(self, task: Task) -> tuple[Any, Tensor]:
        """No plan; the memory is the distance s and the last four commands, [5]."""
        return (), torch.zeros(1 + self.system.past, dtype=self.dtype, device=self.device)

    def informed(self, task: Task, plan: Any, memory: Tensor, seen: TimeStep, t: Tensor) -> tuple[Tensor, Tensor]:
        """Steer for where the car will be when the command takes effect."""
        memory = torch.where(seen.first, torch.zeros_like(memory), memory)
        own = seen.observation[:2] * seen.observation.new_tensor((HALF_WIDTH, HEADING_UNIT))
        now = torch.cat((memory[:1], own, memory[1:]))  # [7]
        there = now
        for late in range(self.system.past):  # what commands given before do until then
            moved = self._moved(task, there, torch.zeros_like(seen.action))
            there = torch.where(late < task["delay"], moved, there)
        s, e, h = there[:3].unbind()
        ease = FREQUENCY / self.speed  # 1/m
        wanted = self.bend(task, s + self.speed * self.system.dt / 2) - ease**2 * e - 2 * ease * h
        steer = torch.atan(wanted * task["wheelbase"])
        action = (steer / task["gain"]).clamp(-1.0, 1.0)[None]
        after = self._moved(task, now, action)
        return action, torch.cat((after[:1], after[3:]))

    def sketch(self, axes: Any, task: Task, trajectory: Trajectory) -> None:
        """The lane from above with the path of each episode; offsets and widths are drawn four times as large."""
        step = 0.5
        s = torch.arange(0.0, self.speed * self.system.dt * self.horizon * 1.05, step, dtype=task["height"].dtype)
        heading = step * self.bend(task, s).cumsum(0)
        x, y = step * torch.cos(heading).cumsum(0), step * torch.sin(heading).cumsum(0)

        def beside(offset: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
            return x[place] - 4 * offset * torch.sin(heading[place]), y[place] + 4 * offset * torch.cos(heading[place])

        every = torch.arange(len(s))
        for side, dashes in ((-1, "-"), (1, "-"), (0, ":")):
            axes.plot(
                *beside(side * HALF_WIDTH * torch.ones_like(s), every), color="#8C8C8C", linestyle=dashes, linewidth=1
            )
        for episode in range(self.episodes):
            rows = slice(episode * self.horizon, (episode + 1) * self.horizon)
            alive = trajectory.alive[rows]
            e = trajectory.seen.observation[rows][alive, 0] * HALF_WIDTH
            h = trajectory.seen.observation[rows][alive, 1] * HEADING_UNIT
            s_seen = torch.cat((torch.zeros(1), (self.speed * self.system.dt * torch.cos(h))[:-1].cumsum(0)))
            place = (s_seen / step).long().clamp(max=len(s) - 1)
            shade = 0.3 + 0.7 * (episode + 1) / self.episodes
            path = beside(e, place)
            axes.plot(*path, color="#0072B2", alpha=shade, linewidth=1.5)
            if not bool(alive.all()):
                axes.plot(path[0][-1], path[1][-1], "x", color="#D55E00", markersize=7)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set(xlabel="x [m], widths x 4", ylabel="y [m]")
