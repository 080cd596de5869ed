#!/usr/bin/env bash
# scripts/run.sh algo=reptile task=sine
# Creates .venv if it is missing, installs metaexp into it, and runs `python -m metaexp.train` with the given arguments.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/_env.sh"
prepare run ""
exec "$VENV/bin/python" -m metaexp.train "$@"
