"""Pendulum, bicycle and arm: energy, period, radius; least squares; what undoes what."""

import math

import pytest
import torch
from torch.func import vmap

from metaexp.tasks.motion.arm import Arm
from metaexp.tasks.motion.bicycle import Bicycle
from metaexp.tasks.motion.pendulum import Pendulum
from metaexp.tasks.motion.system import GRAVITY, least_squares, moments


def numbers(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def run(system, task, state, seconds: float, dt: float, action=None):
    """States [steps + 1, ...] with another time step."""
    system.dt = dt
    states = [torch.tensor(state, dtype=torch.float64)]
    action = torch.zeros(len(system.action_names), dtype=torch.float64) if action is None else action
    for _ in range(round(seconds / dt)):
        states.append(system.step(task, states[-1], action))
    return torch.stack(states)


PENDULUM = numbers(mass=0.8, length=1.2, friction=0.0, gain=2.0)
ARM = numbers(mass1=0.9, mass2=1.3, length1=0.7, length2=0.5, friction=0.0)


@pytest.mark.parametrize(
    ("system", "task", "state"), [(Pendulum, PENDULUM, [1.0, 0.5]), (Arm, ARM, [1.0, -0.5, 0.3, 0.2])]
)
def test_energy_without_friction(system, task, state):
    """Semi-implicit Euler is of order 1: a tenth of the step, a tenth of the error, bounded for the pendulum."""
    worst = []
    for dt in (0.004, 0.0004):
        energy = system().energy(task, run(system(), task, state, 0.5, dt))
        worst.append(float((energy - energy[0]).abs().max() / energy[0]))
    assert worst[0] < 0.05
    assert 9 < worst[0] / worst[1] < 11
    if system is Pendulum:
        energy = system().energy(task, run(system(), task, state, 60.0, 0.03))
        drift = (energy[-500:].mean() - energy[:500].mean()) / energy[0]
        assert abs(float(drift)) < 2e-3  # a method that is not symplectic drifts: explicit Euler by more than 1


def test_friction_takes_energy_and_the_motor_gives_it():
    """dE = torque * speed dt - friction * speed^2 dt, for both systems, at a small step."""
    dt, draw = 1e-6, torch.Generator().manual_seed(0)
    for system, friction, torque in ((Pendulum(), 0.3, 2.0), (Arm(), 0.3, 6.0)):
        task = (PENDULUM if isinstance(system, Pendulum) else ARM) | numbers(friction=friction)
        half = len(system.state_names) // 2
        for _ in range(5):
            state = torch.randn(2 * half, generator=draw, dtype=torch.float64).tolist()
            action = torch.rand(half, generator=draw, dtype=torch.float64) * 2 - 1
            states = run(system, task, state, dt, dt, action)
            energy, speed = system.energy(task, states), states[:, half:].mean(0)
            power = (torque * action * speed - friction * speed**2).sum()
            assert abs(float((energy[1] - energy[0]) / dt - power)) < 1e-3 * (1 + abs(float(power)))


def test_period_of_small_swings():
    """2 pi sqrt(l / g), from the mean distance of zero crossings."""
    angle = run(Pendulum(), PENDULUM, [math.pi + 0.01, 0.0], 14.0, 0.002)[:, 0] - math.pi
    crossings = ((angle[:-1] > 0) & (angle[1:] <= 0)).nonzero().flatten().double()
    period = float((crossings[-1] - crossings[0]) / (len(crossings) - 1)) * 0.002
    assert abs(period - 2 * math.pi * math.sqrt(1.2 / GRAVITY)) < 1e-3


def test_an_arm_without_its_second_mass_is_a_pendulum():
    """With all weight on the first link, it swings as a pendulum of that length."""
    arm = run(Arm(), ARM | numbers(mass2=1e-6), [2.0, 0.0, 0.0, 0.0], 1.0, 0.001)
    alone = run(Pendulum(), PENDULUM | numbers(length=0.7), [2.0 - math.pi, 0.0], 1.0, 0.001)
    assert (arm[:, 0] - alone[:, 0] - math.pi).abs().max() < 1e-4


def test_the_car_drives_a_circle():
    """Radius wheelbase / tan(steer), once around in 2 pi radius / speed; the command arrives `delay` steps late."""
    system, task = Bicycle(), numbers(wheelbase=2.5, gain=0.3, delay=3.0)
    states = [torch.tensor([0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)]
    for _ in range(200):
        states.append(system.step(task, states[-1], torch.tensor([0.8], dtype=torch.float64)))
    path = torch.stack(states)
    assert (path[:4, 2] == 0).all()
    assert float(path[4, 2]) > 0.03
    radius = 2.5 / math.tan(0.3 * 0.8)
    centre = torch.tensor([float(path[3, 0]), radius], dtype=torch.float64)
    assert ((path[3:, :2] - centre).norm(dim=-1) - radius).abs().max() < 1e-12
    turned = 5.0 * system.dt * torch.arange(198, dtype=torch.float64) / radius
    assert (path[3:, 2] - turned).abs().max() < 1e-12


@pytest.mark.parametrize("system", [Pendulum(), Bicycle(), Arm()])
def test_what_undoes_what(system):
    keys = torch.arange(200)
    task = system.draw(keys, torch.float64)
    for name, (low, high) in system.ranges.items():
        if name in task and name != "delay":
            assert low <= task[name].min() < task[name].max() < high
    past = torch.rand(200, system.past, 1, dtype=torch.float64) * 2 - 1
    state = system.start(keys, past)
    action = torch.rand(200, len(system.action_names), dtype=torch.float64) * 3 - 1.5
    assert state.shape == (200, len(system.state_names))
    after = system.step(task, state, action)
    assert torch.equal(after, system.step(task, state, action.clamp(-1, 1)))
    change = system.change(state, after)
    assert (system.moved(state, action, change) - after).abs().max() < 1e-12
    x = system.inputs(state, action)
    assert (x.shape[1], change.shape[1]) == (len(system.input_names), len(system.target_names))
    again = system.state_of(x)
    assert (system.inputs(*again) - x).abs().max() < 1e-12
    assert (system.change(again[0], system.step(task, *again)) - change).abs().max() < 1e-11
    one = {name: value[7] for name, value in task.items()}
    assert (system.step(one, state[7], action[7]) - after[7]).abs().max() < 1e-14


@pytest.mark.parametrize(("system", "enough"), [(Pendulum(), 3), (Arm(), 6)])
def test_least_squares_finds_the_coefficients(system, enough):
    """Exactly, without noise, as soon as there are enough steps; with fewer it is better than knowing nothing."""
    keys = torch.arange(300)
    task = system.draw(keys, torch.float64)
    state = system.start(keys[:, None] + 1000 * torch.arange(12), torch.zeros(300, 12, 0, 1, dtype=torch.float64))
    draw = torch.Generator().manual_seed(1)
    action = torch.rand(300, 12, len(system.action_names), generator=draw, dtype=torch.float64) * 2 - 1
    each = {name: value[:, None] for name, value in task.items()}
    x, y = system.inputs(state, action), system.change(state, system.step(each, state, action))
    true = system.coefficients(task)

    def found(k):
        return vmap(lambda a, b: system.solved(a, b, 0.0)["coefficients"])(x[:, :k], y[:, :k])

    assert ((found(enough) - true) / true.mean(0)).abs().median() < 1e-10
    assert ((found(12) - true) / true.mean(0)).abs().max() < 1e-7
    spread = true.std(0)
    assert (((found(1) - true) / spread).square().mean(0) < 1.001).all()
    predicted = vmap(system.predicted)({"coefficients": true}, x)
    assert (predicted - y).abs().max() < 1e-12


def test_least_squares_with_noise_is_the_posterior_mean():
    """Of a Gaussian prior and Gaussian noise: the textbook's formula with the inverse of a covariance."""
    draw = torch.Generator().manual_seed(2)
    rows, c, right = (torch.randn(*s, generator=draw, dtype=torch.float64) for s in ((5, 3), (50, 3), (5,)))
    mean, covariance = moments(c @ torch.randn(3, 3, generator=draw, dtype=torch.float64) + 2.0)
    gain = covariance @ rows.T @ torch.linalg.inv(rows @ covariance @ rows.T + 0.25 * torch.eye(5))
    expected = mean + gain @ (right - rows @ mean)
    assert (least_squares(rows, right, mean, covariance, 0.5) - expected).abs().max() < 1e-11
