# Sourced by run.sh and test.sh: keeps .venv in step with pyproject.toml. Needs only bash (3.2 or newer) and Python.
# Sets ROOT and VENV. Leaves the working folder unchanged and writes nothing to standard output.

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv

say() { printf 'metaexp: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# A command may exist but not run (a version manager's shim) or lack venv (Debian), so each one is tried.
find_python() {
    local name names=("${PYTHON:-}")
    [ -n "${PYTHON:-}" ] || names=(python3.12 python3.11 python3.13 python3 python)
    for name in "${names[@]}"; do
        if "$name" -I -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            printf '%s\n' "$name"
            return
        fi
    done
    fail "needs Python 3.11, 3.12 or 3.13 with venv (Debian, Ubuntu: apt install python3-venv); tried: ${names[*]}." \
        "Name another one: PYTHON=/path/to/python $0"
}

# What an installation depends on: the project file, the Python in .venv, the path of the checkout.
state() {
    "$VENV/bin/python" -I -c 'import hashlib, sys
project = sys.argv[1]
print(hashlib.sha256(open(project, "rb").read() + repr((sys.version, project)).encode()).hexdigest())' \
        "$ROOT/pyproject.toml" 2>/dev/null
}

current() { [ -s "$VENV/.installed-$1" ] && [ "$(state)" = "$(cat "$VENV/.installed-$1")" ]; }

# On a terminal, shows pip's last line, overwritten in place; elsewhere shows nothing.
progress() {
    local line
    while IFS= read -r line; do
        if [ -t 2 ]; then printf '\r\033[K  %.76s' "$line" >&2; fi
    done
    if [ -t 2 ]; then printf '\r\033[K' >&2; fi
}

# install PYTHON KIND EXTRAS. If .installing is still there, an installation was killed and .venv cannot be trusted.
install() {
    local started=$SECONDS log=$VENV/install.log
    if [ -e "$VENV/.installing" ] || ! "$VENV/bin/python" -I -m pip --version >/dev/null 2>&1; then
        [ ! -e "$VENV" ] || say ".venv is incomplete: creating it again"
        rm -rf -- "$VENV"
        mkdir -- "$VENV"
    fi
    trap 'exit 130' INT
    trap 'exit 143' TERM
    : >"$VENV/.installing"
    rm -f -- "$VENV"/.installed-*
    say "installing into $VENV (only once, 1 GB, or 5 GB with CUDA; log: .venv/install.log)"
    [ -x "$VENV/bin/python" ] || "$1" -m venv "$VENV" || fail "$1 could not create $VENV; see the lines above"
    if ! "$VENV/bin/python" -I -m pip install --disable-pip-version-check --no-input --progress-bar off \
        -e "$ROOT${3:+[$3]}" 2>&1 | tee "$log" | progress; then
        rm -f -- "$VENV/.installing"
        tail -n 12 "$log" >&2
        fail "pip could not install the packages; the lines above say why, the full log is $log. Fix the cause and call again"
    fi
    state >"$VENV/.installed-$2"
    [ "$2" = run ] || cp -- "$VENV/.installed-$2" "$VENV/.installed-run"
    rm -f -- "$VENV/.installing"
    trap - INT TERM
    say "installed in $((SECONDS - started)) s"
}

# prepare KIND EXTRAS: makes sure that .venv holds the project with these extras; instant if it already does.
prepare() {
    if current "$1"; then return; fi
    local python
    python=$(find_python)
    exec 9<"$ROOT" # of two calls at once the second waits for this lock, which the system frees in any case
    "$python" -I -c 'import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("metaexp: waiting for another installation into .venv to finish", file=sys.stderr)
    fcntl.flock(9, fcntl.LOCK_EX)'
    current "$1" || install "$python" "$1" "$2"
    exec 9<&-
}
