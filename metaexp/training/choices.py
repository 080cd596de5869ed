"""What a run decided by itself: for `choices` in result.json, and for one line on the screen."""

from typing import Any

import torch

from metaexp.training.build import Experiment

Choices = dict[str, Any]


def choices_of(experiment: Experiment) -> Choices:
    """Decisions by name; each has what was asked for and what is used, and `why` where something was replaced.

    `mapping`, `compile`, `device` and `threads` are always there; `norms` (layers of torch that were replaced, by kind)
    and `without_gradient` (names of parameters) where there are any.
    """
    config, learner, training = experiment.config, experiment.learner, experiment.training
    device = config["device"]
    made: Choices = {
        "mapping": _choice(config["mapping"], learner.mapping, learner.mapping_reason),
        "compile": _choice(config["compile"], training.compiled, training.compile_reason),
        "device": _choice(device["accelerator"], str(experiment.device)),
        "threads": _choice(device["threads"], torch.get_num_threads()),
    }
    made |= {"norms": dict(learner.adopted)} if learner.adopted else {}
    return made | ({"without_gradient": list(learner.unreached)} if learner.unreached else {})


def _choice(asked: Any, used: Any, why: str | None = None) -> Choices:
    return {"asked": asked, "used": used} | ({"why": why} if why else {})


def choices_line(choices: Choices) -> str:
    """One line: `mapping=loop (auto), compile=false (auto), ...`; why something was replaced is said when it is."""
    words = []
    for name, choice in choices.items():
        if isinstance(choice, dict) and "used" in choice:
            used, asked = (str(choice[key]).lower() for key in ("used", "asked"))
            words.append(f"{name}={used}" + (f" ({asked})" if asked not in (used, "none") else ""))
    if norms := choices.get("norms"):
        kinds = " and ".join(f"{number} {kind}" for kind, number in norms.items())
        words.append(f"{kinds} replaced by layers that are right under every mapping")
    return "chosen: " + ", ".join(words)
