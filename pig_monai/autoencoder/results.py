"""What an autoencoder's evaluation found: rows for the slices, the table, the picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from pig_monai.autoencoder.pictures import comparison
from pig_monai.autoencoder.quality import Likeness
from pig_monai.choosing import spread_evenly
from pig_monai.data.folder import Entry
from pig_monai.evaluation.results import TABLE_HEAD, markdown
from pig_monai.metrics.bootstrap import Estimate, estimate
from pig_monai.training.preview import SHOWN


@dataclass(frozen=True)
class Measure:
    """A figure of the summary.

    Args:
        title: for people.
        each: what the values are of, in the plural.
        factor: the table shows values times this.
        digits: after the point.
    """

    title: str
    each: str
    factor: float = 1
    digits: int = 2


MEASURES = {
    "psnr": Measure("PSNR, dB", "slices"),
    "ssim": Measure("SSIM", "slices", digits=4),
    "mae": Measure("mean absolute error, % of the range", "slices", factor=50),
    "lesion_psnr": Measure("PSNR around lesions, dB", "lesions"),
    "lesion_ssim": Measure("SSIM around lesions", "lesions", digits=4),
    "lesion_mae": Measure("mean absolute error around lesions, % of the range", "lesions", factor=50),
    "dice_slices": Measure("the segmenter's Dice on the slices, %", "slices with a lesion", factor=100),
    "dice_reconstructions": Measure("its Dice on the reconstructions, %", "slices with a lesion", factor=100),
    "dice_difference": Measure("difference of the two", "slices with a lesion", factor=100),
}
"""What autoencoder.json and the table hold, in this order."""


@dataclass(frozen=True)
class Reconstructed:
    """A slice and what came back of it.

    Args:
        slice_: float (W, H) in [−1, 1].
        made: the reconstruction, alike.
        mask: bool (W, H), or None where nobody annotated it.
        latent: the slice's, (1, c, W / f, H / f).
    """

    slice_: np.ndarray
    made: np.ndarray
    mask: np.ndarray | None
    latent: Tensor


@dataclass
class Measured:
    """What was measured of a slice and its reconstruction, which are not kept.

    Args:
        entry: of the datalist.
        annotated: somebody drew a mask, if an empty one.
        whole: the reconstruction against the slice.
        lesions: the same around each lesion.
        dice: the segmenter's, on slice and reconstruction; NaN where there is none.
    """

    entry: Entry
    annotated: bool
    whole: Likeness
    lesions: list[Likeness]
    dice: tuple[float, float] = field(default=(math.nan, math.nan))

    @property
    def patient(self) -> str:
        """Whose slice it is."""
        return str(self.entry["patient"])

    def row(self) -> dict[str, Any]:
        """Return the slice's row of autoencoder.csv; None where undefined."""
        dice = dict(zip(("dice_slice", "dice_reconstruction"), self.dice, strict=True))
        around = {f"lesion_{name}": value for name, value in _mean(self.lesions).items()}
        figures = {**asdict(self.whole), **around, **dice}
        return {
            "name": Path(self.entry["image"]).name.removesuffix(".nii.gz"),
            **{key: self.entry.get(key) for key in ("patient", "view", "slice", "fold")},
            "lesions": len(self.lesions),
            **{name: None if math.isnan(value) else value for name, value in figures.items()},
        }


def _mean(found: Sequence[Likeness]) -> dict[str, float]:
    names = ("psnr", "ssim", "mae")
    return {n: float(np.mean([getattr(one, n) for one in found])) if found else math.nan for n in names}


def estimates(found: Sequence[Measured], seed: int) -> dict[str, Estimate]:
    """Return the estimate of each of `MEASURES`; ``seed`` is that of the bootstrap's draws."""
    return {name: estimate(*_values(name, found), seed=seed) for name in MEASURES}


def readable_table(found: Mapping[str, Estimate]) -> str:
    """Return the estimates as a table in Markdown, without rows of nothing."""
    return markdown(TABLE_HEAD, [_table_row(MEASURES[name], one) for name, one in found.items() if one.n])


def _values(name: str, found: Sequence[Measured]) -> tuple[list[float], list[str]]:
    """Return a measure's values and whose each is."""
    if name.startswith("lesion_"):
        metric = name.removeprefix("lesion_")
        pairs = [(getattr(lesion, metric), one.patient) for one in found for lesion in one.lesions]
    elif name.startswith("dice_"):
        of = {
            "dice_slices": lambda on_slice, on_made: on_slice,
            "dice_reconstructions": lambda on_slice, on_made: on_made,
            "dice_difference": lambda on_slice, on_made: on_made - on_slice,
        }[name]
        pairs = [(of(*one.dice), one.patient) for one in found]
    else:
        pairs = [(getattr(one.whole, name), one.patient) for one in found]
    return [value for value, _ in pairs], [patient for _, patient in pairs]


def _table_row(measure: Measure, one: Estimate) -> list[str]:
    def say(value: float | None) -> str:
        return "–" if value is None else f"{measure.factor * value:.{measure.digits}f}"

    return [
        measure.title,
        f"{say(one.mean)} ± {say(one.sd)}",
        f"{say(one.low)} to {say(one.high)}",
        f"{one.n} {measure.each}",
        say(one.patient_mean),
        f"{say(one.patient_low)} to {say(one.patient_high)}",
        str(one.patients),
    ]


def pictured(found: Sequence[Measured]) -> list[Entry]:
    """Return a few slices for the picture, spread evenly over those with a lesion where there are any."""
    return [one.entry for one in spread_evenly([one for one in found if one.lesions] or found, SHOWN)]


def picture(shown: Sequence[Reconstructed]) -> Image.Image:
    """Return the picture of a few slices."""
    return comparison([o.slice_ for o in shown], [o.made for o in shown], [o.mask for o in shown])
