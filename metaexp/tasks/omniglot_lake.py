"""Lake's one-shot classification of handwritten characters: 20-way, within one alphabet, 20 given runs at test."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from metaexp.constraints import Count, Limit, checked
from metaexp.tasks.classes import Rotation, Sizes
from metaexp.tasks.data.lake_runs import ITEMS, RUNS, read_runs
from metaexp.tasks.omniglot import Characters, lake
from metaexp.types import Episode, Examples


class OmniglotLake(Characters):
    """Trains on Omniglot's background set; test task i is the authors' run i: 20 ways, 1 shot, 1 query per class.

    "Human-level concept learning through probabilistic program induction", Lake, Salakhutdinov, Tenenbaum, 2015. The 20
    runs have 400 trials, from 10 alphabets of the evaluation set; no alphabet of it is in the background set, of which
    every 6th alphabet is for validation (in tasks of the same form) and the others are for training.

    Args:
        root, resize, size, invert, download, verify: see `Omniglot`; the runs are `all_runs.zip` in the folder.
        within_alphabet: a training task has characters of one alphabet, as at test; False: of any.
        ways, shots, queries, rotation: of training tasks, see `Classes`. Those of the test are given.

    Raises:
        ValueError: a setting is out of range.
        DataError: the data are missing, incomplete or damaged.
    """

    @checked
    def __init__(
        self,
        shots: Count = 1,
        queries: Count = 5,
        ways: Annotated[int, Limit(least=2)] = 20,
        root: str | None = None,
        within_alphabet: bool = True,
        resize: Literal["lanczos", "nearest"] = "lanczos",
        size: Annotated[int, Limit(least=1, most=105)] = 28,
        invert: bool = True,
        rotation: Rotation = "none",
        download: bool = False,
        verify: bool = True,
        seed: int = 0,
        eval_seed: int = 0,
    ):
        self.protocol = {"split": "lake, 20 runs", "within_alphabet": within_alphabet, "size": size}
        test: Sizes = {"ways": ITEMS, "shots": 1, "queries": 1, "rotation": "none"}
        rest = {"ways": ways, "rotation": rotation, "test": test, "seed": seed, "eval_seed": eval_seed}
        super().__init__(
            root, download, verify, resize, size, invert, lake, within_alphabet, shots=shots, queries=queries, **rest
        )
        both = read_runs(self.folder, resize, size, download, verify)
        self.runs_train, self.runs_test = (self.drawn(part).view(RUNS, ITEMS, *self.x_shape) for part in both)

    def limit(self, split: str) -> int | None:
        """See TaskFamily.limit: 20 test tasks."""
        return RUNS if split == "test" else None

    def runs(self, split: str, tasks: int, shots: int | None = None) -> list[Tensor]:
        """See TaskFamily.runs; raises ValueError for other than 1 shot at test."""
        if split == "test":
            _check(1 if shots is None else shots, 1, ITEMS)
        return [torch.arange(tasks, device=self.device)]

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "OmniglotLake":
        """See Classes.to."""
        super().to(device, dtype)
        self.runs_train, self.runs_test = self.runs_train.to(device), self.runs_test.to(device)
        return self

    def sample(
        self,
        split: str,
        indices: Tensor,
        shots: int | None = None,
        queries: int | None = None,
        ways: int | None = None,
    ) -> Episode:
        """See Classes.sample; test task i is run i modulo 20, with fewer ways its first classes.

        Raises ValueError at test for other than 1 shot, more than 1 query per class, or more than 20 ways.
        """
        if split != "test":
            return super().sample(split, indices, shots, queries, ways)
        shots, queries = self.size(split, "shots", shots), self.size(split, "queries", queries)
        ways = self.size(split, "ways", ways)
        _check(shots, queries, ways)
        which = indices % RUNS
        y = torch.eye(ways, dtype=self.dtype, device=indices.device).expand(len(indices), ways, ways)
        support, query = (
            Examples(part[which, :count].to(self.dtype) / 255, y[:, :count])
            for part, count in ((self.runs_train, ways), (self.runs_test, ways * queries))
        )
        return Episode(support, query, self.keys(split, indices), {"run": which})


def _check(shots: int, queries: int, ways: int) -> None:
    if shots != 1 or queries > 1 or ways > ITEMS:
        raise ValueError(
            f"shots={shots}, queries={queries}, ways={ways}: the runs are {ITEMS}-way 1-shot with 1 query per class"
        )
