"""Reading CIFAR-100 in its authors' forms, and the class lists of CIFAR-FS and FC100.

"Learning Multiple Layers of Features from Tiny Images", Krizhevsky, 2009: 60,000 pictures of 32 x 32 in 100 classes and
20 superclasses. The files are read where they are: `cifar-100-binary` (train.bin, test.bin), `cifar-100-python` (train,
test, meta; pickles of which nothing but arrays, lists and texts is accepted), either as a folder or as the authors'
tar.gz, or the folder of pictures that the authors of CIFAR-FS published (data/CLASS/*.png).
"""

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metaexp.errors import DataError
from metaexp.random import SPLITS
from metaexp.tasks.data.download import fetch_checked
from metaexp.tasks.data.items import reason
from metaexp.tasks.data.pictures import decode, folders_of, pictures_of

SIDE = 32
SOURCE = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
MD5 = "eb9058c3a382ffc7106e4002c42a8d85"
LARGEST = 1 << 30  # bytes of a file; CIFAR-100 has less than a fifth of that
# "TADAM", Oreshkin, Rodriguez, Lacoste, 2018: superclasses, in the authors' datasets/create_dataset_cifar100.py at
# commit 5c91a74e13167dac1e1132d41247531f8e5ece66 of github.com/ServiceNow/TADAM (the paper's text has other counts).
FC100 = {
    "train": (
        "fish", "flowers", "food_containers", "fruit_and_vegetables", "household_electrical_devices",
        "household_furniture", "large_man-made_outdoor_things", "large_natural_outdoor_scenes", "reptiles", "trees",
        "vehicles_1", "vehicles_2",
    ),
    "val": ("large_carnivores", "large_omnivores_and_herbivores", "non-insect_invertebrates", "small_mammals"),
    "test": ("aquatic_mammals", "insects", "medium_mammals", "people"),
}  # fmt: skip


class Table(NamedTuple):
    """All pictures, class after class."""

    pixels: np.ndarray  # uint8 [n, 3, 32, 32]
    names: list[str]  # of the classes
    counts: list[int]
    superclasses: list[str] | None  # of the classes; None where the files do not say


