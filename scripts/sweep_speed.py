"""PYTHONPATH=. python scripts/sweep_speed.py [--jobs 2] [--count 8] [--steps N]: what jobs=N saves on idle cores.

Runs one sweep of equal jobs serially and once with `jobs=N`; prints both times and their ratio. The exit code is 0 if
the ratio is at most 0.6 with two jobs (0.5, and a tenth for what is serial), else 1. Without --steps a job's length is
chosen to be about 30 seconds. Use an idle machine; it says so if it is not one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

WORDS = "algo=maml task=sine device=cpu compile=false val.every=1000000 val.tasks=10 test.tasks=20 test.curve_shots=[]"
TRIAL = 600  # steps by which the length of a job is found


def sweep(out: str, count: int, steps: int, jobs: int) -> float:
    """Seconds of a sweep of `count` jobs; exits if one of them fails."""
    seeds = ",".join(map(str, range(count)))
    words = ["-m", *WORDS.split(), f"steps={steps}", f"seed={seeds}", f"jobs={jobs}", f"out={out}"]
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "metaexp.train", *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - begun


def main() -> None:
    """Measures and prints."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--jobs", type=int, default=2, help="jobs at a time")
    p.add_argument("--count", type=int, default=8, help="jobs of the sweep")
    p.add_argument("--steps", type=int, help="outer steps of a job")
    a = p.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()[0]
    if load > 0.3:
        print(f"not idle: {load:.1f} processes are running already; the ratio will be too large", file=sys.stderr)
    with tempfile.TemporaryDirectory() as out:
        steps = a.steps
        if steps is None:
            short, long = sweep(out, 1, TRIAL, 1), sweep(out, 1, 3 * TRIAL, 1)
            steps = int(32 * 2 * TRIAL / max(long - short, 1e-3))
        serial = sweep(out, a.count, steps, 1)
        side_by_side = sweep(out, a.count, steps, a.jobs)
    ratio = side_by_side / serial
    print(
        f"{a.count} jobs of {steps} steps on {cores} cores: {serial:.0f} s serially ({serial / a.count:.1f} s each), ",
        end="",
    )
    print(f"{side_by_side:.0f} s with jobs={a.jobs}: {ratio:.2f} of it")
    sys.exit(ratio > 1 / a.jobs + 0.1)


if __name__ == "__main__":
    main()
