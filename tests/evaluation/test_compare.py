"""Two models on the same slices: the differences by hand, and what cannot be compared."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from pig_monai.cli import run_command
from pig_monai.compare_evaluations import compare, compare_evaluations
from pig_monai.errors import PigError

COLUMNS = [
    "name",
    "patient",
    "truth_px",
    "predicted_px",
    "dice",
    "iou",
    "precision",
    "recall",
    "hd95_mm",
    "hd95_px",
]


def write(folder: Path, dice: list[float | None], hits: list[int], first: int = 0) -> Path:
    """Write an evaluation: slice i is of patient i // 2; None is a slice without a lesion."""
    folder.mkdir(parents=True)
    with open(folder / "metrics.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*COLUMNS, "false_positives"])
        for i, value in enumerate(dice):
            name, patient = f"s{first + i}", f"p{(first + i) // 2}"
            if value is None:
                writer.writerow([name, patient, 0, 3 * hits[i], *[""] * 6, hits[i]])
            else:
                writer.writerow([name, patient, 40 + i, 30, *[value] * 4, "", 2 * value, 1 - hits[i]])
    with open(folder / "lesions.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", "patient", "lesion", "hit"])
        for i, hit in enumerate(hits):
            if dice[i] is not None:
                writer.writerow([f"s{first + i}", f"p{(first + i) // 2}", 0, hit])
    return folder


def test_differences_are_paired_and_over_patients(tmp_path):
    rng = np.random.default_rng(0)
    base = rng.random(80) * 0.5
    gain = np.repeat(rng.normal(0.05, 0.02, 40), 2)  # one a patient
    one = write(tmp_path / "a", base.tolist(), [0] * 40 + [1] * 40)
    other = write(tmp_path / "b", (base + gain).tolist(), [0] * 30 + [1] * 50)
    found = compare([one], [other], seed=0)
    first, second, difference = found["dice"]
    assert (first, second) == pytest.approx((base.mean(), (base + gain).mean()))
    assert difference.mean == pytest.approx(gain.mean())
    half = 1.96 * gain.std() / np.sqrt(40)  # not of the 80 slices, and without the slices' own spread
    assert (difference.high - difference.low) / 2 == pytest.approx(half, rel=0.1)
    assert found["lesions_hit"][2].mean == pytest.approx(10 / 80)
    assert found["false_positives"][2].mean == pytest.approx(-10 / 80)
    assert found["hd95_px"][2].mean == pytest.approx(2 * gain.mean())
    assert not {"hd95_mm", "clean_slices"} & set(found)  # nobody knows a spacing, every slice has a lesion


def test_folds_are_joined_and_slices_without_lesions_compared(tmp_path):
    one = [write(tmp_path / "a0", [0.2, None], [1, 1]), write(tmp_path / "a1", [0.4, 0.6], [0, 1], first=2)]
    other = [write(tmp_path / "b0", [0.5, None], [1, 0]), write(tmp_path / "b1", [0.4, 0.6], [1, 1], first=2)]
    found = compare(one, other, seed=0)
    assert found["dice"][2].mean == pytest.approx(0.1)
    assert (found["dice"][2].n, found["dice"][2].patients) == (3, 2)
    assert found["clean_slices"][:2] == (0, 1)


def test_the_command_prints_and_writes(tmp_path, capsys):
    write(tmp_path / "a", [0.2, 0.3, 0.4, 0.5], [0, 0, 1, 1])
    write(tmp_path / "b", [0.3, 0.4, 0.5, 0.6], [1, 1, 1, 1])
    options = [
        "--first",
        str(tmp_path / "a"),
        "--second",
        str(tmp_path / "b"),
        "--output",
        str(tmp_path / "c.json"),
    ]
    run_command(compare_evaluations, options)
    assert "| +10.0          | +10.0 to +10.0 | 4 slices with a lesion" in capsys.readouterr().out
    assert json.loads((tmp_path / "c.json").read_text())["dice"]["difference"]["mean"] == pytest.approx(0.1)


def test_other_slices_other_labels_and_no_evaluation_are_refused(tmp_path):
    one = write(tmp_path / "a", [0.2, 0.3], [0, 0])
    with pytest.raises(PigError, match=r"a has no slice s2; compare on the same"):
        compare([one], [write(tmp_path / "b", [0.2, 0.3, 0.4], [0, 0, 0])], 0)
    relabelled = write(tmp_path / "c", [0.2, 0.3], [0, 0])
    (relabelled / "metrics.csv").write_text((relabelled / "metrics.csv").read_text().replace("p0,41,", "p0,44,"))
    with pytest.raises(PigError, match="slice s1 has 41 pixels of truth in --first and 44 in --second"):
        compare([one], [relabelled], 0)
    cut = write(tmp_path / "d", [0.2, 0.3], [0, 0])
    with open(cut / "lesions.csv", "a") as stream:
        stream.write("s1,p0,1,1\n")
    with pytest.raises(PigError, match="slice s1 has lesion 1 in --second only; evaluate both on"):
        compare([one], [cut], 0)
    with pytest.raises(PigError, match="slice s1 has lesion 1 in --first only"):
        compare([cut], [one], 0)
    with pytest.raises(PigError, match="as another folder has"):
        compare([one, one], [one, one], 0)
    with pytest.raises(PigError, match=r"nothing/metrics\.csv cannot be read"):
        compare([tmp_path / "nothing"], [one], 0)
