"""`metaexp completion bash|zsh`: a script that a shell reads once, and the words that it asks for at each Tab."""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from metaexp.commands.console import COMMANDS
from metaexp.errors import ConfigError

HELP = """usage: metaexp completion bash|zsh

Prints what makes a shell complete commands, groups, choices and settings:
  eval "$(metaexp completion bash)"    in ~/.bashrc
  eval "$(metaexp completion zsh)"     in ~/.zshrc, after compinit
The command is looked up as it is typed, so `.venv/bin/metaexp` works too.
"""
# A candidate that ends with a space is finished. Without candidates, a shell completes names of files.
BASH = r"""_metaexp() {
    local line=${COMP_LINE:0:COMP_POINT} word cut="" IFS=$' \t\n'
    local -a typed
    read -ra typed <<<"$line"
    [[ $line == *[[:space:]] ]] && typed+=("")
    word=${typed[${#typed[@]}-1]}
    # bash replaces only what follows the last of its word breaks
    if [[ $COMP_WORDBREAKS == *=* && $word == *=* ]]; then cut=${word%=*}=; fi
    IFS=$'\n'
    COMPREPLY=($("${typed[0]/#\~/$HOME}" completion words "${typed[@]:1}" 2>/dev/null))
    COMPREPLY=("${COMPREPLY[@]#"$cut"}")
}
complete -o nospace -o default -F _metaexp metaexp
"""
ZSH = r"""_metaexp() {
    local -a found finished unfinished
    local one
    found=("${(@f)$("${${(Q)words[1]}/#\~/$HOME}" completion words "${(@)words[2,CURRENT-1]}" "$PREFIX" 2>/dev/null)}")
    for one in $found; do
        if [[ $one == *" " ]]; then finished+=("${one% }"); else unfinished+=("$one"); fi
    done
    if (( $#finished + $#unfinished )); then
        (( $#finished )) && compadd -Q -- $finished
        (( $#unfinished )) && compadd -Q -S '' -- $unfinished
    else
        compset -P '*='
        _files
    fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -u; }
compdef _metaexp metaexp
"""
SHELLS = {"bash": BASH, "zsh": ZSH}


def completion(argv: Sequence[str]) -> int:
    """Print a shell's script, or with `words` the candidates for the last of the words; returns the exit code."""
    kind, *words = argv or ["--help"]
    if kind == "words":
        with suppress(Exception, SystemExit):  # nothing that is typed half makes a shell print a traceback
            for one in candidates(words or [""]):
                print(one)
        return 0
    if kind in ("--help", "-h"):
        print(HELP, end="")
        return 0
    if kind not in SHELLS:
        print(f"metaexp: completion {kind}: choose one of {', '.join(SHELLS)}", file=sys.stderr)
        return ConfigError.exit_code
    print(SHELLS[kind], end="")
    return 0


def candidates(words: Sequence[str]) -> list[str]:
    """What the last word may become, given the words before it, all after the program's name."""
    if len(words) == 1:
        flags = ["--help", "--version"] if words[0].startswith("-") else []
        return [f"{name} " for name in [*COMMANDS, *flags] if name.startswith(words[0])]
    command, *before, word = words
    found = _WORDS.get(command, lambda _before, _word: [])(before, word)
    return sorted({one for one in found if one.startswith(word) and not set(one[:-1]) & set(" *?[]{}\"'\\$")})


def _training(before: Sequence[str], word: str) -> list[str]:
    from metaexp.commands.completed_settings import settings

    if word.startswith("-"):
        flags = "--multirun --config-dir --cfg --help --dry-run --version --hydra-help --info"
        return [f"{flag} " for flag in flags.split()]
    if before and before[-1] == "--cfg":
        return ["job ", "hydra ", "all "]
    return [] if before and before[-1] in ("--config-dir", "-cd") else settings(before, word)


def _of_run(before: Sequence[str], word: str) -> list[str]:
    from metaexp.commands.completed_settings import of_run

    return of_run(before, word)


REPORT = "by metric pairs where sort wide markdown latex csv json html plots help"


def _names(*names: str) -> Callable[[Sequence[str], str], list[str]]:
    return lambda _before, word: [name if name.endswith("=") else f"{name} " for name in names] if word else []


_WORDS: dict[str, Callable[[Sequence[str], str], list[str]]] = {
    "train": _training,
    "audit": _training,
    "evaluate": _of_run,
    "adapt": _names(
        *"run= support= query= data= out= export= plot= target= text= keep= weights= steps= device=".split()
    ),
    "report": _names(*[f"--{name}" for name in REPORT.split()]),
    "board": _names("--port", "--bind_all", "--help"),
    "demo": _names("--help", "--function", "--points", "--out", "--no-color"),
    "completion": lambda _before, _word: ["bash ", "zsh "],
}
