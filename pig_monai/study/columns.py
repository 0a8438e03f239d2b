"""The figures of table 1: which they are, and how those of several folds become one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pig_monai.features.space import LESION, MASK, SLICE
from pig_monai.study.results import Key


class Pooling(Enum):
    """How the figures of several folds become one, and how it is shown."""

    FIGURE = "figure"
    """Mean and standard deviation, beside the figure of held-out slices."""
    ESTIMATE = "estimate"
    """The same; of a single fold with its confidence interval."""
    COUNT = "count"
    """Sum, of how many; nothing unless all folds are known."""
    P_VALUE = "p-value"
    """The smallest, corrected for the folds; shown as corrected for the methods, too."""


@dataclass(frozen=True)
class Column:
    """A figure of table 1.

    Args:
        name: in the CSV file. Beside it stand, by pooling: ``<name>_sd`` and ``<name>_real``, of held-out slices;
            ``<name>_low`` and ``<name>_high``, the interval; ``<name>_of``, of how many a count is;
            ``<name>_holm``, the p-value that is shown. Of a Fréchet distance also ``<name>_real_low`` and
            ``<name>_real_high``, where random choices of real patients lie.
        title: for people.
        key: which figure of an evaluation of pairs.
        percent: shown in per cent.
        pooling: what becomes of several folds.
    """

    name: str
    title: str
    key: Key
    percent: bool = False
    pooling: Pooling = Pooling.FIGURE

    @property
    def has_range(self) -> bool:
        """Whether random choices of real patients were measured, too."""
        return self.key[0] == "frechet"

    @property
    def shown(self) -> str:
        """The column of the CSV file that people are shown."""
        return f"{self.name}_holm" if self.pooling == Pooling.P_VALUE else self.name


def _likeness(features: str) -> tuple[Column, ...]:
    """Return distances and neighbourhoods by some features: of whole slices, then of the crops round lesions."""
    fid = (Column("fid", "FID", ("fid", features, SLICE)),) if features == "inception" else ()
    return (
        *fid,
        *_neighbours(features, SLICE, features, ""),
        *_neighbours(features, LESION, f"{features}_lesion", "lesions: "),
    )


def _neighbours(features: str, region: str, suffix: str, of: str) -> tuple[Column, ...]:
    return (
        Column(f"frechet_{suffix}", f"{of}Fréchet", ("frechet", features, region)),
        Column(f"kernel_{suffix}", f"{of}kernel", ("kernel", features, region)),
        Column(f"precision_{suffix}", f"{of}plausible, %", ("precision", features, region), percent=True),
        Column(f"recall_{suffix}", f"{of}feature recall, %", ("recall", features, region), percent=True),
        Column(f"coverage_{suffix}", f"{of}coverage, %", ("coverage", features, region), percent=True),
    )


LIKENESS = {
    f"by {title}": _likeness(features)
    for features, title in (
        ("inception", "Inception"), ("dinov2", "DINOv2"), ("texture", "texture"), ("segmenter", "the segmenter")
    )
}  # fmt: skip
"""A readable table a feature space, by title; of pretrained ones where the study names their weights."""

_NEARNESS = "nearest_in_training_p"
_FOUND = {
    "consistency": ("consistency, Dice, %", "pair_consistency"),
    "hits": ("lesions found, %", "pair_consistency_hits"),
}
PAIRING = (
    *(
        Column(name, title, (metric, "segmenter", MASK), percent=True, pooling=Pooling.ESTIMATE)
        for name, (title, metric) in _FOUND.items()
    ),
    Column("lesions", "lesions a mask, median", ("median", "components", MASK)),
    Column("copies", "suspected copies", ("suspected_copies", "pixels", SLICE), pooling=Pooling.COUNT),
    Column("training_p", "nearer to training, p (Holm)", (_NEARNESS, "pixels", SLICE), pooling=Pooling.P_VALUE),
    Column(
        "mask_training_p",
        "masks nearer to training, p (Holm)",
        (_NEARNESS, "outline", MASK),
        pooling=Pooling.P_VALUE,
    ),
)
COLUMNS = (*(column for columns in LIKENESS.values() for column in columns), *PAIRING)

COUNTED = ("frechet", "texture", SLICE)
"""The figure whose number of slices is that of all distances, precision, recall and coverage."""
