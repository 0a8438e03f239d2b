"""The processes that torchrun started: the first one leads, the others draw their share of each round."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from torch import distributed

from pig_monai import processes
from pig_monai.errors import PigError, find_user_error
from pig_monai.stopping import StopAskedError

MEETING = timedelta(minutes=10)
"""How long a process waits for the others to start."""

PATIENCE = timedelta(days=7)
"""How long a process waits for the others' share of a round: at full size on CPUs that takes hours."""

Result = TypeVar("Result")


class Ranks:
    """One process among those of a run; the only one where torchrun did not start it.

    Candidates travel through the memory of the CPU (gloo), whatever the device.

    Args:
        rank: of this process, from 0 on; by default what torchrun says.
        size: how many processes there are; by default what torchrun says.
    """

    def __init__(self, rank: int | None = None, size: int | None = None) -> None:
        self.rank = processes.rank() if rank is None else rank
        self.size = processes.count() if size is None else size
        self._group: Any = None

    @property
    def first(self) -> bool:
        """Whether this process leads."""
        return self.rank == 0

    def join(self) -> None:
        """Meet the other processes; returns when all are there."""
        if self.size > 1:
            hook = sys.excepthook
            distributed.init_process_group("gloo", timeout=MEETING, rank=self.rank, world_size=self.size)
            sys.excepthook = hook  # torch's would put [rank0] before the line that tells of an error
            self._group = distributed.new_group(backend="gloo", timeout=PATIENCE)

    def leave(self) -> None:
        """End what `join` began."""
        if self.size > 1:
            distributed.destroy_process_group()

    def share(self, value: Any = None) -> Any:
        """Return the first process's ``value`` in every process."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def draw(self, work: Callable[[Sequence[int]], list[Result]], indices: Sequence[int]) -> list[Result]:
        """Draw a round together: process r takes the indices r, r + size, … of it.

        Args:
            work: draws what stands at the indices it is given, in their order.
            indices: of the round, the same in every process.

        Returns:
            the results in the order of ``indices``; nothing in the other processes.

        Raises:
            PigError: in the first process; another one made a user's error or has ended.
            RuntimeError: in the first process; something else went wrong in another one.
            StopAskedError: in the first process; a signal asked any of them to stop.
        """
        share = indices[self.rank :: self.size]
        mine: list[Result] | Exception
        try:
            mine = work(share) if share else []
        except Exception as cause:
            if self.size == 1:
                raise
            mine = self._portable(cause)
        everyone = self._collect(mine)
        for failed in everyone:
            if isinstance(failed, Exception):
                raise failed
        results: list[Any] = [None] * len(indices)
        for rank, drawn in enumerate(everyone):
            results[rank :: self.size] = drawn
        return results if self.first else []

    def _collect(self, value: Any) -> list[Any]:
        if self.size == 1:
            return [value]
        everyone: list[Any] | None = [None] * self.size if self.first else None
        try:
            distributed.gather_object(value, everyone, dst=0, group=self._group)
        except RuntimeError as cause:  # gloo's, when a connection breaks
            raise PigError(
                "another process of this run has ended", "the same command continues where this one stopped"
            ) from cause
        return everyone or []

    def _portable(self, cause: Exception) -> Exception:
        """Return the exception in a form that another process can read."""
        if isinstance(cause, StopAskedError):
            return cause
        return find_user_error(cause) or RuntimeError(f"process {self.rank}: {traceback.format_exc()}")
