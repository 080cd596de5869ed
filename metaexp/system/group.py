"""The processes of one run working together: votes, results of all, and what the first one decides."""

import io
import pickle
import socket
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed

T = TypeVar("T")
_LOST = ("Connection closed by peer", "Timed out waiting", "timed out", "Connection reset", "Broken pipe", "gloo")


class Group:
    """The processes of a run, from the view of one of them. With world=1 nothing is sent.

    Every process must call the same methods in the same order.

    Args:
        rank, world: number of this process, and of all.
    """

    def __init__(self, rank: int = 0, world: int = 1):
        self.rank, self.world = rank, world

    @classmethod
    def current(cls) -> "Group":
        """The processes that have joined each other; this process alone if it has joined none."""
        there = torch.distributed.is_available() and torch.distributed.is_initialized()
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size()) if there else cls()

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in any process."""
        if self.world == 1:
            return list(flags)
        return [any(column) for column in zip(*self.gather(flags), strict=True)]

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank; they must be picklable."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def first(self, make: Callable[[], T], device: torch.device | str = "cpu") -> T:
        """What `make` returns in the first process, in all of them; its tensors are on `device`.

        If it raises, the first process raises that, and the others end silently with the same exit code.
        """
        if self.world == 1:
            return make()
        if self.rank > 0:
            box: list[Any] = [None, None]
            torch.distributed.broadcast_object_list(box, src=0)
            if box[1] is not None:
                _end_silently(box[1])
            value: T = torch.load(io.BytesIO(box[0]), map_location=device, weights_only=False)
            return value
        try:
            made, buffer = make(), io.BytesIO()
            torch.save(made, buffer)
        except BaseException as error:
            torch.distributed.broadcast_object_list([None, exit_code_of(error)], src=0)
            raise
        torch.distributed.broadcast_object_list([buffer.getvalue(), None], src=0)
        return made

    def each(self, make: Callable[[], T]) -> T:
        """What `make` returns in this process, once it has returned in all of them.

        If it raises anywhere, the lowest such rank raises its error and the others end silently with its exit code.
        """
        if self.world == 1:
            return make()
        made: Any = None
        failed: BaseException | None = None
        try:
            made = make()
        except Exception as error:
            failed = error
        codes = self.gather(None if failed is None else exit_code_of(failed))
        for rank, code in enumerate(codes):
            if code is not None and rank == self.rank and failed is not None:
                if rank > 0:
                    failed.args = (f"rank {rank} on {socket.gethostname()}: {failed}", *failed.args[1:])
                raise failed
            if code is not None:
                _end_silently(code)
        value: T = made
        return value


def _end_silently(code: int) -> NoReturn:
    time.sleep(1)  # a launcher ends all processes when the first of them fails; one has a line to print
    raise SystemExit(code)


ALONE = Group()


def exit_code_of(error: BaseException) -> int:
    """The exit code with which this error ends a process."""
    return int(getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1))


def portable(error: Exception) -> Exception:
    """The error itself, or one that says the same, if the error cannot be sent to another process."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def lost(error: BaseException) -> bool:
    """Whether an exception says that another process has ended or has not answered in time."""
    if isinstance(error, torch.distributed.DistError):
        return True
    return type(error) is RuntimeError and any(mark in str(error) for mark in _LOST)


def timed_out(error: BaseException) -> bool:
    """Whether it says that another process has not answered in time."""
    return any(mark in str(error).lower() for mark in ("timed out", "timeout"))
