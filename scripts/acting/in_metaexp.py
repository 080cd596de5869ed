"""python scripts/acting/in_metaexp.py WORLD TRIALS STEPS REPEATS: `algo=rl2`; prints a line of JSON."""

import json
import os
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from metaexp.algos.rl2 import RL2
from metaexp.models.identity import Identity
from metaexp.outer.clip import Clip
from metaexp.outer.outer_step import FiniteCheck
from metaexp.outer.rollout_step import RolloutStep
from metaexp.system.allocator import keep_freed_memory
from metaexp.tasks.bandit import Bandit
from metaexp.tasks.grid import Grid
from metaexp.tasks.mdp import MDP


def main(world: str, trials: int, steps: int, repeats: int) -> None:
    """Measure."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    makes = {"bandit": lambda: Bandit(5, steps), "mdp": lambda: MDP(episodes=steps // 10),
             "grid": lambda: Grid(horizon=20, episodes=steps // 20)}  # fmt: skip
    learner = RL2(makes[world](), Identity, discount=1.0, epochs=3, minibatches=4)
    step = RolloutStep(learner, torch.optim.Adam(learner.parameters(), 0.01), Clip(norm=1.0), FiniteCheck(), trials)
    if refused := step.compile(0):
        sys.exit(f"{world}: {refused}")
    step(0)
    spent = {}
    for name in ("train", "act"):
        began = time.process_time()
        for i in range(repeats):
            if name == "train":
                step(1 + i)
            else:
                with torch.no_grad():
                    step._collect(step.draw(1 + i))
        spent[name] = (time.process_time() - began) / repeats
    rates = {name: trials * steps / seconds for name, seconds in spent.items()}
    print(json.dumps({"rates": rates, "version": f"torch {torch.__version__}"}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
