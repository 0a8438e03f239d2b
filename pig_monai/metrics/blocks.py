"""Samples row by row in blocks, so that a matrix of all slices against all is never in memory at once."""

from __future__ import annotations

from collections.abc import Iterator

BLOCK = 1024


def blocks(slices: int, size: int = BLOCK) -> Iterator[slice]:
    """Yield which slices each block has, of ``size`` or fewer."""
    for start in range(0, slices, size):
        yield slice(start, min(start + size, slices))
