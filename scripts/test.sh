#!/usr/bin/env bash
# scripts/test.sh [arguments of pytest]
# Installs the same environment with the development tools, then runs linter, type checker and tests. `-n0` as an
# argument runs the tests in one process, for --pdb.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/_env.sh"
prepare test dev,sweep
cd -- "$ROOT"
export OMP_NUM_THREADS=1 # two test processes, one core each; also fixes the order of sums
"$VENV/bin/python" -m ruff check .
"$VENV/bin/python" -m ruff format --check .
"$VENV/bin/python" -m mypy
# Tests of one file go to one process: what they share (a trained run, a wheel) is made once.
exec "$VENV/bin/python" -m pytest -n 2 --dist loadfile "$@"
