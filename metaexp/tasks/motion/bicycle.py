"""A car as a kinematic bicycle."""

import torch
from torch import Tensor

from metaexp.random import uniform
from metaexp.tasks.motion.system import Parameters, System


class Bicycle(System):
    """A car of constant speed, whose wheels do not slip, steered by commands that arrive late.

        heading' = speed * tan(steer) / wheelbase,   steer = gain * (the command of `delay` steps before)

    for the middle of the rear axle ("Kinematic and Dynamic Vehicle Models for Autonomous Driving Control Design", Kong,
    Pfeiffer, Schildbach, Borrelli, 2015, with the reference point there): wheelbase in m, gain in rad for command 1,
    commands in [-1, 1], steps of 0.1 s. The steering angle is constant within a step, so the path of a step is an arc
    of radius wheelbase / tan(steer), which is computed exactly.

    A state holds the last four commands, so that the next state depends on state and action only.
    """

    dt = 0.1
    past = 4
    ranges = {"wheelbase": (2.0, 4.0), "gain": (0.1, 0.3), "delay": (0.0, 5.0)}
    before = tuple(f"command {late} before" for late in (4, 3, 2, 1))
    state_names = ("x [m]", "y [m]", "heading [rad]", "speed [m/s]", *before)
    action_names = ("command",)
    input_names = ("speed [5 m/s]", *before, "command")
    target_names = ("forward [0.5 m]", "to the left [0.02 m]", "heading [0.05 rad]")
    rates = (0.05, 0.8)
    place_unit = "m"
    curves, curve_name = (), "y [m]"
    speed_unit, units = 5.0, (0.5, 0.02, 0.05)

    def completed(self, drawn: Parameters) -> Parameters:
        """The delay as a whole number of steps, 0 to 4."""
        return drawn | {"delay": drawn["delay"].floor()}

    def start(self, key: Tensor, past: Tensor) -> Tensor:
        """At the origin, heading along x, speed ~ U[3, 8] m/s."""
        speed = uniform(key, 0, (), 3.0, 8.0, dtype=past.dtype)
        zero = torch.zeros_like(speed)
        return torch.cat((torch.stack((zero, zero, zero, speed), -1), past[..., 0]), -1)

    def steer(self, task: Parameters, commands: Tensor) -> Tensor:
        """The steering angle, rad, of the commands of 4, 3, 2, 1 and 0 steps before [*, 5]."""
        late = torch.arange(self.past, -1, -1, dtype=commands.dtype, device=commands.device)  # [5]
        chosen = (late == task["delay"].unsqueeze(-1)).to(commands.dtype)
        return task["gain"] * (chosen * commands).sum(-1)

    def turn(self, task: Parameters, commands: Tensor) -> Tensor:
        """The curvature of the path, 1/m, of these commands [*, 5]."""
        return torch.tan(self.steer(task, commands)) / task["wheelbase"]

    def step(self, task: Parameters, state: Tensor, action: Tensor) -> Tensor:
        """State [*, 8], action [*, 1]."""
        commands = torch.cat((state[..., 4:], action.clamp(-1.0, 1.0)), -1)
        return self._arc(state, self.dt * state[..., 3], self.turn(task, commands), commands)

    def _arc(self, state: Tensor, distance: Tensor, curvature: Tensor, commands: Tensor) -> Tensor:
        x, y, heading, speed = state[..., :4].unbind(-1)
        angle = distance * curvature
        chord = distance * torch.sinc(angle / (2 * torch.pi))  # of the arc; sinc(a) = sin(pi a) / (pi a)
        towards = heading + angle / 2
        ahead = (x + chord * torch.cos(towards), y + chord * torch.sin(towards), heading + angle, speed)
        return torch.cat((torch.stack(ahead, -1), commands[..., 1:]), -1)

    def inputs(self, state: Tensor, action: Tensor) -> Tensor:
        """[*, 6]; place and heading play no part."""
        return torch.cat((state[..., 3:4] / self.speed_unit, state[..., 4:], action.clamp(-1.0, 1.0)), -1)

    def state_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[*, 6] -> state [*, 8] at the origin, action [*, 1]."""
        zeros = torch.zeros_like(x[..., :3])
        return torch.cat((zeros, x[..., :1] * self.speed_unit, x[..., 1:5]), -1), x[..., 5:]

    def change(self, state: Tensor, after: Tensor) -> Tensor:
        """[*, 3], in the frame of the car before the step."""
        east, north, turned = (after - state)[..., :3].unbind(-1)
        cos, sin = torch.cos(state[..., 2]), torch.sin(state[..., 2])
        moved = torch.stack((cos * east + sin * north, cos * north - sin * east, turned), -1)
        return moved / after.new_tensor(self.units)

    def moved(self, state: Tensor, action: Tensor, change: Tensor) -> Tensor:
        """The heading changes by at most 1 rad in a step, the place by at most 2 m in each direction."""
        limits = change.new_tensor((2.0, 2.0, 1.0))
        forward, left, turned = (change * change.new_tensor(self.units)).clamp(-limits, limits).unbind(-1)
        x, y, heading, speed = state[..., :4].unbind(-1)
        cos, sin = torch.cos(heading), torch.sin(heading)
        ahead = (x + cos * forward - sin * left, y + sin * forward + cos * left, heading + turned, speed)
        return torch.cat((torch.stack(ahead, -1), state[..., 5:], action.clamp(-1.0, 1.0)), -1)

    def place(self, task: Parameters, state: Tensor) -> Tensor:
        """The middle of the rear axle, m."""
        return state[..., :2]
