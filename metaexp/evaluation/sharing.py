"""Pieces of work shared among the processes of a run: dealt out in turn, with the results of all in order."""

from collections.abc import Callable
from typing import Any

from metaexp.system.group import ALONE, Group, portable


class Shared:
    """Piece number i is done by process i mod world alone; `results` has all of them, in every process.

    Every process must call `do` for the same pieces in the same order. What a piece computes does not depend on who
    computes it, so the results have the bits of one process.

    Args:
        group: the processes.
    """

    def __init__(self, group: Group = ALONE):
        self.group = group
        self.count = 0
        self._done: dict[int, Any] = {}
        self._failed: tuple[int, Exception] | None = None

    def do(self, make: Callable[[], Any], beside: Callable[[], Any] | None = None) -> None:
        """The next piece. In several processes its error is raised by `results`, where the others wait.

        Args:
            make: computes it.
            beside: what the first process does for a piece that is another's.
        """
        number = self.count
        self.count += 1
        if self.group.world == 1:
            self._done[number] = make()
            return
        mine = number % self.group.world == self.group.rank
        if self._failed is not None or not (mine or (beside is not None and self.group.rank == 0)):
            return
        try:
            if mine:
                self._done[number] = make()
            elif beside is not None:
                beside()
        except Exception as error:
            self._failed = (number, portable(error))

    def results(self) -> list[Any]:
        """The results of all pieces, in order. Raises the error of the first piece that failed, in every process."""
        gathered = self.group.gather((self._done, self._failed))
        failures = [failed for _, failed in gathered if failed is not None]
        if failures:
            raise min(failures, key=lambda failed: failed[0])[1]
        done = {number: result for part, _ in gathered for number, result in part.items()}
        return [done[number] for number in range(self.count)]
