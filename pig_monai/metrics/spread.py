"""Mean and standard deviation of one figure over folds, or over runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A figure over folds, or over runs.

    Args:
        values: one each; None where it is undefined or was refused.
    """

    values: Sequence[float | None]

    @property
    def known(self) -> list[float]:
        """The values that are there."""
        return [value for value in self.values if value is not None]

    @property
    def mean(self) -> float | None:
        """Over what is known."""
        return statistics.fmean(self.known) if self.known else None

    @property
    def total(self) -> float | None:
        """The sum; None unless all are known."""
        return sum(self.known) if len(self.known) == len(self.values) else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation (n − 1); None for a single value."""
        return statistics.stdev(self.known) if len(self.known) > 1 else None
