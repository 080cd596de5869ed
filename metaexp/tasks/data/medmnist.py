"""MedMNIST: small medical pictures as npz files, read and fetched.

"MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image classification", Yang, Shi, Wei, Liu,
Zhao, Ke, Pfister, Ni, Scientific Data 10:41, 2023. Names, labels and checksums are those of the authors' package,
version 3.0.2. A file NAME.npz (28 pixels) or NAME_64.npz, NAME_128.npz, NAME_224.npz holds train_images, val_images,
test_images, uint8 [n, side, side] or [n, side, side, 3], and train_labels, val_labels, test_labels [n, 1].
"""

import logging
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from metaexp.checks import nearest
from metaexp.errors import DataError
from metaexp.system.memory import memory_limit
from metaexp.tasks.data.download import fetch_checked, sum_of
from metaexp.tasks.data.items import reason

SOURCE = "https://zenodo.org/records/10519652/files"
SIDES = (28, 64, 128, 224)
log = logging.getLogger(__name__)


class Set(NamedTuple):
    """One set of pictures."""

    labels: tuple[str, ...]
    channels: int
    md5: tuple[str, ...]  # of the files of 28, 64, 128 and 224 pixels


ORGANS = (  # of the three views of the same scans
    "bladder",
    "femur-left",
    "femur-right",
    "heart",
    "kidney-left",
    "kidney-right",
    "liver",
    "lung-left",
    "lung-right",
    "pancreas",
    "spleen",
)
# The 2-D sets in which a picture has one label; chestmnist has several.
SETS = {
    "pathmnist": Set(
        (
            "adipose",
            "background",
            "debris",
            "lymphocytes",
            "mucus",
            "smooth muscle",
            "normal colon mucosa",
            "cancer-associated stroma",
            "colorectal adenocarcinoma epithelium",
        ),
        3,
        (
            "a8b06965200029087d5bd730944a56c1",
            "55aa9c1e0525abe5a6b9d8343a507616",
            "ac42d08fb904d92c244187169d1fd1d9",
            "2c51a510bcdc9cf8ddb2af93af1eadec",
        ),
    ),
    "dermamnist": Set(
        (
            "actinic keratoses and intraepithelial carcinoma",
            "basal cell carcinoma",
            "benign keratosis-like lesions",
            "dermatofibroma",
            "melanoma",
            "melanocytic nevi",
            "vascular lesions",
        ),
        3,
        (
            "0744692d530f8e62ec473284d019b0c7",
            "b70a2f5635c6199aeaa28c31d7202e1f",
            "2defd784463fa5243564e855ed717de1",
            "8974907d8e169bef5f5b96bc506ae45d",
        ),
    ),
    "octmnist": Set(
        ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
        1,
        (
            "c68d92d5b585d8d81f7112f81e2d0842",
            "e229e9440236b774d9f0dfef9d07bdaf",
            "0a97e76651ace45c5d943ee3f65b63ae",
            "abc493b6d529d5de7569faaef2773ba3",
        ),
    ),
    "pneumoniamnist": Set(
        ("normal", "pneumonia"),
        1,
        (
            "28209eda62fecd6e6a2d98b1501bb15f",
            "8f4eceb4ccffa70c672198ea285246c6",
            "05b46931834c231683c68f40c47b2971",
            "d6a3c71de1b945ea11211b03746c1fe1",
        ),
    ),
    "retinamnist": Set(
        ("0", "1", "2", "3", "4"),
        3,
        (
            "bd4c0672f1bba3e3a89f0e4e876791e4",
            "afda852cc34dcda56f86ad2b2457dbcc",
            "e48e916a24454daf90583d4e6efb1a18",
            "eae7e3b6f3fcbda4ae613ebdcbe35348",
        ),
    ),
    "breastmnist": Set(
        ("malignant", "normal, benign"),
        1,
        (
            "750601b1f35ba3300ea97c75c52ff8f6",
            "742edef2a1fd1524b2efff4bd7ba9364",
            "363e4b3f8d712e9b5de15470a2aaadf1",
            "b56378a6eefa9fed602bb16d192d4c8b",
        ),
    ),
    "bloodmnist": Set(
        (
            "basophil",
            "eosinophil",
            "erythroblast",
            "immature granulocytes (myelocytes, metamyelocytes and promyelocytes)",
            "lymphocyte",
            "monocyte",
            "neutrophil",
            "platelet",
        ),
        3,
        (
            "7053d0359d879ad8a5505303e11de1dc",
            "2b94928a2ae4916078ca51e05b6b800b",
            "adace1e0ed228fccda1f39692059dd4c",
            "b718ff6835fcbdb22ba9eacccd7b2601",
        ),
    ),
    "tissuemnist": Set(
        (
            "Collecting Duct, Connecting Tubule",
            "Distal Convoluted Tubule",
            "Glomerular endothelial cells",
            "Interstitial endothelial cells",
            "Leukocytes",
            "Podocytes",
            "Proximal Tubule Segments",
            "Thick Ascending Limb",
        ),
        1,
        (
            "ebe78ee8b05294063de985d821c1c34b",
            "123ece2eba09d0aa5d698fda57103344",
            "61b955355d7425a89687b06cca3ce0c2",
            "b077128c4a949f0a4eb01517f9037b9c",
        ),
    ),
    "organamnist": Set(
        ORGANS,
        1,
        (
            "68e3f8846a6bd62f0c9bf841c0d9eacc",
            "2dcccc29b88e6da5a01161ef20cda288",
            "eeae80d0a227a8d099027e1b3cfd3b60",
            "50747347e05c87dd3aaf92c49f9f3170",
        ),
    ),
    "organcmnist": Set(
        ORGANS,
        1,
        (
            "b9ceb9546e10131b32923c5bbeaea2b1",
            "3ce34a8724ea6f548e6db4744d03b6a9",
            "773c1f009daa3fe5d9a2a201b2a7ed94",
            "050f5e875dc056f6768abf94ec9995d1",
        ),
    ),
    "organsmnist": Set(
        ORGANS,
        1,
        (
            "9ab87b696fb54e2a387ebe992d6ed5f1",
            "53a6d115339d874c25e309a994ff46d3",
            "ded0c5fa01a95dc4978b956f613e9b8e",
            "b354719e553fbbb2513d5533f52a4cb1",
        ),
    ),
}


