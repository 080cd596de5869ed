"""Returns to go and advantages against loops over trials and steps."""

import numpy as np
import pytest
import torch

from metaexp.algos.credit import RIDGE, advantages, left_out_mean, to_go

HORIZON = 4


def batch(n: int = 5, episodes: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(rewards, observations, alive) of trials whose episodes end at different steps."""
    draw = torch.Generator().manual_seed(0)
    steps = episodes * HORIZON
    length = torch.randint(1, HORIZON + 1, (n, episodes, 1), generator=draw)
    alive = (torch.arange(HORIZON) < length).view(n, steps)
    reward = torch.randn(n, steps, generator=draw, dtype=torch.float64) * alive
    return reward, torch.randn(n, steps, 2, generator=draw, dtype=torch.float64), alive


@pytest.mark.parametrize("discount", [1.0, 0.9, 0.0])
def test_to_go(discount: float) -> None:
    """Rewards are summed to the end of their own episode."""
    reward, _, _ = batch()
    found = to_go(reward, HORIZON, discount).numpy()
    for trial, row in enumerate(reward.numpy()):
        for t in range(len(row)):
            end = (t // HORIZON + 1) * HORIZON
            right = sum(discount**k * value for k, value in enumerate(row[t:end]))
            assert found[trial, t] == pytest.approx(right, abs=1e-12)


def test_mean_of_the_others() -> None:
    """Only trials that are alive at the step count; idle steps get 0."""
    reward, seen, alive = batch()
    gain = to_go(reward, HORIZON)
    found = advantages(gain, seen, alive, HORIZON, "mean")
    for i in range(5):
        for t in range(8):
            others = [float(gain[j, t]) for j in range(5) if j != i and alive[j, t]]
            right = float(gain[i, t]) - (np.mean(others) if others else 0.0)
            assert float(found[i, t]) == pytest.approx(right if alive[i, t] else 0.0, abs=1e-12)


def test_linear_baseline_of_the_others() -> None:
    """Ridge regression on the steps of the other trials, nearly exact where returns are linear in the features."""
    reward, seen, alive = batch(n=12)
    gain = to_go(reward, HORIZON)
    found = advantages(gain, seen, alive, HORIZON, "linear")
    t = torch.arange(8) % HORIZON / HORIZON
    powers = torch.stack([t**k for k in range(4)], -1).expand(12, 8, 4)
    rows = torch.cat([seen, seen**2, powers], -1).numpy()
    ridge = RIDGE * (rows[alive.numpy()] ** 2).sum(0).mean() * np.eye(8)
    for i in range(12):
        mask = alive.numpy().copy()
        mask[i] = False
        x, y = rows[mask], gain.numpy()[mask]
        right = (gain[i].numpy() - rows[i] @ np.linalg.solve(x.T @ x + ridge, x.T @ y)) * alive[i].numpy()
        np.testing.assert_allclose(found[i].numpy(), right, atol=1e-9)
    linear = 3 * seen[..., 0] - seen[..., 1] ** 2 + t + 2
    assert advantages(linear, seen, alive, HORIZON, "linear").abs().max() < 1e-2
    assert linear[alive].std() > 1


def test_a_baseline_does_not_look_at_its_own_trial() -> None:
    """Other rewards of one trial change its advantages by exactly that much."""
    reward, seen, alive = batch()
    gain = to_go(reward, HORIZON)
    more = gain.clone()
    more[2] += 7.0
    for baseline in ("mean", "linear"):
        apart = advantages(more, seen, alive, HORIZON, baseline) - advantages(gain, seen, alive, HORIZON, baseline)
        torch.testing.assert_close(apart[2], 7.0 * alive[2].double(), rtol=0, atol=1e-9)


def test_normalised() -> None:
    """Mean 0 and deviation 1 over the steps that were acted; equal returns stay finite."""
    reward, seen, alive = batch()
    found = advantages(to_go(reward, HORIZON), seen, alive, HORIZON, "none", normalise=True)
    assert not found[~alive].any()
    assert float(found[alive].mean()) == pytest.approx(0, abs=1e-12)
    assert float(found[alive].var(correction=0)) == pytest.approx(1, abs=1e-12)
    same = advantages(torch.ones(1, 4), torch.zeros(1, 4, 1), torch.ones(1, 4, dtype=torch.bool), 4, "none", True)
    assert same.tolist() == [[0, 0, 0, 0]]


def test_left_out_mean() -> None:
    """Of the others; 0 where there are none."""
    assert left_out_mean(torch.tensor([1.0, 2.0, 6.0])).tolist() == [4.0, 3.5, 1.5]
    assert left_out_mean(torch.tensor([5.0])).tolist() == [0.0]
