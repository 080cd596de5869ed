"""An arm of two links."""

import torch
from torch import Tensor

from metaexp.random import uniform
from metaexp.tasks.motion.system import GRAVITY, SAMPLES, Parameters, System, least_squares, moments


class Arm(System):
    """Two massless links with a mass at the end of each, hanging in the vertical plane, with a motor at each joint.

        M(q) a + h(q, w) + gravity(q) + friction w = torque,   torque = 6 N m * action

    with q1 the angle of the first link from hanging, q2 that of the second against the first, w their speeds, a their
    accelerations; masses in kg, lengths in m, friction in N m s ("Robot Modeling and Control", Spong, Hutchinson,
    Vidyasagar, 2006, chapter 7, with all mass at the ends of the links):

        M = [[p1 + p2 + 2 p3 cos q2, p2 + p3 cos q2], [p2 + p3 cos q2, p2]]
        h = p3 sin q2 * (-2 w1 w2 - w2^2, w1^2)
        gravity = (p4 sin q1 + p5 sin(q1 + q2), p5 sin(q1 + q2))
        p1 = (m1 + m2) l1^2, p2 = m2 l2^2, p3 = m2 l1 l2, p4 = (m1 + m2) g l1, p5 = m2 g l2, p6 = friction

    Integrated with semi-implicit Euler steps of 0.02 s: speeds first, then angles with the new speeds. The change of
    the speeds over a step is thereby dt times the acceleration, and the torque is linear in the coefficients p: least
    squares finds them exactly, whatever the step ("Estimation of Inertial Parameters of Manipulator Loads and Links",
    Atkeson, An, Hollerbach, 1986).
    """

    dt = 0.02
    ranges = {
        "mass1": (0.5, 1.5), "mass2": (0.5, 1.5), "length1": (0.4, 0.8), "length2": (0.4, 0.8), "friction": (0.05, 0.4),
    }  # fmt: skip
    state_names = ("q1 [rad]", "q2 [rad]", "w1 [rad/s]", "w2 [rad/s]")
    action_names = ("torque 1 [6 N m]", "torque 2 [6 N m]")
    input_names = ("cos q1", "sin q1", "cos q2", "sin q2", "w1 [5 rad/s]", "w2 [5 rad/s]", *action_names)
    target_names = ("q1 [0.1 rad]", "q2 [0.1 rad]", "w1 [0.5 rad/s]", "w2 [0.5 rad/s]")
    rates = (0.5, 4.0)
    place_unit = "m"
    curves, curve_name = (0, 1), "q1, q2 [rad]"
    torque, fastest = 6.0, 80.0  # N m, rad/s
    speed_unit, units = 5.0, (0.1, 0.1, 0.5, 0.5)

    def start(self, key: Tensor, past: Tensor) -> Tensor:
        """Any angles, speeds ~ U[-4, 4] rad/s."""
        share = uniform(key, 0, (4,), -1.0, 1.0, dtype=past.dtype)
        return share * share.new_tensor((torch.pi, torch.pi, 4.0, 4.0))

    def coefficients(self, task: Parameters) -> Tensor:
        """p1 to p6, [*tasks, 6]."""
        both, m2, l1, l2 = task["mass1"] + task["mass2"], task["mass2"], task["length1"], task["length2"]
        inertia = (both * l1**2, m2 * l2**2, m2 * l1 * l2)
        return torch.stack((*inertia, both * GRAVITY * l1, m2 * GRAVITY * l2, task["friction"]), -1)

    def step(self, task: Parameters, state: Tensor, action: Tensor) -> Tensor:
        """State [*, 4], action [*, 2]."""
        q1, q2, w1, w2 = state.unbind(-1)
        trig = torch.cos(q2), torch.sin(q2), torch.sin(q1), torch.sin(q1 + q2)
        gained = self._gained(self.coefficients(task), *trig, w1, w2, action.clamp(-1.0, 1.0))
        w1, w2 = w1 + gained[0], w2 + gained[1]
        return torch.stack((q1 + self.dt * w1, q2 + self.dt * w2, w1, w2), -1)

    def _gained(
        self, p: Tensor, c2: Tensor, s2: Tensor, s1: Tensor, s12: Tensor, w1: Tensor, w2: Tensor, action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the speeds gain in a step: M^-1 (torque - h - gravity - friction) dt."""
        p1, p2, p3, p4, p5, p6 = p.unbind(-1)
        m11, m12 = p1 + p2 + 2 * p3 * c2, p2 + p3 * c2
        r1 = self.torque * action[..., 0] + p3 * s2 * (2 * w1 * w2 + w2**2) - p4 * s1 - p5 * s12 - p6 * w1
        r2 = self.torque * action[..., 1] - p3 * s2 * w1**2 - p5 * s12 - p6 * w2
        determinant = (m11 * p2 - m12**2).clamp(min=1e-9)  # of any masses and lengths in range it is above 0.005
        return self.dt * (p2 * r1 - m12 * r2) / determinant, self.dt * (m11 * r2 - m12 * r1) / determinant

    def energy(self, task: Parameters, state: Tensor) -> Tensor:
        """Kinetic and potential energy in J; 0 where it hangs at rest."""
        q1, q2, w1, w2 = state.unbind(-1)
        p1, p2, p3, p4, p5, _ = self.coefficients(task).unbind(-1)
        kinetic = p1 * w1**2 / 2 + p2 * (w1 + w2) ** 2 / 2 + p3 * torch.cos(q2) * w1 * (w1 + w2)
        return kinetic + p4 * (1 - torch.cos(q1)) + p5 * (1 - torch.cos(q1 + q2))

    def inputs(self, state: Tensor, action: Tensor) -> Tensor:
        """[*, 8]."""
        q, w = state[..., :2], state[..., 2:]
        angles = torch.stack((torch.cos(q), torch.sin(q)), -1).flatten(-2)  # cos q1, sin q1, cos q2, sin q2
        return torch.cat((angles, w / self.speed_unit, action.clamp(-1.0, 1.0)), -1)

    def state_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[*, 8] -> state [*, 4], action [*, 2]."""
        angles = torch.atan2(x[..., [1, 3]], x[..., [0, 2]])
        return torch.cat((angles, x[..., 4:6] * self.speed_unit), -1), x[..., 6:]

    def change(self, state: Tensor, after: Tensor) -> Tensor:
        """[*, 4]."""
        return (after - state) / after.new_tensor(self.units)

    def moved(self, state: Tensor, action: Tensor, change: Tensor) -> Tensor:
        """The speeds are clipped to 80 rad/s."""
        after = state + change * change.new_tensor(self.units)
        return torch.cat((after[..., :2], after[..., 2:].clamp(-self.fastest, self.fastest)), -1)

    def place(self, task: Parameters, state: Tensor) -> Tensor:
        """The end of the second link, m."""
        first, both = state[..., 0], state[..., 0] + state[..., 1]
        l1, l2 = task["length1"], task["length2"]
        return torch.stack(
            (l1 * torch.sin(first) + l2 * torch.sin(both), -l1 * torch.cos(first) - l2 * torch.cos(both)), -1
        )

    # -- linear in its coefficients ----------------------------------------------------------------------------------

    @staticmethod
    def _parts(x: Tensor, unit: float) -> tuple[Tensor, ...]:
        """cos q2, sin q2, sin q1, sin(q1 + q2), w1, w2 of inputs [k, 8], each [k]."""
        c1, s1, c2, s2 = x[:, :4].unbind(-1)
        return c2, s2, s1, s1 * c2 + c1 * s2, x[:, 4] * unit, x[:, 5] * unit

    def solved(self, x: Tensor, y: Tensor, noise: float) -> Parameters | None:
        """Least squares for the six coefficients of ONE task, towards their mean over tasks.

        They are kept to what masses and lengths allow, which matters where the support set does not determine them.
        None with noise, which would be in what multiplies the coefficients.
        """
        if noise:
            return None
        c2, s2, s1, s12, w1, w2 = self._parts(x, self.speed_unit)
        a1, a2 = (y[:, 2:] * x.new_tensor(self.units[2:]) / self.dt).unbind(-1)
        none = torch.zeros_like(a1)
        first = (a1, a1 + a2, c2 * (2 * a1 + a2) - s2 * (2 * w1 * w2 + w2**2), s1, s12, w1)
        second = (none, a1 + a2, c2 * a1 + s2 * w1**2, none, s12, w2)
        rows = torch.cat((torch.stack(first, -1), torch.stack(second, -1)))  # [2 k, 6]
        right = self.torque * x[:, 6:].T.flatten()
        drawn = self.coefficients(self.draw(torch.arange(SAMPLES, device=x.device), x.dtype))
        found = least_squares(rows, right, *moments(drawn), noise)
        ends = [{name: x.new_tensor(bounds[i]) for name, bounds in self.ranges.items()} for i in (0, 1)]
        p1, p2, p3, *others = found.clamp(*map(self.coefficients, ends)).unbind(-1)
        p3 = p3.clamp((p1 * p2 / 4).sqrt(), (p1 * p2 * 3 / 4).sqrt())  # p3^2 = p1 p2 m2 / (m1 + m2)
        return {"coefficients": torch.stack((p1, p2, p3, *others))}

    def predicted(self, coefficients: Parameters, x: Tensor) -> Tensor:
        """[m, 8] -> [m, 4]."""
        c2, s2, s1, s12, w1, w2 = self._parts(x, self.speed_unit)
        gained = self._gained(coefficients["coefficients"], c2, s2, s1, s12, w1, w2, x[:, 6:])
        after = self.dt * (w1 + gained[0]), self.dt * (w2 + gained[1])
        return torch.stack((*after, *gained), -1) / x.new_tensor(self.units)
