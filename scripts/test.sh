#!/usr/bin/env bash
# scripts/test.sh [pytest's arguments]
# The same environment plus the development tools, then lint, types, tests. `-n0` as an argument: one process, for --pdb.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/_env.sh"
prepare test dev,sweep
cd -- "$ROOT"
export OMP_NUM_THREADS=1 # two test processes, each on one core; also keeps sums in one order
"$VENV/bin/python" -m ruff check .
"$VENV/bin/python" -m ruff format --check .
"$VENV/bin/python" -m mypy
# By file: what a file's tests share (a trained run, a wheel) is made once.
exec "$VENV/bin/python" -m pytest -n 2 --dist loadfile "$@"
