"""Two models on the same slices: ``python -m pig_monai.compare_evaluations --first OUT_A --second OUT_B``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pig_monai.cli import as_whole, run_command
from pig_monai.errors import PigError
from pig_monai.evaluation.results import MEASURES, Measure, markdown
from pig_monai.files import read_rows, write_json
from pig_monai.metrics.bootstrap import Estimate, paired_difference

Key = tuple[str, ...]
Rows = dict[Key, dict[str, str]]

HEAD = ["", "first", "second", "second − first", "95 % CI", "of", "patients"]
_REMEDY = "give folders that evaluate.yaml filled"


def compare_evaluations(*, first: str, second: str, seed: int = 0, output: str | None = None) -> None:
    """Say how two models differ on the same slices, with a 95 % interval of a paired bootstrap over patients.

    An interval that does not contain 0 is a difference which other patients would probably show, too.

    Args:
        first: folder that evaluate.yaml filled, or several, one a fold, with commas between them.
        second: the other model's, of the same slices.
        seed: of the bootstrap's draws.
        output: a JSON file that receives the figures; none by default.
    """
    found = compare(_folders(first), _folders(second), as_whole(seed, "--seed", 0))
    print(markdown(HEAD, [_row(MEASURES[name], *values) for name, values in found.items()]), end="")
    if output is not None:
        named = {
            name: {"first": one, "second": other, "difference": difference.to_dict()}
            for name, (one, other, difference) in found.items()
        }
        write_json(output, named)


def compare(first: Sequence[Path], second: Sequence[Path], seed: int) -> dict[str, tuple[float, float, Estimate]]:
    """Return the mean of the first, the mean of the second and the difference, for each measure that has values.

    Args:
        first: folders of one model.
        second: folders of the other.
        seed: of the bootstrap's draws.

    Raises:
        PigError: a folder without an evaluation, or evaluations of different slices or lesions.
    """
    slices = _read(first, "metrics.csv", ("name",)), _read(second, "metrics.csv", ("name",))
    lesions = _read(first, "lesions.csv", ("name", "lesion")), _read(second, "lesions.csv", ("name", "lesion"))
    _check_same(*slices, first, second)
    _check_same_lesions(*lesions)
    found: dict[str, tuple[float, float, Estimate]] = {}
    for name, value in _VALUES.items():
        one, other = lesions if name == "lesions_hit" else slices
        keys = [key for key in one if not math.isnan(value(one[key]))]
        if keys:
            values = [{key: value(rows[key]) for key in keys} for rows in (one, other)]
            patients = {key: one[key]["patient"] for key in keys}
            means = [sum(of.values()) / len(keys) for of in values]
            found[name] = (means[0], means[1], paired_difference(values[0], values[1], patients, seed))
    return found


def _number(column: str) -> Callable[[Mapping[str, str]], float]:
    return lambda row: float(row[column] or "nan")


def _clean(row: Mapping[str, str]) -> float:
    return math.nan if int(row["truth_px"]) else float(int(row["predicted_px"]) == 0)


_VALUES: dict[str, Callable[[Mapping[str, str]], float]] = {
    **{name: _number(name) for name in ("dice", "iou", "precision", "recall", "hd95_mm", "hd95_px")},
    "lesions_hit": _number("hit"),
    "false_positives": _number("false_positives"),
    "clean_slices": _clean,
}
"""What is compared: measures that both models have on the same slices, or lesions, and NaN on the same."""


def _folders(given: Any) -> list[Path]:
    """Read folders with commas between them, of which fire may have made a tuple."""
    listed = given if isinstance(given, list | tuple) else str(given).split(",")
    return [Path(str(folder).strip()) for folder in listed]


def _read(folders: Sequence[Path], file: str, by: Key) -> Rows:
    rows: Rows = {}
    for folder in folders:
        path = folder / file
        for row in read_rows(path, _REMEDY):
            key = tuple(row.get(column, "") for column in by)
            if key in rows:
                raise PigError(f"{path} has slice {key[0]}, as another folder has", "give each fold once")
            rows[key] = row
    return rows


def _check_same(one: Rows, other: Rows, first: Sequence[Path], second: Sequence[Path]) -> None:
    """Refuse evaluations of different slices, or of slices that were labelled differently."""
    for key in sorted({*one, *other}):
        for side, rows in ((first, one), (second, other)):
            if key not in rows:
                raise PigError(f"{', '.join(map(str, side))} has no slice {key[0]}", "compare on the same slices")
        pixels = [rows[key]["truth_px"] for rows in (one, other)]
        if pixels[0] != pixels[1]:
            raise PigError(
                f"slice {key[0]} has {pixels[0]} pixels of truth in --first and {pixels[1]} in --second",
                "evaluate both on the same dataset",
            )


def _check_same_lesions(one: Rows, other: Rows) -> None:
    """Refuse truths that are as large but not in the same pieces."""
    for key in sorted({*one} ^ {*other}):
        side = "--first" if key in one else "--second"
        raise PigError(f"slice {key[0]} has lesion {key[1]} in {side} only", "evaluate both on the same dataset")


def _row(measure: Measure, first: float, second: float, difference: Estimate) -> list[str]:
    factor, digits = (100, 1) if measure.percent else (1, 2)

    def say(value: float | None, sign: str = "") -> str:
        return "–" if value is None else f"{factor * value:{sign}.{digits}f}"

    return [
        measure.title + (", %" if measure.percent else ""),
        say(first),
        say(second),
        say(difference.mean, "+"),
        f"{say(difference.low, '+')} to {say(difference.high, '+')}",
        f"{difference.n} {measure.each}",
        str(difference.patients),
    ]


if __name__ == "__main__":
    run_command(compare_evaluations)
