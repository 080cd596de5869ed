"""The Bayes prediction on the test tasks, with a second independent sample of it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.func import vmap

from metaexp.tasks.mixture import NAMES, Mixture

CHUNK = 50


def bayes(family: Mixture, tasks: int, file: Path) -> dict[str, np.ndarray]:
    """Of each test task: `kind`, `mse` and `mse_2` of two independent samples, `apart` (their mean squared distance),
    `effective_samples` and `p_kind` (probability of the true kind), [tasks] each. Kept in `file`.
    """
    settings = str((tasks, family.sizes["test"], family.noise, family.x_range, family.oracle_samples, family.eval_seed))
    if file.exists():
        with np.load(file) as kept:
            if str(kept["settings"]) == settings:
                return {name: kept[name] for name in kept.files if name != "settings"}
    parts: list[dict[str, torch.Tensor]] = []
    for start in range(0, tasks, CHUNK):
        episode = family.sample("test", torch.arange(start, min(start + CHUNK, tasks)))

        def known(task: Any) -> dict[str, torch.Tensor]:
            one, two = (family.posterior(task, task.query.x, draw) for draw in (0, 1))
            y = task.query.y[:, 0]
            own = torch.tensor(family.kinds) == task.info["kind"]
            return {
                "mse": ((one.mean - y) ** 2).mean(),
                "mse_2": ((two.mean - y) ** 2).mean(),
                "apart": ((one.mean - two.mean) ** 2).mean(),
                "effective_samples": one.effective_samples,
                "p_kind": (one.kinds * own).sum(),
            }

        with torch.no_grad():
            parts.append(vmap(known)(episode) | {"kind": episode.info["kind"]})
    found = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, settings=np.array(settings), **found)
    return found


def told(found: dict[str, np.ndarray], family: Mixture) -> list[str]:
    """The table of what the Bayes prediction knows, kind by kind."""
    floor = family.noise**2
    head = "| kind | tasks | mse | second sample | distance / excess | effective samples: least, 10 %, median |"
    lines = [f"{head} p(true kind) |", "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for name, own in [("all", found["kind"] >= 0), *((n, found["kind"] == i) for i, n in enumerate(NAMES))]:
        if not own.any():
            continue
        mse, second, apart = (float(found[key][own].mean()) for key in ("mse", "mse_2", "apart"))
        least, low, middle = np.quantile(found["effective_samples"][own], [0, 0.1, 0.5])
        half = 1.96 * found["mse"][own].std(ddof=1) / np.sqrt(own.sum())
        lines.append(
            f"| {name} | {own.sum()} | {mse:.4f} ± {half:.4f} | {second:.4f} | {apart / (mse - floor):.2%} | "
            f"{least:.0f}, {low:.0f}, {middle:.0f} | {found['p_kind'][own].mean():.2f} |"
        )
    return lines
