"""A self-contained HTML page: numbers, pictures and settings in one file that opens without a server."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metaexp.checks import printable
from metaexp.loggers.in_words import in_words
from metaexp.loggers.result_table import notes, result_rows, title_of

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto;
  width: max-content; max-width: min(calc(50vw + 28rem), calc(100vw - 2rem)); }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr.beside { opacity: .65; }
figure { margin: 1.5rem 0; } figcaption { opacity: .7; font-size: .9em; }
img { max-width: 100%; background: white; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: .7rem; border: 1px solid #8884; }
.short { font-size: 1.15em; }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page of these parts, which are HTML already."""
    head = f'<meta charset="utf-8"><title>{text(title)}</title><style>{STYLE}</style>'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    body = "\n".join([f"<h1>{text(title)}</h1>", *parts])
    return f"<!doctype html>\n<html lang=en><head>{head}</head>\n<body>\n{body}\n</body></html>\n"


def text(found: object) -> str:
    """Text of any origin, escaped; control characters are shown, not obeyed."""
    return html.escape(printable(str(found)).replace(" +- ", " ± "))


def labelled(line: str) -> str:
    """A line of the terminal, its label in bold."""
    label, _, said = line.partition("  ")
    return f"<p><strong>{text(label)}</strong> {text(said.strip())}</p>" if said else f"<p>{text(line)}</p>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], beside: Iterable[bool] = ()) -> str:
    """A table of text; rows for which `beside` is true are paler."""
    made = "".join(f"<th>{text(cell)}</th>" for cell in head)
    lines, pale = [f"<table><tr>{made}</tr>"], list(beside)
    for place, row in enumerate(rows):
        look = ' class="beside"' if place < len(pale) and pale[place] else ""
        lines.append(f"<tr{look}>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>")
    return "\n".join([*lines, "</table>"])


def picture(name: str, png: bytes) -> str:
    """A PNG inside the page."""
    data = base64.b64encode(png).decode()
    label = text(name.replace("_", " "))
    return f'<figure><img alt="{label}" src="data:image/png;base64,{data}"><figcaption>{label}</figcaption></figure>'


def folded(name: str, inside: str) -> str:
    """A part that opens on request."""
    return f"<details><summary>{text(name)}</summary>\n{inside}\n</details>"


def run_page(result: Mapping[str, Any], settings: str, pictures: Mapping[str, bytes], folder: str) -> str:
    """The page of one run.

    Args:
        result: the content of result.json.
        settings: the composed settings, YAML.
        pictures: name -> PNG; those of the test come first.
        folder: the run's folder.
    """
    head, rows = result_rows(result)
    order = sorted(pictures, key=lambda name: (not name.startswith("test_"), name != "test_episodes", name))
    parts = [f'<p class="short">{text(said)}</p>'] if (said := in_words(result)) else []
    parts.append(table(head, rows, [", " in row[0] for row in rows]))
    parts += [labelled(line) for line in notes(result) if not (said and line.endswith(said))]  # it stands above
    parts += [picture(name, pictures[name]) for name in order if not name.startswith("val_")]
    if during := [picture(name, pictures[name]) for name in order if name.startswith("val_")]:
        parts.append(folded("pictures from the last validation", "\n".join(during)))
    if result.get("command"):
        parts.append(f"<h2>Command</h2><pre>{text(result['command'])}</pre>")
    parts.append(folded("settings", f"<pre>{html.escape(settings)}</pre>"))
    keys = ("versions", "machine", "device", "threads", "commit", "config_sha256")
    made = [(key, str(result[key])) for key in keys if result.get(key) is not None]
    parts.append(folded("made by", table(["what", "value"], [*made, ("folder", folder)])))
    return document(title_of(result), parts)


FEW = 4  # pictures beside a result in a notebook
FRAGMENT = ".metaexp td, .metaexp th { text-align: right; } .metaexp td:first-child { text-align: left; }"
FRAGMENT += " .metaexp .beside { opacity: .65; } .metaexp img { max-width: 48rem; width: 100%; background: white; }"


def fragment(result: Mapping[str, Any], pictures: Mapping[str, bytes], folder: str) -> str:
    """A run inside another page, a notebook: its table, what it says in words, the pictures of its test."""
    head, rows = result_rows(result)
    order = sorted(pictures, key=lambda name: (not name.startswith("test_"), name != "test_episodes", name))
    parts = [f"<style>{FRAGMENT}</style><strong>{text(title_of(result))}</strong>"]
    parts.append(table(head, rows, [", " in row[0] for row in rows]))
    parts += [f"<div>{text(line)}</div>" for line in [*notes(result), f"folder       {folder}"]]
    parts += [picture(name, pictures[name]) for name in order[:FEW] if not name.startswith("val_")]
    inside = "\n".join(parts)
    return f'<div class="metaexp">{inside}</div>'


def page_of(result: Mapping[str, Any], folder: Path) -> str:
    """The page of a run from what its folder holds: `config.yaml` and `figures/*.png`."""
    settings = folder / "config.yaml"
    known = settings.read_text(encoding="utf-8", errors="replace") if settings.exists() else ""
    found = {path.stem: path.read_bytes() for path in sorted((folder / "figures").glob("*.png"))}
    return run_page(result, known, found, str(folder))
