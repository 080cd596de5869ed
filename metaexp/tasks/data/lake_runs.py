"""The 20 runs of Lake's one-shot classification: 20 characters of one alphabet to learn, 20 drawings to classify.

"Human-level concept learning through probabilistic program induction", Lake, Salakhutdinov, Tenenbaum, Science, 2015.
The authors' `all_runs.zip` holds, per run, training/class01.png ... class20.png, test/item01.png ... item20.png, and
class_labels.txt, which says of each item its class. It is read in place.
"""

import hashlib
import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from metaexp.errors import DataError
from metaexp.tasks.data.download import fetch_checked
from metaexp.tasks.data.items import reason
from metaexp.tasks.data.omniglot import SIDE, SOURCE, drawing

RUNS, ITEMS = 20, 20
FILE = "all_runs.zip"
SHA256 = "437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325"  # of the authors' file
LARGEST = 1 << 16  # bytes of a member


class Runs(NamedTuple):
    """All runs; a class has one training drawing, and the item of the same place is its test drawing.

    Attributes:
        train, test: uint8 [20, 20, size, size], bright ink on 0.
    """

    train: np.ndarray
    test: np.ndarray


def read_runs(root: Path, resize: str, size: int, download: bool, verify: bool) -> Runs:
    """The runs; the test drawings are put into the order of their classes. Sizes as for `metaexp.tasks.data.omniglot`.

    Raises:
        DataError: the file is missing, damaged, or not the authors' (unless `verify` is false).
    """
    path = root / FILE
    if not path.is_file():
        url = f"{SOURCE}/one-shot-classification/{FILE}"
        if not download:
            raise DataError(f"{path}: no such file; task.download=true fetches it (0.4 MB), or put there {url}")
        fetch_checked(url, path, "sha256", SHA256)
    content = path.read_bytes()
    if verify and (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise DataError(
            f"{path}: sha256 is {found}, expected {SHA256}: damaged or changed; get a fresh copy, or take it as it is "
            "with task.verify=false"
        )
    made = np.zeros((2, RUNS, ITEMS, size, size), np.uint8)
    name = FILE
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for run in range(RUNS):
                name = f"run{run + 1:02d}/class_labels.txt"
                pairs = [line.split() for line in _member(archive, name).decode("ascii").splitlines() if line.strip()]
                for kind in (0, 1):
                    if len({pair[kind] for pair in pairs}) != ITEMS or len(pairs) != ITEMS:
                        raise ValueError(f"does not pair {ITEMS} items with {ITEMS} classes")
                for place, (item, known) in enumerate(sorted(pairs, key=lambda pair: pair[1])):
                    for kind, name in enumerate((known, item)):
                        with Image.open(io.BytesIO(_member(archive, name)), formats=["PNG"]) as image:
                            if image.size != (SIDE, SIDE):
                                raise ValueError(f"{image.size[0]}x{image.size[1]} pixels, expected {SIDE}x{SIDE}")
                            made[kind, run, place] = drawing(np.asarray(image.convert("L")) < 128, resize, size)
    except Exception as error:  # Pillow, zipfile and zlib raise a dozen kinds on damaged bytes
        raise DataError(f"{path}: damaged at {name} ({reason(error)}); get a fresh copy") from error
    return Runs(made[0], made[1])


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > LARGEST:
        raise ValueError("larger than any drawing")
    return archive.read(name)
