"""`python -m metaexp.audit algo=... task=... [model=...]`: can the numbers of this pair be trusted? See --help."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

# torch and lightning are imported only after the configuration has been checked.
from metaexp.audit.table import HEAD, WIDTH, Audit, Row
from metaexp.config.command_line import CommandLine, exit_code
from metaexp.config.settings import Settings
from metaexp.errors import ConfigError

if TYPE_CHECKING:
    from metaexp.audit.subject import Subject

HELP = """usage: python -m metaexp.audit algo=ALGO task=TASK [model=MODEL] [KEY=VALUE ...]
                               [--config-dir DIR]

Checks whether the numbers of a method, a network and a family of tasks can be
trusted, in float64 on the CPU, without training for more than three steps: the
meta-gradient, that the same question gets the same answer, resuming, the choice
of weights, leaks of all kinds, and what the splits share. Nothing is written.

Groups, settings and --config-dir are those of python -m metaexp.train, for
parts of your own too. Small sizes take less time: task.queries=5.

Every line has a number and what it must be. Exit codes: 0 all well, 1 a check
failed (or the module is refused), 2 a wrong setting, 3 missing data.
"""
# A refusal of the network or of its mapping is a finding; any other wrong setting is the caller's.
REFUSALS = ("model", "algo.model", "mapping", "algo.mapping")


def main() -> None:
    """The command; exits with 0, 1, or the codes of metaexp.errors."""
    sys.exit(exit_code(lambda: run(sys.argv[1:])))


def run(argv: Sequence[str]) -> int:
    """Run a command line: print each row as soon as it is known; returns the exit code.

    Raises:
        ConfigError: a wrong setting, or a combination that is refused.
        DataError: the family's data is missing or damaged.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # the user's own classes
    line = CommandLine.parse(argv)
    if line.action == "help":
        print(HELP, end="")
        return 0
    if line.action != "run" or line.overrides.sweeps:
        raise ConfigError("audit: one pair at a time; see python -m metaexp.audit --help")
    config = Settings(line.overrides, line.extra).load(line.overrides)
    if config["start"] is not None:
        raise ConfigError(f"start={config['start']}: an audit starts from new weights; from=RUN takes the settings")
    choices = config["choices"]
    title = f"algo={choices['algo']} task={choices['task']} model={choices['model']}: float64, CPU"
    above = [title, HEAD, "-" * WIDTH]  # only once it is known that there is something to audit

    def show(row: Row) -> None:
        print(*above, row, sep="\n", flush=True)
        above.clear()

    found = audit_config(config, show)
    print(f"{'-' * WIDTH}\n{found.summary}")
    return 0 if found.ok else 1


def audit_config(config: dict[str, Any], tick: Any = lambda row: None) -> Audit:
    """Audit what a configuration describes; raises as `run`."""
    from metaexp.audit.auditor import audit_with
    from metaexp.audit.subject import Subject
    from metaexp.audit.trial import small
    from metaexp.training.build import Experiment

    bucket = config["task"].get("bucket")
    cut = small(config, bucket if isinstance(bucket, int) else None)

    def begin() -> "Subject":
        try:
            return Subject(Experiment(cut).learner)
        except ConfigError as error:
            if str(error).partition(":")[0].partition("=")[0] in REFUSALS:
                raise ValueError(str(error)) from error
            raise

    def make(subject: "Subject", family: Any) -> Experiment:
        experiment = Experiment(cut, family)
        subject.place(experiment.learner)
        return experiment

    return audit_with(begin, make, tick)
