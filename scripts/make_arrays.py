"""python scripts/make_arrays.py [FOLDER]: example data for experiment=arrays_finetune.

Writes base.npz (1,000 rows) and new.npz (100 rows), each with x [rows, 10] and y [rows, 1], in the form that your own
data should have. Both follow y = sin(a . x) + b . x + 0.1 noise with hidden a and b; those of new.npz differ a little,
so what is learned from the first file helps with the second but is not enough. Every call writes the same bytes.
"""

import argparse
from pathlib import Path

import numpy as np

SEED, INPUTS = 0, 10


def rows(random: np.random.Generator, n: int, a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    """n rows of the function with these coefficients [INPUTS]: x [n, INPUTS] and y [n, 1], float32."""
    x = random.standard_normal((n, INPUTS))
    y = np.sin(x @ a) + x @ b + 0.1 * random.standard_normal(n)
    return {"x": x.astype(np.float32), "y": y[:, None].astype(np.float32)}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("."), help="where to write; default: here")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(SEED)
    a, b = random.standard_normal((2, INPUTS)) / np.sqrt(INPUTS)
    shift = 0.3 * random.standard_normal((2, INPUTS)) / np.sqrt(INPUTS)
    np.savez(folder / "base.npz", **rows(random, 1000, a, b))
    np.savez(folder / "new.npz", **rows(random, 100, a + shift[0], b + shift[1]))
    print(f"{folder / 'base.npz'} (1000 x {INPUTS}) and {folder / 'new.npz'} (100 x {INPUTS})")


if __name__ == "__main__":
    main()
