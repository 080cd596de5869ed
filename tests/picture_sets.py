"""Tiny published picture sets in their authors' layouts, for tests."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from metaexp.random import SPLITS
from metaexp.tasks.data.cifar100 import FC100
from metaexp.tasks.data.published import read_list, tiered_lists


def class_folders(root: Path, labels: list[str], each: int = 3) -> None:
    """root/LABEL/LABEL_1.JPEG ...: links to a few pictures."""
    root.mkdir(parents=True)
    for i in range(each):
        Image.new("RGB", (16, 16), (60 * i, 90, 200)).save(root / f"{i}.png")
    for label in labels:
        (root / label).mkdir()
        for i in range(each):
            os.symlink(root / f"{i}.png", root / label / f"{label}_{i}.JPEG")


def write_sets(root: Path) -> dict[str, str]:
    """Name of a preset -> folder with all of its classes."""
    mini = read_list("mini_imagenet")
    class_folders(root / "mini_imagenet", [label for split in SPLITS for label in mini[split]])
    class_folders(root / "tiered_imagenet", [label for members in tiered_lists().values() for label in members])
    class_folders(root / "cub" / "images", [f"{i:03d}.Bird" for i in range(1, 201)])
    folder = root / "cifar100" / "cifar-100-binary"
    folder.mkdir(parents=True)
    fine = np.repeat(np.arange(100), 3)
    table = np.concatenate([(fine // 5)[:, None], fine[:, None], np.full((300, 3072), 7) * (fine[:, None] % 30)], 1)
    for name in ("train", "test"):
        (folder / f"{name}.bin").write_bytes(table.astype(np.uint8).tobytes())
    names = [f"class_{i:02d}" for i in range(100)]
    (folder / "fine_label_names.txt").write_text("\n".join(names))
    (folder / "coarse_label_names.txt").write_text(
        "\n".join(sorted({name for part in FC100.values() for name in part}))
    )
    (root / "cifar100" / "splits" / "bertinetto").mkdir(parents=True)
    for split, members in {"train": names[:64], "val": names[64:80], "test": names[80:]}.items():
        (root / "cifar100" / "splits" / "bertinetto" / f"{split}.txt").write_text("\n".join(members))
    places = {name: str(root / name) for name in ("mini_imagenet", "tiered_imagenet", "cub")}
    return places | {"cifar_fs": str(root / "cifar100"), "fc100": str(root / "cifar100")}
