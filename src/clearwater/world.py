"""Many processes as one program: which of them this is, and what they tell each other. `torchrun` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch.distributed

from clearwater.errors import ClearwaterError, InputError

__all__ = ["World", "world"]

T = TypeVar("T")

_PATIENCE = timedelta(days=1)  # the slowest may still be at its last batch; a process that died ends all of them


@dataclass(frozen=True)
class World:
    """The processes of one program.

    Attributes:
        rank: which of them this is, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks to the user and writes what there is one of."""
        return self.rank == 0

    def wait(self) -> None:
        """Waits until all have come here."""
        if self.size > 1:
            with _ends_of_others():
                torch.distributed.barrier()

    @contextmanager
    def after_the_first(self) -> Iterator[None]:
        """What the first process does before the others: they find what it has kept on the disk."""
        if not self.first:
            self.wait()
        try:
            yield
        finally:
            if self.first:
                self.wait()

    def told(self, value: T) -> T:
        """What the first process has as `value`, in all of them."""
        if self.size == 1:
            return value
        values = [value]
        with _ends_of_others():
            torch.distributed.broadcast_object_list(values)
        return values[0]


@contextmanager
def _ends_of_others() -> Iterator[None]:
    """Says in a sentence that a process which this one waits for is gone."""
    try:
        yield
    except RuntimeError as error:  # gloo's, and what the other backends' errors are made of
        raise ClearwaterError("Another of the processes has ended, so this one does too: see what it says.") from error


@contextmanager
def world() -> Iterator[World]:
    """This process among those that `torchrun` started, or alone.

    Raises:
        InputError: the environment speaks of other processes, but not of how to find them.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    if not {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise InputError(
            f"WORLD_SIZE is {size}, but RANK, MASTER_ADDR or MASTER_PORT is not set: start the processes with "
            "torchrun, or unset WORLD_SIZE."
        )
    torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield World(torch.distributed.get_rank(), size)
    finally:
        torch.distributed.destroy_process_group()
