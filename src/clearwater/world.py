"""Many processes as one program: which of them this is, and what they tell each other. `torchrun` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch.distributed
from torch import Tensor

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
            torch.distributed.barrier()

    @contextmanager
    def after_the_first(self) -> Iterator[None]:
        """What the first process does before the others, who find what it has kept on the disk; all leave together."""
        if not self.first:
            self.wait()
        try:
            yield
        finally:
            if self.first:
                self.wait()
        self.wait()

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the processes, in all of them; a new tensor, of the same shape."""
        total = value.clone()
        if self.size > 1:
            torch.distributed.all_reduce(total)
        return total

    def joined(self, value: Tensor) -> Tensor:
        """The rows of all processes, in the order of their ranks, in all of them."""
        if self.size == 1:
            return value
        of_rank = torch.arange(self.size) == self.rank
        lengths = self.sum(of_rank.long() * len(value)).tolist()
        # What is gathered has to be of one length.
        padded = torch.cat([value, value.new_zeros(max(lengths) - len(value), *value.shape[1:])])
        parts = [torch.empty_like(padded) for _ in lengths]
        torch.distributed.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, lengths, strict=True)])

    def told(self, value: T) -> T:
        """What the first process has as `value`, in all of them."""
        if self.size == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values)
        return values[0]


@contextmanager
def world() -> Iterator[World]:
    """This process among those that `torchrun` started, or alone.

    Raises:
        InputError: the environment speaks of other processes, but not of how to find them.
        ClearwaterError: they were not found, or one that is talked to within this context is gone.
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
    backends = "gloo"
    if torch.cuda.is_available():
        backends = "cpu:gloo,cuda:nccl"
        # What is sharded, and what waits for others, is on the current one; `pick_device` chooses the same.
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    with _told_if(
        f"The {size} processes have not found each other at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}: "
        "see what the others said, and whether every machine can reach that address."
    ):
        torch.distributed.init_process_group(backends, timeout=_PATIENCE)
    try:
        with _told_if(
            "Another of the processes has ended, so this one does too: see what it said; the same command goes on."
        ):
            yield World(torch.distributed.get_rank(), size)
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def _told_if(sentence: str) -> Iterator[None]:
    """Says this as a `ClearwaterError` if the processes cannot talk to each other: in collectives, also torch's own."""
    try:
        yield
    except RuntimeError as error:
        # gloo's errors have no class of their own.
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error).lower():
            raise
        raise ClearwaterError(sentence) from error
