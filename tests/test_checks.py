"""Text that a terminal only shows, and words that a shell reads back."""

import os
import subprocess

from metaexp.checks import printable, shell

WORDS = [
    "resume=outputs/2026_maml",
    "resume=a b/ä [1] {2} 'q' \"Q\" x,y=z ~ $HOME `id` !! \\ #c & ; | * ? (d) <e>",
    "resume=two  spaces and\ttab",
    "resume=new\nline and 'quote' and \\ back",
    "resume=\x1b[31mred\x1b[0m \u202ereversed",
    "resume=" + os.fsdecode(b"latin-\xe4"),
]


def test_what_is_printed_can_be_pasted_into_a_shell() -> None:
    script = "printf '%s\\0' " + " ".join(map(shell, WORDS))
    assert script.isprintable()
    ran = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert ran.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in WORDS]
    assert shell(WORDS[0]) == WORDS[0]


def test_what_a_terminal_would_obey_is_shown() -> None:
    assert printable("plain ± ä 日本 [bold]") == "plain ± ä 日本 [bold]"
    assert printable("\x1b]0;title\x07\r\n\u202e\u200b\x9b") == r"\x1b]0;title\x07\r\n\u202e\u200b\x9b"
    assert printable(os.fsdecode(b"\xe4")) == r"\udce4"
