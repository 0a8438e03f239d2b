"""Figures with all that is needed to read them: of what, by which features, of how many slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

GENERATED, EQUAL, HELDOUT, SPLIT = "generated", "generated_equal", "heldout", "real_split"
"""What is compared with the real training slices: the generated ones; as many of them as there are real ones to
compare them with; held-out real slices, which say what a perfect generator would get; and random choices of real
patients with the others, which say how certain that is."""

LEAST = 10
"""Slices of a sample below which no distance is computed."""

FEW = 50
"""Slices of a sample below which a figure is uncertain, and says so."""


NEAREST = 8
"""Slices of a memorisation gallery."""


@dataclass(frozen=True)
class Figure:
    """A row of metrics.csv.

    Args:
        metric: what was measured.
        features: the feature space, or the statistic of the masks.
        region: ``slice``, ``lesion`` or ``mask``.
        sample: ``generated``, ``generated_equal``, ``heldout`` or ``real_split``.
        value: None where it was refused; the note says why.
        n_real: training slices that the sample is compared with; None where it is compared with none.
        n_generated: slices of the sample, also where they are real held-out ones.
        note: what else to know.
        low: between it and ``high`` lie 95 %: the confidence interval of a mean over patients, or random choices
            of real patients; None where there is neither.
        high: see ``low``.
    """

    metric: str
    features: str
    region: str
    sample: str
    value: float | None
    n_real: int | None
    n_generated: int
    note: str = ""
    low: float | None = None
    high: float | None = None

    def row(self) -> dict[str, Any]:
        """Return what goes into CSV and JSON files."""
        return asdict(self)


COLUMNS = tuple(field.name for field in fields(Figure))


def find(
    figures: Sequence[Figure], metric: str, features: str, region: str, sample: str = GENERATED
) -> Figure | None:
    """Return the figure that is asked for, None where there is none."""
    wanted = (metric, features, region, sample)
    return next((f for f in figures if (f.metric, f.features, f.region, f.sample) == wanted), None)