def check_names(names: list[str]) -> None:
    """Raises ValueError for the name of no set, or of one that cannot be divided into classes."""
    for name in names:
        if name == "chestmnist":
            raise ValueError("set=chestmnist: a picture has several labels, so there are no classes to tell apart")
        if name.endswith("3d"):
            raise ValueError(f"set={name}: pictures in three dimensions; the sets are {', '.join(SETS)}")
        if name not in SETS:
            raise ValueError(f"set={name}: no such set{nearest(name, list(SETS)) or f'; the sets are {list(SETS)}'}")


class Source(NamedTuple):
    """The file of a set."""

    name: str
    path: Path
    side: int
    official: bool  # whether its MD5 is the authors'


def locate(root: Path, name: str, size: int, download: bool) -> Source:
    """The file of a set with the fewest pixels that are enough for `size`, else with the most that is there.

    Raises:
        DataError: there is none, and it may not or cannot be downloaded.
    """
    paths = {side: root / (f"{name}.npz" if side == 28 else f"{name}_{side}.npz") for side in SIDES}
    there = [side for side in SIDES if paths[side].is_file()]
    wanted = next((side for side in SIDES if side >= size), SIDES[-1])
    if not there or (download and wanted not in there):
        url = f"{SOURCE}/{paths[wanted].name}?download=1"
        if not download:
            raise DataError(f"{paths[wanted]}: no such file; task.download=true fetches it, or put there {url}")
        fetch_checked(url, paths[wanted], "md5", SETS[name].md5[SIDES.index(wanted)], most=1 << 36)
        there = sorted([*there, wanted])
    side = next((side for side in there if side >= size), there[-1])
    official = sum_of(paths[side], "md5") == SETS[name].md5[SIDES.index(side)]
    if not official:
        log.info("%s: not the authors' file (another MD5); read as it is", paths[side])
    return Source(name, paths[side], side, official)


def read(source: Source, split: str, size: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """The pictures and labels of one split, sorted by label: uint8 [n, channels, size, size], int64 [n].

    Pictures of another size are scaled by Lanczos' filter, colours become grey by Rec. 601's weights, and grey is
    repeated for three channels.

    Raises:
        DataError: the file is damaged or of another form.
    """
    try:
        with np.load(source.path, allow_pickle=False) as file:
            pixels, labels = (_member(source, file, f"{split}_{what}") for what in ("images", "labels"))
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds on damaged bytes
        raise DataError(f"{source.path}: damaged or no npz of arrays ({reason(error)}); get a fresh copy") from error
    known, shape = SETS[source.name], (source.side, source.side)
    if pixels.dtype != np.uint8 or pixels.shape[1:] not in (shape, (*shape, 3)) or len(pixels) == 0:
        what = f"{pixels.dtype} {list(pixels.shape)}"
        raise DataError(f"{source.path}: {split}_images is {what}, expected uint8 [n, {shape[0]}, {shape[0]}(, 3)]")
    if labels.dtype.kind not in "iu" or labels.shape not in ((len(pixels), 1), (len(pixels),)):
        what = f"{labels.dtype} {list(labels.shape)}"
        raise DataError(f"{source.path}: {split}_labels is {what}, expected whole numbers [{len(pixels)}, 1]")
    labels = labels.reshape(-1).astype(np.int64)
    if labels.min() < 0 or labels.max() >= len(known.labels):
        bad = int(np.flatnonzero((labels < 0) | (labels >= len(known.labels)))[0])
        raise DataError(
            f"{source.path}: {split}_labels[{bad}] is {labels[bad]}; {source.name} has {len(known.labels)} classes"
        )
    order = np.argsort(labels, kind="stable")
    return _as_asked(pixels, size, channels)[order], labels[order]


def _member(source: Source, file: Any, name: str) -> np.ndarray:
    if name not in file.files:
        raise DataError(f"{source.path}: has no {name}, only {', '.join(file.files) or 'nothing'}")
    with zipfile.ZipFile(source.path) as archive:
        needed = archive.getinfo(f"{name}.npy").file_size
    if needed > memory_limit():
        raise DataError(f"{source.path}: {name} takes {needed / 1e9:.1f} GB of memory, more than there is")
    return np.asarray(file[name])


def _as_asked(pixels: np.ndarray, size: int, channels: int) -> np.ndarray:
    """[n, side, side] or [n, side, side, 3] -> [n, channels, size, size]."""
    mode = "L" if channels == 1 else "RGB"
    if pixels.shape[1:3] == (size, size) and (pixels.ndim == 3) == (channels == 1):
        return pixels[:, None] if channels == 1 else pixels.transpose(0, 3, 1, 2)
    made = np.empty((len(pixels), channels, size, size), np.uint8)
    for i, picture in enumerate(pixels):
        image = Image.fromarray(picture).convert(mode)
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.LANCZOS)
        made[i] = np.asarray(image)[None] if channels == 1 else np.asarray(image).transpose(2, 0, 1)
    return made
