"""Points for TensorBoard's dashboard "Projector": numbers, labels, and a coloured mark for each point.

TensorBoard colours no point by itself: one first has to choose a column under "Color by". A sheet of small pictures,
one for each point, shows the colours at once.

The files are not written by torch's writer, which knows only what it wrote itself, so that a resumed run would lose
earlier points, and which makes a folder per step.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from metaexp.system.files import replace_file

SIDE = 24  # pixels of a point's mark
MOST = 8192 // SIDE  # marks along a side of the sheet: TensorBoard takes no larger picture


def write_points(
    run: Path, name: str, points: Tensor, columns: Mapping[str, Sequence[Any]], marks: Sequence[tuple[Any, str]] = ()
) -> None:
    """Writes points [n, d] and their labels into `run/projector/`, and all points of the run into its list.

    Args:
        run: the run's folder.
        name: of the points, for a file; earlier ones of this name are replaced.
        columns: name of a label -> its n values. TensorBoard labels points with the first column of words.
        marks: a colour (any that Pillow knows) and a shape for each point: "star", or anything else for a disc.

    Raises OSError.
    """
    table = ["\t".join(columns), *("\t".join(map(_cell, row)) for row in zip(*columns.values(), strict=True))]
    rows = ["\t".join(f"{value:.9g}" for value in point) for point in points.detach().cpu().tolist()]
    folder = run / "projector"
    folder.mkdir(parents=True, exist_ok=True)
    for ending, lines in (("metadata", table), ("tensors", rows)):
        _replace_text(folder / f"{name}.{ending}.tsv", lines)
    sheet = folder / f"{name}.marks.png"
    if marks and len(marks) <= MOST * MOST:
        data = _sheet(marks)
        replace_file(sheet, partial(_write, data), needs=len(data))
    else:
        sheet.unlink(missing_ok=True)
    lines = []
    for path in sorted(folder.glob("*.tensors.tsv")):
        here = path.name.removesuffix(".tensors.tsv")
        lines += ["embeddings {", f'  tensor_name: "{here}"', f'  tensor_path: "projector/{path.name}"']
        lines += [f'  metadata_path: "projector/{here}.metadata.tsv"']
        if (folder / f"{here}.marks.png").exists():
            lines += ["  sprite {", f'    image_path: "projector/{here}.marks.png"']
            lines += [f"    single_image_dim: {SIDE}", f"    single_image_dim: {SIDE}", "  }"]
        lines.append("}")
    _replace_text(run / "projector_config.pbtxt", lines)


def _sheet(marks: Sequence[tuple[Any, str]]) -> bytes:
    """A PNG of all marks, row by row, as many in a row as there are rows."""
    from PIL import Image, ImageDraw

    big = SIDE * 4  # drawn four times as large, for smooth edges
    across = math.ceil(math.sqrt(len(marks)))
    sheet, drawn = Image.new("RGBA", (across * SIDE, across * SIDE), (255, 255, 255, 0)), {}
    for place, (colour, shape) in enumerate(marks):
        if (colour, shape) not in drawn:
            one = Image.new("RGBA", (big, big), (255, 255, 255, 0))
            pen = ImageDraw.Draw(one)
            if shape == "star":
                pen.polygon(_star(big / 2, big / 2 - 2), fill=colour, outline="black", width=5)
            else:
                pen.ellipse((big * 0.1, big * 0.1, big * 0.9, big * 0.9), fill=colour, outline="white", width=3)
            drawn[colour, shape] = one.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        sheet.paste(drawn[colour, shape], (place % across * SIDE, place // across * SIDE))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _star(centre: float, radius: float) -> list[tuple[float, float]]:
    corners = [(radius if i % 2 == 0 else radius * 0.45, math.pi * (i / 5 - 0.5)) for i in range(10)]
    return [(centre + r * math.cos(angle), centre + r * math.sin(angle)) for r, angle in corners]


def _cell(value: Any) -> str:
    return re.sub(r"\s+", " ", str(value))


def _write(data: bytes, file: Any) -> None:
    file.write(data)


def _replace_text(path: Path, lines: Sequence[str]) -> None:
    text = ("\n".join(lines) + "\n").encode()
    replace_file(path, partial(_write, text), needs=len(text))
