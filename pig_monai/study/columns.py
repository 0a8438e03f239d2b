"""The figures of table 1: which they are, and how those of several folds become one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pig_monai.features.space import LESION, MASK, SLICE
from pig_monai.metrics.spread import Spread
from pig_monai.metrics.two_samples import any_of
from pig_monai.study.results import Key


def _mean(over_folds: Spread) -> float | None:
    return over_folds.mean


def _total(over_folds: Spread) -> float | None:
    return over_folds.total


def _in_any(over_folds: Spread) -> float | None:
    return any_of(over_folds.known) if over_folds.known else None


@dataclass(frozen=True)
class Column:
    """A figure of table 1.

    Args:
        name: in the CSV file, where ``<name>``, ``<name>_sd`` and ``<name>_real`` are columns; of a Fréchet
            distance also ``<name>_real_low`` and ``<name>_real_high``, where random choices of real patients lie;
            of a figure with an interval ``<name>_low`` and ``<name>_high``.
        title: for people.
        key: which figure of an evaluation of pairs.
        percent: shown in per cent.
        spread: whether a standard deviation and the figure of real slices belong beside it.
        interval: whether it has a confidence interval.
        pooled: makes one figure of the folds'.
        corrected: a p-value, of which ``<name>_holm``, corrected for the number of methods, is what is shown.
    """

    name: str
    title: str
    key: Key
    percent: bool = False
    spread: bool = True
    interval: bool = False
    pooled: Callable[[Spread], float | None] = _mean
    corrected: bool = False

    @property
    def has_range(self) -> bool:
        """Whether random choices of real patients were measured, too."""
        return self.key[0] == "frechet"

    @property
    def shown(self) -> str:
        """The column of the CSV file that people are shown."""
        return f"{self.name}_holm" if self.corrected else self.name


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
        Column(f"recall_{suffix}", f"{of}recall, %", ("recall", features, region), percent=True),
        Column(f"coverage_{suffix}", f"{of}coverage, %", ("coverage", features, region), percent=True),
    )


def _remembered(region: str, prefix: str, copies: str, nearer: str) -> tuple[Column, ...]:
    """Return what tells whether a region was remembered."""
    return (
        Column(f"{prefix}copies", copies, ("suspected_copies", "pixels", region), spread=False, pooled=_total),
        Column(
            f"{prefix}training_p",
            f"{nearer}, p (Holm)",
            ("nearest_in_training_p", "pixels", region),
            spread=False,
            pooled=_in_any,
            corrected=True,
        ),
    )


LIKENESS = {
    f"by {title}": _likeness(features)
    for features, title in (
        ("inception", "Inception"), ("dinov2", "DINOv2"), ("texture", "texture"), ("segmenter", "the segmenter")
    )
}  # fmt: skip
"""A readable table a feature space, by title; of pretrained ones where the study names their weights."""

PAIRING = (
    Column("consistency", "consistency, Dice, %", ("pair_consistency", "segmenter", MASK), True, interval=True),
    Column("hits", "lesions found, %", ("pair_consistency_hits", "segmenter", MASK), True, interval=True),
    Column("lesions", "lesions a mask, median", ("median", "components", MASK)),
    *_remembered(SLICE, "", "suspected copies", "nearer to training"),
    *_remembered(MASK, "mask_", "suspected copies of masks", "masks nearer to training"),
)
COLUMNS = (*(column for columns in LIKENESS.values() for column in columns), *PAIRING)

COUNTED = ("frechet", "texture", SLICE)
"""The figure whose number of slices is that of all distances, precision, recall and coverage."""
