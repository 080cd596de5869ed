"""The page of a run: self-contained, with the numbers of the table, nothing from a file obeyed."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image
from result_example import RESULT

from metaexp.loggers.html_page import page_of, run_page


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("td", "th"):
            self.cells.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(buffer, format="png")
    return buffer.getvalue()


def test_a_run_is_one_file_with_its_numbers_and_pictures(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    for name in ("train_curve", "test_episodes", "val_episodes"):
        (tmp_path / "figures" / f"{name}.png").write_bytes(png())
    (tmp_path / "config.yaml").write_text("seed: 3\nname: <b>\n")
    page = page_of(RESULT | {"command": "python -m metaexp.train algo=maml name='<b>'"}, tmp_path)
    reader = read(page)
    assert {"0.4123 ± 0.031", "2.41 ± 0.1", "mse, baseline: scratch"} <= set(reader.cells)
    pictures = [attrs for tag, attrs in reader.tags if tag == "img"]
    assert [one["alt"] for one in pictures] == ["test episodes", "train curve", "val episodes"]
    for one in pictures:
        assert base64.b64decode(one["src"].removeprefix("data:image/png;base64,")) == png()
    links = [value for _, attrs in reader.tags for key, value in attrs.items() if key in ("href", "src")]
    assert all(link.startswith("data:") for link in links)  # nothing is loaded from elsewhere
    assert not re.search(r"<(script|link|iframe|b)\b", page)
    assert "name: &lt;b&gt;" in page


def test_text_of_a_result_is_shown_as_text() -> None:
    bad = RESULT | {"algo": "<script>alert(1)</script>", "doubt": "\x1b[31m<img src=x>"}
    page = run_page(bad, "", {}, "<folder>")
    assert "<script" not in page
    assert "<img" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;" in page
