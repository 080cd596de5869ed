"""Fake copies of Omniglot for tests: every image encodes its character and drawer, so episodes can be decoded."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

PARTS = {"background": (30, 964), "evaluation": (20, 659)}  # alphabets and characters, as in the real set


def names(part: str) -> list[str]:
    """ "Alphabet/characterNN" of every character of a part, sorted; alphabets have about equal sizes."""
    alphabets, count = PARTS[part]
    cuts = np.linspace(0, count, alphabets + 1).astype(int)
    return [f"{part}{a:02d}/character{i + 1:02d}" for a in range(alphabets) for i in range(cuts[a + 1] - cuts[a])]


def write_packed(folder: Path) -> Path:
    """Writes omniglot28_*.npz with all 1623 characters into `folder` and returns it (1 s; `task.root=` it)."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for part, (_, count) in PARTS.items():
        images = np.zeros((count, 20, 28, 28), np.uint8)
        number = first + np.arange(count)
        images[:, :, 0, 0], images[:, :, 0, 1] = (number // 64)[:, None], (number % 64)[:, None]
        images[:, :, 0, 2] = np.arange(20) + 1
        images[:, :, 1, 0] = 255  # together with the corner it shows how the image is rotated
        np.savez_compressed(folder / f"omniglot28_{part}.npz", images=images, names=np.array(names(part)))
        first += count
    return folder


def decode(x: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Characters, drawers (from 0) and quarter turns of images [*n, 1, 28, 28] of such a copy, int64 [*n] each."""
    pixels = (x.double().numpy()[..., 0, :, :] * 255).round().astype(np.int64)
    result = np.full((3, *pixels.shape[:-2]), -1)
    for turns in range(4):
        back = np.rot90(pixels, -turns, (-2, -1))
        fits = (back[..., 1, 0] == 255) & (back[..., 0, 2] > 0) & (back[..., 0, 2] < 21) & (back[..., 0, 3] == 0)
        here = np.stack([back[..., 0, 0] * 64 + back[..., 0, 1], back[..., 0, 2] - 1, np.full(fits.shape, turns)])
        result = np.where(fits, here, result)
    assert (result >= 0).all()
    return result[0], result[1], result[2]


def write_runs(root: Path) -> None:
    """all_runs.zip in the authors' form, with random strokes; item i of run r is of class (i + r) modulo 20."""
    draw = np.random.default_rng(2)
    with zipfile.ZipFile(root / "all_runs.zip", "w") as archive:
        for run in range(1, 21):
            lines = []
            for i in range(20):
                item, known = (
                    f"run{run:02d}/test/item{i + 1:02d}.png",
                    f"run{run:02d}/training/class{(i + run) % 20 + 1:02d}.png",
                )
                lines.append(f"{item} {known}")
                for name in (item, known):
                    ink = draw.random((15, 15)).repeat(7, 0).repeat(7, 1) < 0.2
                    file = io.BytesIO()
                    Image.fromarray(~ink).save(file, "PNG")
                    archive.writestr(name, file.getvalue())
            archive.writestr(f"run{run:02d}/class_labels.txt", "\n".join(lines) + "\n")