class _Arrays(pickle.Unpickler):
    """Reads arrays, lists, dictionaries and texts; a pickle that names anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return lambda text, *_: text.encode("latin1")
        raise pickle.UnpicklingError(f"it names {module}.{name}, which has no place in CIFAR-100")


def read(root: Path, download: bool) -> Table:
    """CIFAR-100 from a folder.

    Raises:
        DataError: none of the forms is there, or a file is damaged.
    """
    target = root / "cifar-100-python.tar.gz"
    for _ in range(2):
        for name, reader in (("cifar-100-binary", _binary), ("cifar-100-python", _python)):
            places = [root / name] if (root / name).is_dir() else [root] if root.name == name else []
            for get in [_folder(place) for place in places] or _archives(root, name):
                return _table(root, *reader(get))
        for base in (root, root / "cifar100"):
            if (base / "data").is_dir():
                return _pictures(base / "data")
        if not download:
            break
        fetch_checked(SOURCE, target, "md5", MD5, most=1 << 28)
    raise DataError(
        f"{root}: no CIFAR-100 there (cifar-100-python.tar.gz, cifar-100-binary.tar.gz, or either unpacked); "
        f"task.download=true fetches {SOURCE}, or put that file there"
    )


def _folder(place: Path) -> Callable[[str], bytes]:
    def get(name: str) -> bytes:
        try:
            if (place / name).stat().st_size > LARGEST:
                raise DataError(f"{place / name}: larger than any file of CIFAR-100")
            return (place / name).read_bytes()
        except OSError as error:
            raise DataError(f"{place / name}: cannot be read ({error.strerror}); get a fresh copy") from error

    return get


def _archives(root: Path, folder: str) -> list[Callable[[str], bytes]]:
    path = root / f"{folder}.tar.gz"

    def get(name: str) -> bytes:
        try:
            with tarfile.open(path) as archive:
                member = archive.getmember(f"{folder}/{name}")
                content = archive.extractfile(member)
                if content is None or member.size > LARGEST:
                    raise DataError(f"{path}: its {member.name} is no file of CIFAR-100")
                return content.read()
        except DataError:
            raise
        except Exception as error:  # tarfile, gzip and zlib raise a dozen kinds on damaged bytes
            raise DataError(f"{path}: damaged, or without {name} ({reason(error)}); get a fresh copy") from error

    return [get] if path.is_file() else []


_Parts = tuple[np.ndarray, np.ndarray, np.ndarray, list[str], list[str]]  # pixels, fine, coarse, names of both


def _binary(get: Callable[[str], bytes]) -> _Parts:
    """Records of 1 byte superclass, 1 byte class, 3,072 bytes of red, green and blue rows."""
    rows = []
    for name in ("train.bin", "test.bin"):
        content = np.frombuffer(get(name), np.uint8)
        if len(content) == 0 or len(content) % 3074:
            raise DataError(f"cifar-100-binary/{name}: {len(content)} bytes, not a multiple of 3074; get a fresh copy")
        rows.append(content.reshape(-1, 3074))
    table = np.concatenate(rows)
    fine, coarse = (get(f"{kind}_label_names.txt").decode("ascii", "replace").split() for kind in ("fine", "coarse"))
    return table[:, 2:].reshape(-1, 3, SIDE, SIDE), table[:, 1].astype(int), table[:, 0].astype(int), fine, coarse


def _python(get: Callable[[str], bytes]) -> _Parts:
    found = {}
    for name in ("train", "test", "meta"):
        content = get(name)
        try:
            found[name] = _Arrays(io.BytesIO(content), encoding="latin1").load()
        except Exception as error:
            raise DataError(f"cifar-100-python/{name}: not accepted ({reason(error)}); get a fresh copy") from error
    try:
        parts = [found[name] for name in ("train", "test")]
        pixels = np.concatenate([np.asarray(part["data"]).reshape(-1, 3, SIDE, SIDE) for part in parts])
        fine, coarse = (
            np.concatenate([np.asarray(part[kind], int) for part in parts]) for kind in ("fine_labels", "coarse_labels")
        )
        names = [[str(name) for name in found["meta"][kind]] for kind in ("fine_label_names", "coarse_label_names")]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"cifar-100-python: of another form ({reason(error)}); get a fresh copy") from error
    if pixels.dtype != np.uint8:
        raise DataError(f"cifar-100-python: data is {pixels.dtype}, expected uint8; get a fresh copy")
    return pixels, fine, coarse, names[0], names[1]


def _table(
    root: Path, pixels: np.ndarray, fine: np.ndarray, coarse: np.ndarray, names: list[str], above: list[str]
) -> Table:
    if not (len(fine) == len(coarse) == len(pixels)) or fine.max() >= len(names) or coarse.max() >= len(above):
        raise DataError(f"{root}: labels and pictures of CIFAR-100 do not fit each other; get a fresh copy")
    order = np.argsort(fine, kind="stable")
    present = np.unique(fine).tolist()
    groups = [np.unique(coarse[fine == label]).tolist() for label in present]
    if any(len(group) > 1 for group in groups):
        raise DataError(f"{root}: a class of CIFAR-100 is in two superclasses; get a fresh copy")
    counts = np.bincount(fine)[present].tolist()
    return Table(pixels[order], [names[i] for i in present], counts, [above[group[0]] for group in groups])


def _pictures(folder: Path) -> Table:
    pixels, names, counts = [], [], []
    for place in folders_of(folder):
        files = pictures_of(place)
        if not files:
            raise DataError(f"{place}: no pictures in it; unpack the archive again")
        pixels += [decode(path, SIDE, "stretch", 3) for path in files]
        names.append(place.name)
        counts.append(len(files))
    if not pixels:
        raise DataError(f"{folder}: no folders of pictures in it; unpack the archive again")
    return Table(np.stack(pixels), names, counts, None)


def fc100(table: Table, root: Path) -> dict[str, list[str]]:
    """60 / 20 / 20 classes, divided by superclass."""
    if table.superclasses is None:
        raise DataError(f"{root}: these pictures do not tell the superclasses, by which FC100 is divided; get {SOURCE}")
    pairs = list(zip(table.names, table.superclasses, strict=True))
    return {split: [name for name, above in pairs if above in groups] for split, groups in FC100.items()}


def cifar_fs(table: Table, root: Path) -> dict[str, list[str]]:
    """The 64 / 16 / 20 classes of "Meta-learning with differentiable closed-form solvers", Bertinetto, Henriques, Torr,
    Vedaldi, 2019. They were drawn at random, and only the authors' archive holds them."""
    place = next((b for b in (root, root / "cifar100") if (b / "splits" / "bertinetto").is_dir()), root)
    listed = {}
    for split in SPLITS:
        path = place / "splits" / "bertinetto" / f"{split}.txt"
        if not path.is_file():
            raise DataError(
                f"{path}: no such file; the classes of CIFAR-FS are listed only in its authors' archive (link in "
                "github.com/bertinetto/r2d2): put its folder splits there, or name a file by task.class_file="
            )
        listed[split] = path.read_text(encoding="utf-8", errors="replace").split()
    if [len(members) for members in listed.values()] != [64, 16, 20]:
        counts = " / ".join(str(len(members)) for members in listed.values())
        raise DataError(f"{place}/splits/bertinetto: lists {counts} classes, CIFAR-FS has 64 / 16 / 20")
    return listed
