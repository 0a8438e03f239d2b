"""Which lesions of a slice were found, and what was predicted where there is none.

A lesion is an 8-connected part of the truth, a finding one of the prediction. A lesion is hit when one finding
has an IoU of at least 0.1 with it. A finding that shares no pixel with any lesion is a false positive. One that
touches a lesion too badly to hit it is neither.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage.measure import label

HIT_IOU = 0.1
"""Least IoU of a hit. A disc of the lesion's size may be off by 0.7 of its diameter, one around the lesion may
have ten times its area: both still show where to look. Every lesion's IoU is in lesions.csv, so that another limit
needs no other evaluation."""


@dataclass(frozen=True)
class Lesion:
    """One lesion of a slice.

    Args:
        pixels: its area.
        iou: the largest one with a single finding; 0 where none touches it.
        covered: share of its pixels that are predicted.
    """

    pixels: int
    iou: float
    covered: float

    @property
    def hit(self) -> bool:
        """Whether the lesion counts as found."""
        return self.iou >= HIT_IOU


@dataclass(frozen=True)
class Findings:
    """The lesions and findings of one slice.

    Args:
        lesions: in the order of their first pixels.
        findings: number of predicted parts.
        false_positives: of which so many touch no lesion.
    """

    lesions: list[Lesion]
    findings: int
    false_positives: int


def match_lesions(truth: np.ndarray, prediction: np.ndarray) -> Findings:
    """Match the parts of a prediction with those of the truth; bool (W, H) each."""
    true, lesions = label(truth, connectivity=2, return_num=True)
    predicted, findings = label(prediction, connectivity=2, return_num=True)
    # pixels by (lesion, finding); row and column 0 hold what lies outside
    pairs = true.astype(np.int64) * (findings + 1) + predicted
    shape = (lesions + 1, findings + 1)
    shared = np.bincount(pairs.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    of_lesion, of_finding = shared.sum(axis=1), shared.sum(axis=0)
    iou = shared / np.maximum(of_lesion[:, None] + of_finding[None] - shared, 1)
    found = [
        Lesion(
            pixels=int(of_lesion[i]),
            iou=float(iou[i, 1:].max(initial=0.0)),
            covered=float(shared[i, 1:].sum() / of_lesion[i]),
        )
        for i in range(1, lesions + 1)
    ]
    untouched = int(np.count_nonzero(shared[1:, 1:].sum(axis=0) == 0))
    return Findings(found, findings, untouched)
