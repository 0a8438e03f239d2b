"""Choosing a few of many, the same ones every time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def spread_evenly(items: Sequence[T], count: int, repeated: bool = False) -> list[T]:
    """Return ``count`` of the items, spread evenly from the first one on, in their order.

    Args:
        items: indexed no more often than is returned, so a dataset loads no other slice.
        count: how many; all where there are no more.
        repeated: give ``count`` even of fewer items, each several times in turn; of none there is none.
    """
    count = count if repeated and items else min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]
