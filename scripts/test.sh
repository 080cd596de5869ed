#!/usr/bin/env bash
# scripts/test.sh [arguments of pytest]
# Installs the same environment with the development tools, then runs linter, type checker and tests. `-n0` as an
# argument runs the tests in one process, for --pdb. `--tier launchers` runs the tests that need every extra, in
# .venv-launchers; any `--tier NAME` runs those tests alone and writes tests/tiers/NAME.txt.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/_env.sh"
tier=""
for word in "$@"; do
    case "$word" in --tier=*) tier=${word#--tier=} ;; --tier) tier=next ;; *) [ "$tier" != next ] || tier=$word ;; esac
done
if [ "$tier" = launchers ]; then
    VENV=$ROOT/.venv-launchers
    prepare test dev,all
else
    prepare test dev,sweep
fi
cd -- "$ROOT"
export OMP_NUM_THREADS=1 # two test processes, one core each; also fixes the order of sums
[ -z "$tier" ] || exec "$VENV/bin/python" -m pytest -n0 --record "$@"
"$VENV/bin/python" -m ruff check .
"$VENV/bin/python" -m ruff format --check .
"$VENV/bin/python" -m mypy
# Tests of one file go to one process: what they share (a trained run, a wheel) is made once. The order of the files is
# that of tests/conftest.py.
exec "$VENV/bin/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
