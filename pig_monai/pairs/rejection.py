"""Which candidates are thrown away, and why: always by an absolute rule, always counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pig_monai.cli import as_number
from pig_monai.errors import PigError
from pig_monai.mask_features import MaskFeatures, measure_mask


@dataclass(frozen=True)
class Limits:
    """What a mask must keep to be accepted; the limits themselves are allowed.

    Args:
        min_mask_area: share of the slice's pixels.
        max_mask_area: share of the slice's pixels.
        max_components: 8-connected ones.
        min_inside_breast: share of the mask's pixels.
    """

    min_mask_area: float
    max_mask_area: float
    max_components: float
    min_inside_breast: float

    def to_dict(self) -> dict[str, float]:
        """Return the limits by id."""
        return asdict(self)


NO_LIMITS = Limits(0.0, 1.0, 1e9, 0.0)
"""For masks that are given: only an empty one is no pair."""

QUANTILES = {
    "min_mask_area": ("area", "0.01"),
    "max_mask_area": ("area", "0.99"),
    "max_components": ("components", "0.99"),
    "min_inside_breast": ("inside_breast", "0.01"),
}
"""Where each limit's default stands in a checkpoint's ``meta["masks"]``: the training masks' own quantiles."""

LIMIT_OF = {
    "tiny": "min_mask_area",
    "oversized": "max_mask_area",
    "fragmented": "max_components",
    "outside_breast": "min_inside_breast",
}
"""Reason → the limit that was not kept. An empty mask is no pair, whatever the limits."""

UNDERTRAINED = ("empty", "fragmented", "outside_breast")
"""What the masks of undertrained weights are rejected for."""

Rule = Callable[[MaskFeatures, Limits], bool]

REASONS: dict[str, Rule] = {
    "empty": lambda mask, limits: mask.area == 0,
    "tiny": lambda mask, limits: mask.area < limits.min_mask_area,
    "oversized": lambda mask, limits: mask.area > limits.max_mask_area,
    "fragmented": lambda mask, limits: mask.components > limits.max_components,
    "outside_breast": lambda mask, limits: mask.inside_breast < limits.min_inside_breast,
}
"""Reason → whether a mask is rejected for it; the first that applies counts."""


def rejection_reason(mask: np.ndarray, image: np.ndarray, limits: Limits) -> str | None:
    """Return why a candidate is rejected, or None where it is accepted.

    Args:
        mask: bool (W, H).
        image: the slice, float (W, H) in [−1, 1].
        limits: to keep.
    """
    features = measure_mask(mask, image)
    return next((reason for reason, applies in REASONS.items() if applies(features, limits)), None)


def find_limits(meta: Mapping[str, Any], **given: float | None) -> Limits:
    """Return the limits of a run: those that are given, and the training set's quantiles for those that are None.

    Args:
        meta: of the generator's checkpoint; ``masks`` holds the quantiles.
        given: each of the `Limits` by name.

    Raises:
        PigError: a limit that is no number, two that no mask can keep, or a checkpoint without the quantiles.
    """
    for name, value in given.items():
        if value is not None:
            as_number(value, name, most=math.inf if name == "max_components" else 1)
    masks = meta.get("masks", {})
    lacking = [name for name, value in given.items() if value is None and QUANTILES[name][0] not in masks]
    if lacking:
        raise PigError(
            f"the {meta['role']}'s checkpoint says nothing of its training masks' {QUANTILES[lacking[0]][0]}",
            f"give {' and '.join(f'--{name}' for name in lacking)}, or train it anew",
        )
    values = {}
    for name, value in given.items():
        statistic, quantile = QUANTILES[name]
        values[name] = float(masks[statistic][quantile] if value is None else value)
    limits = Limits(**values)
    if limits.min_mask_area > limits.max_mask_area:
        raise PigError(
            f"min_mask_area {limits.min_mask_area:g} is more than max_mask_area {limits.max_mask_area:g}",
            "no mask can keep both: lower min_mask_area or raise max_mask_area",
        )
    return limits


def too_few_accepted(accepted: int, rejected: Mapping[str, int], limits: Limits) -> PigError:
    """Return the error of a run that rejects nearly everything: the commonest reason, and what can be done.

    Args:
        accepted: how many candidates.
        rejected: counts by reason, at least one of them above 0.
        limits: that were in use.
    """
    commonest = max(rejected, key=lambda reason: rejected[reason])
    limit = LIMIT_OF.get(commonest)
    by = f" ({limit} is {limits.to_dict()[limit]:.4g})" if limit else ""
    judged = accepted + sum(rejected.values())
    remedies = []
    if commonest in UNDERTRAINED:
        remedies.append(f"train longer ({commonest} masks are typical of undertrained weights)")
    if limit:
        remedies.append(f"{'raise' if limit.startswith('max') else 'lower'} {limit}")
    return PigError(
        f"only {accepted} of {judged} candidates were accepted, and most are {commonest}{by}: "
        f"{describe_counts(rejected)}",
        ", or ".join([*remedies, "lower min_accepted"]),
    )


def describe_counts(rejected: Mapping[str, int]) -> str:
    """Say how many were rejected for which reason: ``12 empty, 0 tiny, …``."""
    return ", ".join(f"{count} {reason}" for reason, count in rejected.items())
