"""What a sweep shows as a whole: `report.html`, and its comparison in TensorBoard."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metaexp.checks import printable
from metaexp.config.command_line import complain
from metaexp.system.files import replace_file

if TYPE_CHECKING:
    from metaexp.report.pictures import Drawn

PAGE = "report.html"


def write(folder: Path) -> Path | None:
    """Writes the comparison of a sweep's finished jobs into its folder; None if there are fewer than two.

    The page is self-contained. TensorBoard shows its pictures under the name of the sweep's folder. What goes wrong is
    said in one line: the results of the jobs are there in any case.
    """
    try:
        return _write(folder)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        complain(printable(f"warning: {folder / PAGE} left out: {reason}"))
        return None


def _write(folder: Path) -> Path | None:
    from metaexp.report.grouping import compare  # SciPy and matplotlib take a second to import
    from metaexp.report.page import page
    from metaexp.report.pictures import draw
    from metaexp.report.reading import find
    from metaexp.report.tables import blocks

    found = find([folder])
    if len(found.runs) < 2:
        return None
    compared = compare(found.runs)
    made = blocks(compared)
    drawn = list(draw(made))
    data = page(made, compared, found, drawn).encode()
    replace_file(folder / PAGE, lambda file: file.write(data), needs=len(data))
    _to_tensorboard(folder, list(draw(made, board=True)))
    return folder / PAGE


def _to_tensorboard(folder: Path, drawn: "Sequence[Drawn]") -> None:
    """An event file in the sweep's folder; written without torch, which the process of a sweep does not import."""
    import io

    from PIL import Image
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))
    for name, png, _ in drawn:
        with Image.open(io.BytesIO(png)) as image:
            width, height = image.size
        shown = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        value = Summary.Value(tag=f"test_comparison/{name.removesuffix('.png')}", image=shown)
        writer.add_event(Event(step=0, summary=Summary(value=[value])))
    writer.close()
