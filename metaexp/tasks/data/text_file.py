"""Text files of the user: their content, or one line that says what is wrong with them."""

from pathlib import Path

from metaexp.errors import DataError


def utf8(path: Path, wanted: str) -> str:
    """The content of a text file that `task.file` names.

    Args:
        wanted: what the file may be, for the message where there is none: "a CSV or TSV file".

    Raises:
        DataError: it is missing, cannot be read, is empty or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; task.file= names {wanted}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if not content.strip():
        raise DataError(f"{path}: is empty")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path}: line {line} is not UTF-8; save the file as UTF-8") from error
