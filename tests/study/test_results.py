"""A study's figures from folders whose content is known, against what statistics says of it."""

from __future__ import annotations

import statistics

import pytest

from pig_monai.data.folder import read_datalist
from pig_monai.errors import PigError
from pig_monai.metrics.bootstrap import estimate
from pig_monai.metrics.spread import Spread
from pig_monai.study.arms import arms
from pig_monai.study.report import in_short
from pig_monai.study.results import ArmResult, MethodResult, Results, signed_rank
from pig_monai.study.tables import table1_text, table2_rows, table2_text
from tests.study.known import study, write_evaluation, write_quality

PATIENTS = {f"s{i}": f"p{i // 2}" for i in range(12)}
"""Six patients of two slices each."""

DICE = {0: {name: 0.05 * i for i, name in enumerate(PATIENTS)}, 1: {name: 0.305 for name in PATIENTS}}
"""Of the baseline, by seed."""


@pytest.fixture
def given(phantom_dataset, tmp_path):
    """A study of one method whose pairs add 0.1, 0.12, … to the patients' Dice, and nothing in the other arms."""
    one = study(phantom_dataset, tmp_path, seeds=[0, 1])
    for arm in arms(one, 0):
        for seed, dice in DICE.items():
            more = {name: 0.1 + 0.02 * (i // 2) if arm.pairs else 0.0 for i, name in enumerate(dice)}
            folder = tmp_path / f"fold_0/segmenters/{arm.name}/seed_{seed}"
            write_evaluation(folder, {name: value + more[name] for name, value in dice.items()}, PATIENTS)
    return one


def test_dice_is_the_mean_of_the_runs_and_its_interval_of_the_patients(given):
    rows = {row["arm"]: row for row in table2_rows(Results.read(given))}
    means = [statistics.fmean(dice.values()) for dice in DICE.values()]
    real = rows["real"]
    assert real["dice"] == pytest.approx(statistics.fmean(means))
    assert real["dice_sd"] == pytest.approx(statistics.stdev(means))
    assert real["iou"] == pytest.approx(real["dice"] / 2)
    both = [statistics.fmean((DICE[0][name], DICE[1][name])) for name in PATIENTS]
    independent = estimate(both, list(PATIENTS.values()), seed=0)
    assert (real["dice_low"], real["dice_high"]) == (independent.low, independent.high)
    assert (real["slices"], real["patients"], real["seeds"]) == (12, 6, 2)


def test_the_difference_is_paired_and_its_test_exact(given):
    results = Results.read(given)
    found = results.differences["joint-4"]
    assert found.of.mean == pytest.approx(0.15)
    assert 0.1 <= found.of.low <= 0.15 <= found.of.high <= 0.2
    assert found.p_value == pytest.approx(2 / 2**6)  # all six patients gain: one of 2⁶ signs, two-sided
    assert found.p_holm == pytest.approx(
        3 * 2 / 2**6
    )  # one of three arms is compared with the baseline, the least p
    same = results.differences["real-longer"]
    assert (same.of.mean, same.p_value, same.p_holm) == (0, 1, 1)


def test_nothing_differs_where_nothing_differs():
    assert signed_rank([0.0, 0.0]) == 1


def test_arms_on_other_slices_are_not_compared(given):
    rows = {arm.name: ArmResult(given, arm) for arm in arms(given, 0)}
    folder = given.output / "fold_0/segmenters/joint-4/seed_0/evaluation/metrics.csv"
    folder.write_text(folder.read_text().replace("s3,", "other,"))
    with pytest.raises(PigError, match="was not evaluated on the slices of real; let the study finish"):
        rows["joint-4"].minus(rows["real"])


def test_a_study_that_is_not_finished_says_what_is_missing(phantom_dataset, tmp_path):
    with pytest.raises(PigError, match=r"metrics\.csv cannot be read .*; let the study finish"):
        table2_rows(Results.read(study(phantom_dataset, tmp_path)))


def test_the_tables_say_what_was_found(given):
    rows = table2_rows(Results.read(given))
    head, body = table2_text(rows)
    joint = dict(zip(head, next(row for row in body if row[0] == "real + 4 joint"), strict=True))
    assert joint["against real"] == "+15.0"
    assert joint["p"] == "0.031"
    sentences = list(in_short(rows))
    assert sentences[0].startswith("Real slices alone: Dice 29.0 % on 12 held-out slices of 6 patients")
    assert sentences[1].endswith("29.0 %, +0.0 points. What pairs give beyond that is theirs.")
    assert sentences[-1].startswith("joint, with 4 pairs: 44.0 %, +15.0 points (95 % CI +1")
    assert sentences[-1].endswith("the interval leaves 0 out).")


def figure(sample: str, value: float | None) -> dict[str, object]:
    return {
        "metric": "frechet",
        "features": "texture",
        "region": "slice",
        "sample": sample,
        "value": value,
        "note": "",
    }


def test_quality_is_of_as_many_slices_as_are_held_out(phantom_dataset, tmp_path):
    folds = sorted({entry["fold"] for entry in read_datalist(phantom_dataset)["training"]})[:2]
    one = study(phantom_dataset, tmp_path, folds=folds)
    for fold, value in zip(folds, (3.0, 5.0), strict=True):
        figures = [figure("generated", 100.0), figure("generated_equal", value), figure("heldout", 2.0)]
        write_quality(tmp_path / f"fold_{fold}/quality/joint", figures)
    result = MethodResult(one, one.chosen[0])
    found = result.figure(("frechet", "texture", "slice"))
    assert (found.mean, found.sd) == (4, pytest.approx(2**0.5))
    assert result.reference(("frechet", "texture", "slice")).mean == 2
    assert result.figure(("kernel", "texture", "slice")).mean is None


def test_what_was_refused_is_a_dash():
    row = {"method": "joint", "masks": "generated", "accepted": 0.5, "slices": 4.0, "parameters": 2_000_000}
    row |= {
        "iterations": 5,
        "training_minutes": None,
        "seconds_a_slice": 0.25,
        "consistency": 0.5,
        "consistency_sd": None,
    }
    names = ["fid", "frechet_texture", "frechet_texture_lesion", "frechet_segmenter", "kernel_texture"]
    names += ["precision_texture", "recall_texture", "coverage_texture", "copies"]
    head, body = table1_text([row | dict.fromkeys(names)])
    shown = dict(zip(head, body[0], strict=True))
    assert "FID" not in shown
    assert (shown["training, min"], shown["s a slice"], shown["pair consistency (Dice, %)"]) == (
        "–",
        "0.25",
        "50.0",
    )


def test_a_spread_of_one_value_has_no_deviation():
    assert Spread([None, 2.0]).mean == 2
    assert Spread([None, 2.0]).sd is None
