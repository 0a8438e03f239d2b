"""What torchrun tells a process of its place among the others, in environment variables."""

from __future__ import annotations

import os


def rank() -> int:
    """Return the number of this process, from 0 on; 0 where torchrun did not start it."""
    return int(os.environ.get("RANK", 0))


def count() -> int:
    """Return how many processes there are; 1 where torchrun did not start them."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int | None:
    """Return the number of this process on its machine, or None where torchrun did not start it."""
    return int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ else None
