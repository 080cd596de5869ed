"""The record of the last run of a tier, tests/tiers/NAME.txt: date, commit, versions, and how each test ended."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = """torch lightning hydra-core hydra-joblib-launcher joblib hydra-submitit-launcher submitit
hydra-ray-launcher ray hydra-optuna-sweeper optuna sqlalchemy alembic mlflow-skinny wandb""".split()


def record(tier: str, reporter: Any) -> Path:
    """Writes the file; `reporter` is pytest's terminal reporter."""
    rows = []
    for outcome in ("passed", "failed", "error", "skipped"):
        for one in reporter.stats.get(outcome, []):
            rows.append(f"{outcome:8}{getattr(one, 'duration', 0.0):7.1f} s  {one.nodeid}")
    commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    head = [
        f"The last run of the tier `{tier}`: `scripts/test.sh --tier {tier}`.",
        f"{when}, commit {commit.stdout.strip() or 'unknown'}, Python {platform.python_version()}",
        ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name))),
    ]
    file = ROOT / f"tests/tiers/{tier}.txt"
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join([*head, "", *sorted(rows, key=lambda row: row.split(" s  ")[1])]) + "\n")
    return file


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
