"""PYTHONPATH=. python scripts/seed_mapping.py [--seeds 8] [SETTING ...]: one graph mapped over seeds, or one call each.

Compiles the outer step of `algo=maml task=sine` once for one seed and once mapped over the seeds by torch.func.vmap,
and prints milliseconds of CPU time of an outer step of all seeds, in alternating rounds, and whether the weights agree.
The mapped graph takes the compiler minutes.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

import metaexp.outer.compiled_step as compiled_step
from metaexp.config.settings import load
from metaexp.run.parent import parts

ROUNDS, STEPS = 5, 200


def traced(words: list[str]) -> tuple[Callable[..., Any], tuple[Any, ...], Callable[..., Any]]:
    """The outer step as a function of tensors, its arguments, and the compiled graph."""
    found: list[Any] = []
    original = compiled_step.compiled

    def keep(function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        found[:] = [function, args, original(function, *args, **named)]
        return found[2]

    compiled_step.compiled = keep  # type: ignore[assignment]
    parts(load(["algo=maml", "task=sine", "compile=true", *words])).training.advance(0)
    compiled_step.compiled = original
    return found[0], found[1], found[2].flat


def timed(step: Callable[[], Any]) -> float:
    """Milliseconds of CPU time of a step."""
    begun = time.process_time()
    for _ in range(STEPS):
        step()
    return 1e3 * (time.process_time() - begun) / STEPS


def main() -> None:
    """Measures and prints."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seeds", type=int, default=8, help="number of seeds")
    p.add_argument("settings", nargs="*", help="further settings, e.g. algo.inner_steps=5")
    a = p.parse_args()
    function, args, one = traced(a.settings)
    singles = [tree_map(torch.clone, args) for _ in range(a.seeds)]
    for place, single in enumerate(singles):
        single[0].add_(0.01 * place * torch.sin(torch.arange(single[0].numel())))  # other weights for each
    stacked = tree_map(lambda *leaves: torch.stack(leaves), *singles)
    mapped = compiled_step.compiled(torch.vmap(function), *stacked, one_thread=True).flat  # type: ignore[attr-defined]
    together, alone = tree_flatten(stacked)[0], [tree_flatten(single)[0] for single in singles]

    def each() -> None:
        for leaves in alone:
            one(*leaves)

    mapped(*together)
    each()
    apart = max(float((together[0][place] - leaves[0]).abs().max()) for place, leaves in enumerate(alone))
    print(f"largest difference of a weight after one step: {apart:.2g}")
    for _ in range(ROUNDS):
        print(f"mapped {timed(lambda: mapped(*together)):.2f} ms, {a.seeds} calls {timed(each):.2f} ms")


if __name__ == "__main__":
    main()
