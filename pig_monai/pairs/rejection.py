"""Which candidates are thrown away, and why: always by an absolute rule, always counted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Rule = Callable[[np.ndarray], bool]

REASONS: dict[str, Rule] = {
    "empty": lambda mask: not mask.any(),
}
"""Reason → whether a mask (bool, (W, H)) is rejected for it; the first that applies counts."""


def rejection_reason(mask: np.ndarray) -> str | None:
    """Return why the mask is rejected, or None where it is accepted."""
    return next((reason for reason, applies in REASONS.items() if applies(mask)), None)
