"""A pendulum on a motor."""

import torch
from torch import Tensor

from metaexp.random import uniform
from metaexp.tasks.motion.system import GRAVITY, SAMPLES, Parameters, System, least_squares, moments


class Pendulum(System):
    """A mass on a massless rod, turned by a motor that is too weak to lift it.

        m l^2 a = m g l sin(angle) - friction * speed + gain * action

    with the angle from the upright in radians (it may pass pi), m in kg, l in m, friction in
    N m s, gain in N m for action 1, g = 9.81 m/s^2. Integrated with semi-implicit Euler steps of 0.05 s, as in
    Gymnasium's Pendulum: the speed first, then the angle with the new speed. A step is thereby linear in the three
    coefficients g / l, friction / (m l^2) and gain / (m l^2): what least squares finds is exact, whatever the step.

    The gain is drawn as a share of the largest torque of gravity, m g l (`strength`), so that every task can be solved
    by swinging and none without.
    """

    dt = 0.05
    ranges = {"mass": (0.5, 1.5), "length": (0.6, 1.4), "friction": (0.0, 0.1), "strength": (0.3, 0.7)}
    state_names = ("angle from the upright [rad]", "speed [rad/s]")
    action_names = ("torque [gain]",)
    input_names = ("cos angle", "sin angle", "speed [5 rad/s]", "torque [gain]")
    target_names = ("angle [0.25 rad]", "speed [0.5 rad/s]")
    rates = (0.2, 2.0)
    place_unit = "lengths of the rod"
    curves, curve_name = (0,), "angle from the upright [rad]"
    fastest = 25.0  # rad/s
    speed_unit, units = 5.0, (0.25, 0.5)

    def completed(self, drawn: Parameters) -> Parameters:
        """With `gain`, the torque of action 1 in N m."""
        rest = {name: value for name, value in drawn.items() if name != "strength"}
        return rest | {"gain": drawn["strength"] * drawn["mass"] * GRAVITY * drawn["length"]}

    def start(self, key: Tensor, past: Tensor) -> Tensor:
        """Any angle, speed ~ U[-6, 6] rad/s."""
        share = uniform(key, 0, (2,), -1.0, 1.0, dtype=past.dtype)  # [*, 2]
        return share * share.new_tensor((torch.pi, 6.0))

    def coefficients(self, task: Parameters) -> Tensor:
        """g / l [1/s^2], friction / (m l^2) [1/s], gain / (m l^2) [1/s^2]: [*tasks, 3]."""
        inertia = task["mass"] * task["length"] ** 2
        return torch.stack((GRAVITY / task["length"], task["friction"] / inertia, task["gain"] / inertia), -1)

    def step(self, task: Parameters, state: Tensor, action: Tensor) -> Tensor:
        """State (angle, speed) [*, 2], action [*, 1]."""
        angle, speed = state.unbind(-1)
        pull, drag, push = self.coefficients(task).unbind(-1)
        torque = action[..., 0].clamp(-1.0, 1.0)
        speed = speed + self.dt * (pull * torch.sin(angle) - drag * speed + push * torque)
        return torch.stack((angle + self.dt * speed, speed), -1)

    def energy(self, task: Parameters, state: Tensor) -> Tensor:
        """Kinetic and potential energy in J; 0 where it hangs at rest, 2 m g l upright at rest."""
        angle, speed = state.unbind(-1)
        kinetic = task["mass"] * (task["length"] * speed) ** 2 / 2
        return kinetic + task["mass"] * GRAVITY * task["length"] * (1 + torch.cos(angle))

    def inputs(self, state: Tensor, action: Tensor) -> Tensor:
        """[*, 4]."""
        angle, speed = state.unbind(-1)
        torque = action[..., 0].clamp(-1.0, 1.0)
        return torch.stack((torch.cos(angle), torch.sin(angle), speed / self.speed_unit, torque), -1)

    def state_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[*, 4] -> state [*, 2], action [*, 1]."""
        return torch.stack((torch.atan2(x[..., 1], x[..., 0]), x[..., 2] * self.speed_unit), -1), x[..., 3:]

    def change(self, state: Tensor, after: Tensor) -> Tensor:
        """[*, 2]."""
        return (after - state) / after.new_tensor(self.units)

    def moved(self, state: Tensor, action: Tensor, change: Tensor) -> Tensor:
        """The speed is clipped to 25 rad/s."""
        angle, speed = (state + change * change.new_tensor(self.units)).unbind(-1)
        return torch.stack((angle, speed.clamp(-self.fastest, self.fastest)), -1)

    def place(self, task: Parameters, state: Tensor) -> Tensor:
        """The mass, in lengths of the rod."""
        return torch.stack((torch.sin(state[..., 0]), torch.cos(state[..., 0])), -1)

    # -- linear in its coefficients ----------------------------------------------------------------------------------

    def _rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs [k, 4] -> what multiplies the coefficients [k, 2, 3], and the change without them [k, 2]."""
        speed = x[:, 2] * self.speed_unit
        gained = self.dt * torch.stack((x[:, 1], -speed, x[:, 3]), -1)  # [k, 3] of the speed
        units = x.new_tensor(self.units)
        rows = torch.stack((self.dt * gained, gained), 1) / units[:, None]
        return rows, torch.stack((self.dt * speed, torch.zeros_like(speed)), -1) / units

    def solved(self, x: Tensor, y: Tensor, noise: float) -> Parameters:
        """Least squares for the three coefficients of ONE task, towards their mean over tasks."""
        rows, known = self._rows(x)
        keys = torch.arange(SAMPLES, device=x.device)
        prior = moments(self.coefficients(self.draw(keys, x.dtype)))
        return {"coefficients": least_squares(rows.flatten(0, 1), (y - known).flatten(), *prior, noise)}

    def predicted(self, coefficients: Parameters, x: Tensor) -> Tensor:
        """[m, 4] -> [m, 2]."""
        rows, known = self._rows(x)
        return (rows * coefficients["coefficients"]).sum(-1) + known
