"""The table of a cross-validation: a row for each fold, their mean ± standard deviation, all slices together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pig_monai.evaluation.notes import notes
from pig_monai.evaluation.results import MEASURES, Measure, as_csv, markdown
from pig_monai.files import read_json, read_rows
from pig_monai.html import page, paragraph, table
from pig_monai.metrics.bootstrap import Estimate, estimate
from pig_monai.metrics.spread import Spread

REMEDY = "remove the folder of that fold and give the same command again"

SHOWN = ("dice", "iou", "precision", "recall", "hd95_mm", "hd95_px", "lesions_hit", "false_positives")
"""The measures of the table, of which those without any value are left out."""

POOLED = ("dice", "iou", "precision", "recall", "hd95_mm", "hd95_px")
"""Those that metrics.csv has for each slice."""


@dataclass(frozen=True)
class FoldFigures:
    """What the evaluation of one fold found.

    Args:
        fold: its number.
        means: by measure; None where undefined.
        counts: of slices, patients, lesions …
        slices: the rows of its metrics.csv.
    """

    fold: int
    means: dict[str, float | None]
    counts: dict[str, Any]
    slices: list[dict[str, str]]

    @classmethod
    def read(cls, fold: int, folder: Path) -> FoldFigures:
        """Read what `Evaluation` left in a folder."""
        summary = read_json(folder / "summary.json", REMEDY)
        slices = read_rows(folder / "metrics.csv", REMEDY)
        means = {name: summary["measures"][name]["mean"] for name in MEASURES}
        return cls(fold, means, summary["counts"], slices)


class FoldTable:
    """The folds side by side.

    Args:
        method: what the trainings saw: ``real``, ``real + 1024 pairs``, ``phantom`` …
        figures: of each fold.
        seed: of the bootstrap.
    """

    def __init__(self, method: str, figures: Sequence[FoldFigures], seed: int) -> None:
        self.method = method
        self.figures = list(figures)
        self.seed = seed
        self.names = [name for name in SHOWN if any(one.means[name] is not None for one in self.figures)]

    @property
    def notes(self) -> list[str]:
        """What to know before believing the figures, of all folds together."""
        names = [name for name, value in self.figures[0].counts.items() if isinstance(value, int)]
        return notes({name: sum(one.counts[name] for one in self.figures) for name in names})

    def spread(self, name: str) -> Spread:
        """Return a measure over the folds."""
        return Spread([one.means[name] for one in self.figures])

    def pooled(self, name: str) -> Estimate:
        """Return a measure over the slices of all folds, with its interval over patients."""
        rows = [row for one in self.figures for row in one.slices if row[name]]
        return estimate([float(row[name]) for row in rows], [row["patient"] for row in rows], self.seed)

    def csv(self) -> str:
        """Return the table as numbers: a row a fold, then ``mean`` and ``sd``."""
        head = {"method": self.method, "fold": None, "slices": None, "patients": None}
        rows = [
            head
            | {"fold": one.fold, "slices": one.counts["slices"], "patients": one.counts["patients"]}
            | {name: one.means[name] for name in self.names}
            for one in self.figures
        ]
        spreads = {name: self.spread(name) for name in self.names}
        mean = {"fold": "mean", **{name: one.mean for name, one in spreads.items()}}
        sd = {"fold": "sd", **{name: one.sd for name, one in spreads.items()}}
        return as_csv([*rows, head | mean, head | sd], [*head, *self.names])

    def rows(self) -> list[list[str]]:
        """Return the rows to read; shares in per cent."""
        shown = [
            [str(one.fold), str(one.counts["slices"]), str(one.counts["patients"])]
            + [_said(MEASURES[name], one.means[name]) for name in self.names]
            for one in self.figures
        ]
        spreads = [self.spread(name) for name in self.names]
        both = [
            f"{_said(MEASURES[name], one.mean)} ± {_said(MEASURES[name], one.sd)}"
            for name, one in zip(self.names, spreads, strict=True)
        ]
        total = [str(sum(one.counts[key] for one in self.figures)) for key in ("slices", "patients")]
        return [*shown, ["mean ± sd", *total, *both]]

    def head(self) -> list[str]:
        """Return the head of `rows`."""
        titles = [MEASURES[name].title + (", %" if MEASURES[name].percent else "") for name in self.names]
        return ["fold", "slices", "patients", *titles]

    def sentence(self) -> str:
        """Say what all slices together give; of one patient's there are no intervals."""
        parts, intervals = [], ""
        for name in POOLED[:4]:
            one, measure = self.pooled(name), MEASURES[name]
            text = f"{measure.title} {_said(measure, one.mean)}" + (" %" if one.mean is not None else "")
            if one.low is not None:
                text += f" (95 % CI {_said(measure, one.low)} to {_said(measure, one.high)})"
                intervals = "; intervals over patients"
            parts.append(text)
        return f"All slices together ({self.method}): {', '.join(parts)}{intervals}."

    def markdown(self) -> str:
        """Return table and sentence, readable as they are."""
        return f"{markdown(self.head(), self.rows())}\n{self.sentence()}\n"

    def page(self) -> str:
        """Return the page to look at, which links to the folds' own reports."""
        links = [
            f'<p><a href="fold_{one.fold}/evaluation/report.html">fold {one.fold}: worst and best slices</a></p>'
            for one in self.figures
        ]
        rules = (
            "Each fold was held out of one training. A fold's figure is the mean over its slices; "
            "± is the standard deviation over the folds."
        )
        noted = [paragraph(f"Note: {note}.", "notice") for note in self.notes]
        parts = [*noted, table(self.head(), self.rows()), paragraph(self.sentence()), paragraph(rules), *links]
        return page(f"Cross-validation: {self.method}", parts)

    def summary(self) -> dict[str, Any]:
        """Return what summary.json holds."""
        spreads = {name: {"mean": (one := self.spread(name)).mean, "sd": one.sd} for name in self.names}
        return {
            "method": self.method,
            "notes": self.notes,
            "folds": [{"fold": one.fold, "counts": one.counts, "means": one.means} for one in self.figures],
            "over_folds": spreads,
            "all_slices": {name: asdict(self.pooled(name)) for name in POOLED},
        }


def _said(measure: Measure, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f}" if measure.percent else f"{value:.2f}"
