"""A study's figures from folders whose content is known, against what statistics says of it."""

from __future__ import annotations

import itertools
import statistics

import numpy as np
import pytest

from pig_monai.data.folder import read_datalist
from pig_monai.errors import PigError
from pig_monai.metrics.bootstrap import estimate
from pig_monai.metrics.spread import Spread
from pig_monai.pairs.rejection import NO_LIMITS
from pig_monai.pairs.ways import slice_sampler
from pig_monai.study.arms import Arm, Kind, arms
from pig_monai.study.charts import COLOURS, dice_by_pairs, gains
from pig_monai.study.columns import COLUMNS
from pig_monai.study.methods import METHODS
from pig_monai.study.report import in_short, masks_table, notes
from pig_monai.study.results import COST, ArmResult, Cost, MethodResult, Results, signed_rank
from pig_monai.study.tables import (
    costs_table,
    differences_table,
    likeness_tables,
    overlaps_table,
    pairing_table,
    table1_rows,
    table2_rows,
)
from tests.pairs.known import generate
from tests.pairs.test_ways import SETTINGS
from tests.pairs.toy import Mix, loaded
from tests.study.known import study, write_evaluation, write_quality, write_training

OWNERS = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5, 5, 5]
PATIENTS = {f"s{i}": f"p{owner}" for i, owner in enumerate(OWNERS)}
"""Five patients of two slices each, and one of six: means over slices and over patients differ."""

DICE = {0: {name: 0.05 * i for i, name in enumerate(PATIENTS)}, 1: {name: 0.305 for name in PATIENTS}}
"""Of the baseline, by seed."""


@pytest.fixture
def given(phantom_dataset, tmp_path):
    """Four pairs add 0.1, 0.12, … to the patients' Dice; 104 of them, or a longer training, 0.05."""
    one = study(phantom_dataset, tmp_path, seeds=[0, 1], num_pairs=[4, 104])
    for arm in arms(one, 0):
        for seed, dice in DICE.items():
            more = {name: gain(arm, owner) for name, owner in zip(dice, OWNERS, strict=True)}
            folder = tmp_path / f"fold_0/segmenters/{arm.name}/seed_{seed}"
            write_evaluation(
                folder, {name: value + more[name] for name, value in dice.items()}, PATIENTS, arm.pairs
            )
    return one


def gain(arm: Arm, patient: int) -> float:
    if arm.kind == Kind.LONGER or arm.pairs == 104:
        return 0.05
    return 0.1 + 0.02 * patient if arm.pairs else 0.0


def test_dice_is_the_mean_of_the_runs_and_its_interval_of_the_patients(given):
    rows = {row["arm"]: row for row in table2_rows(Results.read(given))}
    means = [statistics.fmean(dice.values()) for dice in DICE.values()]
    real = rows["real"]
    assert real["dice"] == pytest.approx(statistics.fmean(means))
    assert real["dice_sd"] == pytest.approx(statistics.stdev(means))
    assert real["iou"] == pytest.approx(real["dice"] / 2)
    both = np.array([list(DICE[0].values()), list(DICE[1].values())])
    independent = estimate(both, list(PATIENTS.values()), seed=0)
    assert (real["dice_low"], real["dice_high"]) == (independent.low, independent.high)
    assert (real["slices"], real["patients"], real["seeds"]) == (16, 6, 2)


def test_the_difference_is_paired_and_its_test_exact(given):
    found = {arm.name: difference for arm, difference in Results.read(given).against_real.items()}
    joint = found["joint-4"]
    assert joint.of.patient_mean == pytest.approx(0.15)  # of 0.10, 0.12, … 0.20, each patient once
    assert joint.of.mean == pytest.approx((2 * (0.10 + 0.12 + 0.14 + 0.16 + 0.18) + 6 * 0.20) / 16)
    assert 0.1 <= joint.of.patient_low <= 0.15 <= joint.of.patient_high <= 0.2
    assert joint.p_value == pytest.approx(2 / 2**6)  # all six patients gain: one of 2⁶ signs, two-sided
    assert joint.p_holm == pytest.approx(5 * 2 / 2**6)  # of five arms, the least p
    plain = found["real-plain"]
    assert (plain.of.patient_mean, plain.p_value, plain.p_holm) == (0, 1, 1)


def test_the_sign_of_a_difference_is_that_of_what_was_tested(phantom_dataset, tmp_path):
    """15 patients of two slices gain, one of sixty loses: by slices a loss, by patients a gain, which p is of."""
    one = study(phantom_dataset, tmp_path, num_pairs=[4])
    owners = [f"p{i}" for i in range(15) for _ in range(2)] + ["many"] * 60
    patients = {f"s{i}": owner for i, owner in enumerate(owners)}
    with_pairs = {name: 0.38 if owner == "many" else 0.53 for name, owner in patients.items()}
    for arm in arms(one, 0):
        dice = with_pairs if arm.pairs else dict.fromkeys(patients, 0.5)
        write_evaluation(tmp_path / f"fold_0/segmenters/{arm.name}/seed_0", dice, patients, arm.pairs)
    rows = table2_rows(Results.read(one))
    pairs = rows[-1]
    assert pairs["longer_difference"] == pytest.approx((15 * 0.03 - 0.12) / 16)
    assert pairs["longer_difference_p"] < 0.05
    assert pairs["dice"] < 0.5
    assert list(in_short(rows))[-1].endswith("corrected for 1 comparison): more.")


def test_folds_count_by_their_slices(phantom_dataset, tmp_path):
    """A Dice of 0.2 on three slices and of 0.6 on one is 0.3: the mean that its interval is of."""
    folds = sorted({entry["fold"] for entry in read_datalist(phantom_dataset)["training"]} - {-1})[:2]
    one = study(phantom_dataset, tmp_path, folds=folds)
    for fold, dice in zip(folds, ({"a": 0.2, "b": 0.2, "c": 0.2}, {"d": 0.6}), strict=True):
        for arm in arms(one, fold):
            folder = tmp_path / f"fold_{fold}/segmenters/{arm.name}/seed_0"
            write_evaluation(folder, dice, {name: f"p{name}" for name in dice}, arm.pairs)
    assert table2_rows(Results.read(one))[0]["dice"] == pytest.approx(0.3)


def test_methods_are_compared_with_as_many_pairs_of_pig(phantom_dataset, tmp_path):
    one = study(phantom_dataset, tmp_path, methods=["PIG", "joint"], num_pairs=[4, 104])
    more = {"PIG-4": 0.02, "PIG-104": 0.05, "joint-4": 0.01, "joint-104": 0.08}
    for arm in arms(one, 0):
        dice = {name: 0.3 + more.get(arm.name, 0.0) for name in PATIENTS}
        write_evaluation(tmp_path / f"fold_0/segmenters/{arm.name}/seed_0", dice, PATIENTS, arm.pairs)
    found = {arm.name: difference for arm, difference in Results.read(one).against_pig.items()}
    means = {name: difference.of.patient_mean for name, difference in found.items()}
    assert means == pytest.approx({"joint-4": -0.01, "joint-104": 0.03})
    assert [difference.p_holm for difference in found.values()] == pytest.approx([2 * 2 / 2**6] * 2)
    sentences = list(in_short(table2_rows(Results.read(one))))
    assert sentences[-1] == "No method was shown to differ from PIG (2 comparisons)."


def test_pairs_are_compared_with_real_slices_trained_as_long_in_a_family_of_their_own(given):
    found = {arm.name: difference for arm, difference in Results.read(given).against_longer.items()}
    assert set(found) == {"joint-4", "joint-104"}
    assert found["joint-4"].of.patient_mean == pytest.approx(0.1)  # 0.05 less: the steps'
    assert found["joint-4"].p_holm == pytest.approx(2 * 2 / 2**6)  # of two arms, not of five
    assert found["joint-104"].of.patient_mean == pytest.approx(0)
    assert found["joint-104"].p_holm == 1


def test_a_segmenter_that_was_trained_with_another_number_of_pairs_is_refused(given):
    path = given.output / "fold_0/segmenters/joint-4/seed_1/model.json"
    path.write_text('{"pairs": 3}')
    with pytest.raises(PigError, match=r"3 pairs were trained with, not 4; remove .*\.marks/.*seed_1\.done"):
        table2_rows(Results.read(given))


def test_nothing_differs_where_nothing_differs():
    assert signed_rank([0.0, 0.0]) == 1


def test_arms_on_other_slices_are_not_compared(given):
    rows = {arm.name: ArmResult(given, {0: arm}) for arm in arms(given, 0)}
    folder = given.output / "fold_0/segmenters/joint-4/seed_0/evaluation/metrics.csv"
    folder.write_text(folder.read_text().replace("s3,", "other,"))
    with pytest.raises(PigError, match="was not evaluated on the slices of real; let the study finish"):
        rows["joint-4"].minus(rows["real"])


def test_two_slices_of_one_name_are_not_taken_for_one(given):
    folder = given.output / "fold_0/segmenters/real/seed_0/evaluation/metrics.csv"
    folder.write_text(folder.read_text().replace("s3,", "s2,"))
    with pytest.raises(PigError, match="2 slices of .* are named s2; give the dataset's files different names"):
        table2_rows(Results.read(given))


def test_nor_are_two_of_different_folds(phantom_dataset, tmp_path):
    folds = sorted({entry["fold"] for entry in read_datalist(phantom_dataset)["training"]} - {-1})[:2]
    one = study(phantom_dataset, tmp_path, folds=folds)
    for fold in folds:
        folder = tmp_path / f"fold_{fold}/segmenters/real/seed_0"
        write_evaluation(folder, {"001.nii.gz": 0.5}, {"001.nii.gz": f"p{fold}"})
    with pytest.raises(PigError, match=r"2 slices of .* are named 001\.nii\.gz"):
        Results.read(one).of(Kind.BASELINE)[0].estimate("dice")


def test_a_study_that_is_not_finished_says_what_is_missing(phantom_dataset, tmp_path):
    with pytest.raises(PigError, match=r"model\.json does not exist; let the study finish"):
        table2_rows(Results.read(study(phantom_dataset, tmp_path)))


def test_the_tables_say_what_was_found(given):
    rows = table2_rows(Results.read(given))
    head, body = differences_table(rows)
    joint = dict(zip(head, next(row for row in body if row[0] == "real + 4 joint"), strict=True))
    assert joint["against real"].startswith("+15.0 (+1")
    assert joint["against longer"].startswith("+10.0 (+")
    assert (joint["against real: p"], joint["against longer: p (Holm)"]) == ("0.031", "0.062")
    assert "against PIG" not in head  # it is not in the study
    longer = dict(zip(head, next(row for row in body if "as long as with 4 " in row[0]), strict=True))
    assert (longer["against real"], longer["against longer"]) == ("+5.0 (+5.0 to +5.0)", "–")
    assert "real" not in [row[0] for row in body]  # it is what the others are compared with
    head, body = overlaps_table(rows)
    real = dict(zip(head, next(row for row in body if row[0] == "real"), strict=True))
    assert real["Dice, %"] == "34.0 ± 4.9"


def test_in_short_judges_pairs_beyond_the_steps_and_names_every_number_of_them(given):
    """All six patients gain and the interval leaves 0 out, and still: p is 0.062 after the correction."""
    rows = table2_rows(Results.read(given))
    sentences = list(in_short(rows))
    assert sentences[0].startswith("Real slices alone: Dice 34.0 % on 16 held-out slices of 6 patients")
    assert sentences[2].endswith("as with 104 pairs: 39.0 %. What pairs give beyond that is theirs.")
    assert len(sentences) == 5
    least, most = sentences[3:]
    assert least.startswith(
        "joint, with 4 pairs: 50.2 %, +10.0 points against real slices trained as long (95 % CI +"
    )
    assert least.endswith("; p 0.062, corrected for 2 comparisons): no difference was shown.")
    assert most.startswith("joint, with 104 pairs: 39.0 %, +0.0 points")
    certain = [row | {"longer_difference_p_holm": 0.04} for row in rows]
    assert list(in_short(certain))[3].endswith("): more.")
    less = {"longer_difference": -0.1, "longer_difference_low": -0.2, "longer_difference_high": -0.05}
    worse = [row | less for row in certain if row["kind"] == "pairs"]
    assert list(in_short([*rows[:4], *worse]))[-1].endswith("): less.")
    unsure = [row | {"longer_difference_high": 0.02} for row in worse]  # for the patients, but not for the seeds
    assert list(in_short([*rows[:4], *unsure]))[-1].endswith("): no difference was shown.")


def test_charts_show_each_arm_in_its_methods_colour(given):
    rows = table2_rows(Results.read(given))
    drawn = gains(rows)
    assert drawn.count("<circle") == 2
    assert ">4 joint: +10.00 (+" in drawn
    assert COLOURS["joint"] in drawn
    assert len(set(COLOURS.values())) == len(METHODS)
    lines = dice_by_pairs(rows)
    assert "as long, no pairs: 104, 39" in lines
    assert "joint: 4, 50.2" in lines
    assert dice_by_pairs([row for row in rows if row["pairs"] != 104]) == ""  # one number makes no line


def figure(sample: str, value: float | None, n: int = 3, features: str = "texture") -> dict[str, object]:
    return {
        "metric": "frechet",
        "features": features,
        "region": "slice",
        "sample": sample,
        "value": value,
        "n_real": 5,
        "n_generated": n,
        "note": "",
    }


def test_quality_is_of_as_many_slices_as_are_held_out(phantom_dataset, tmp_path):
    folds = sorted({entry["fold"] for entry in read_datalist(phantom_dataset)["training"]})[:2]
    one = study(phantom_dataset, tmp_path, folds=folds)
    for fold, value in zip(folds, (3.0, 5.0), strict=True):
        figures = [figure("generated", 100.0, 9), figure("generated_equal", value), figure("heldout", 2.0)]
        write_quality(tmp_path / f"fold_{fold}/quality/joint", figures)
    result = MethodResult(one, one.chosen[0])
    found = result.figure(("frechet", "texture", "slice"))
    assert (found.mean, found.sd) == (4, pytest.approx(2**0.5))
    assert result.reference(("frechet", "texture", "slice")).mean == 2
    assert result.slices_of(("frechet", "texture", "slice")).mean == 3
    assert result.figure(("kernel", "texture", "slice")).mean is None


def test_quality_of_another_number_of_slices_is_refused(phantom_dataset, tmp_path):
    """As of a method that was there before num_evaluated was raised, and not measured anew."""
    one = study(phantom_dataset, tmp_path, num_evaluated=5)
    write_quality(tmp_path / "fold_0/quality/joint", [])
    told = r"quality/joint was made with num_evaluated 4, not 5; remove .*\.marks/fold_0/quality/joint\.done and"
    with pytest.raises(PigError, match=told):
        _ = MethodResult(one, one.chosen[0]).quality


def test_references_and_intervals_are_found_by_their_sample(phantom_dataset, tmp_path):
    folds = sorted({entry["fold"] for entry in read_datalist(phantom_dataset)["training"]} - {-1})[:2]
    key = ("frechet", "texture", "slice")
    for fold, shift in zip(folds, (0.0, 2.0), strict=True):
        figures = [
            figure("generated", 9.0) | {"low": 7.0, "high": 11.0},
            figure("real_split", 2.0) | {"low": 1.0 + shift, "high": 3.0 + shift},
        ]
        write_quality(tmp_path / f"fold_{fold}/quality/joint", figures)
    both = MethodResult(study(phantom_dataset, tmp_path, folds=folds), METHODS["joint"])
    assert both.range_of_real(key) == (2.0, 4.0)
    assert both.interval(key) == (None, None)  # of a mean over folds none is known
    first = MethodResult(study(phantom_dataset, tmp_path, folds=folds[:1]), METHODS["joint"])
    assert first.range_of_real(key) == (1.0, 3.0)
    assert first.interval(key) == (7.0, 11.0)


def test_the_report_compares_masks_and_says_what_limits_the_study(given):
    write_training(given.output / "fold_0/networks/generator-condition-joint", "generator", 1, {})
    values = {("median", "generated"): 0.02, ("ks", "generated"): 0.3, ("median", "heldout"): 0.04}
    figures = [
        figure(sample, value, features="area") | {"metric": metric, "region": "mask"}
        for (metric, sample), value in {**values, ("ks", "heldout"): 0.1}.items()
    ]
    write_quality(given.output / "fold_0/quality/joint", figures)
    results = Results.read(given)
    masks = masks_table(results)
    assert masks.index(">joint<") < masks.index(">real, held out<")
    assert masks.index("2 (0.30)") < masks.index("4 (0.10)")  # percent of the slice
    told = list(notes(results))
    assert "only fold 0 was held out: other patients may give other figures" in told
    assert "fewer than 20 held-out patients: intervals are wide, and tests find little" in told
    assert not any("same versions" in note for note in told)
    summary = given.output / "fold_0/segmenters/real/seed_1/evaluation/summary.json"
    summary.write_text('{"versions": {"torch": "3"}}')
    assert any(
        note.startswith("not all was trained and measured with the same") for note in notes(Results.read(given))
    )


@pytest.mark.parametrize("metric", ["frechet", "fid"])
def test_a_fold_that_holds_out_too_few_has_no_distances(metric, phantom_dataset, tmp_path):
    """Those of all generated slices would be others, and are not to be averaged with those of equal numbers."""
    folds = sorted({entry["fold"] for entry in read_datalist(phantom_dataset)["training"]})[:2]
    one = study(phantom_dataset, tmp_path, folds=folds)
    named = {"metric": metric}
    whole = [figure("generated", 100.0, 9), figure("generated_equal", 3.0), figure("heldout", 2.0)]
    write_quality(tmp_path / f"fold_{folds[0]}/quality/joint", [row | named for row in whole])
    few = [figure("generated", 100.0, 9), figure("heldout", None)]
    write_quality(tmp_path / f"fold_{folds[1]}/quality/joint", [row | named for row in few])
    found = MethodResult(one, one.chosen[0]).figure((metric, "texture", "slice"))
    assert (found.values, found.mean) == ([3.0, None], 3.0)


def test_costs_are_of_all_trainings_and_of_accepted_pairs(phantom_dataset, tmp_path):
    """A guider of 60 steps and a generator of 90; two candidates out of three were accepted."""
    one = study(phantom_dataset, tmp_path, methods=["PIG"])
    networks = tmp_path / "fold_0/networks"
    write_training(networks / "guider", "guider", 7, {20: 4.0, 60: 2.0})  # 20·2/4 + 40·2/2 = 50 s
    write_training(networks / "generator-condition-guider", "generator", 11, {90: 3.0})  # 90·2/3 = 60 s
    figures = [figure("generated", 100.0, 8), figure("generated_equal", 5.0)]
    figures.append(figure("generated_equal", 7.0, features="inception"))
    write_quality(tmp_path / "fold_0/quality/PIG", figures, 8)
    pairs = tmp_path / "fold_0/pairs/PIG"
    pairs.mkdir(parents=True)
    (pairs / "report.json").write_text('{"accepted": 8, "candidates": 12}')
    (tmp_path / "logs/fold_0/pairs").mkdir(parents=True)
    said = "8 of 9 candidates; 0.600 s a candidate (9 drawn)\n8 of 12 candidates; 0.200 s a candidate (3 drawn)"
    (tmp_path / "logs/fold_0/pairs/PIG.log").write_text(said)
    (row,) = table1_rows(Results.read(one))
    assert (row["parameters"], row["iterations"], row["trainings"]) == (18, 90, 2)
    assert row["training_minutes"] == pytest.approx(110 / 60)
    assert row["seconds_a_slice"] == pytest.approx(0.75)
    assert row["accepted"] == pytest.approx(2 / 3)
    assert (row["slices"], row["slices_of_distances"], row["frechet_texture"]) == (8, 3, 5.0)
    assert (row["frechet_inception"], row["frechet_dinov2"]) == (7.0, None)
    (networks / "guider/metrics.csv").write_text("iteration,images_per_second\n")
    assert table1_rows(Results.read(one))[0]["training_minutes"] is None  # too short to be measured


def test_the_seconds_of_a_sampling_are_found_in_what_it_says(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pig_monai.pairs.generate.time.perf_counter", itertools.count(0, 0.5).__next__)
    sampler = slice_sampler(loaded("generator", Mix(0.8, 0.0), condition="none"), None, **SETTINGS)
    generate(sampler, tmp_path / "slices", NO_LIMITS, num_pairs=2)
    ((seconds, drawn),) = COST.findall(capsys.readouterr().err)
    assert (float(seconds), drawn) == (0.25, "2")  # a batch of two took a tick


def test_what_was_refused_is_a_dash():
    row = dict.fromkeys(column.shown for column in COLUMNS)
    row |= {"method": "joint", "masks": "generated", "image_size": 64, "accepted": 0.5, "parameters": 2_000_000}
    row |= {"slices": 4.0, "slices_of_distances": 3.0, "iterations": 5, "trainings": 1, "training_minutes": None}
    row |= {"seconds_a_slice": 0.25, "consistency": 0.5, "frechet_texture": 3.0, "lesions": None}
    (readable,) = likeness_tables([row])  # a table a feature space that was measured
    assert readable.head == ["by texture", "Fréchet"]
    assert readable.rows == [["joint", "3"], ["real, held out", "–"], ["real, any patients", "–"]]
    head, body = pairing_table([row])
    assert (head, body[0]) == (["method", "consistency, Dice, %"], ["joint", "50.0"])
    row |= {"consistency_low": 0.4, "consistency_high": 0.625}
    assert pairing_table([row]).rows[0] == ["joint", "50.0 (40.0 to 62.5)"]
    shown = dict(zip(costs_table([row]).head, costs_table([row]).rows[0], strict=True))
    assert (shown["training, min"], shown["s a slice"], shown["pixels a side"]) == ("–", "0.25", "64")


def test_memory_in_one_fold_is_not_averaged_away(phantom_dataset, tmp_path, monkeypatch):
    """Copies are added up, and the smallest p of the folds counts, corrected for these and for the methods."""
    folds = sorted({entry["fold"] for entry in read_datalist(phantom_dataset)["training"]} - {-1})[:2]
    one = study(phantom_dataset, tmp_path, methods=["joint", "SegGuidedDif"], folds=folds)
    for method, found in {"joint": [(3, 0.001), (2, 0.9)], "SegGuidedDif": [(0, 0.4), (None, 0.3)]}.items():
        for fold, (copies, p) in zip(folds, found, strict=True):
            figures = [
                figure("generated", value, features="pixels") | {"metric": metric}
                for metric, value in (("suspected_copies", copies), ("nearest_in_training_p", p))
            ]
            write_quality(tmp_path / f"fold_{fold}/quality/{method}", figures)
    monkeypatch.setattr(MethodResult, "costs", [Cost(1, 1, 1, None, None)])
    monkeypatch.setattr(MethodResult, "accepted", Spread([1.0]))
    rows = {
        row["method"]: row for row in table1_rows(Results(one, [MethodResult(one, m) for m in one.chosen], []))
    }
    assert [rows["joint"][name] for name in ("copies", "copies_of")] == [5, 6]
    assert rows["SegGuidedDif"]["copies"] is None  # refused in a fold: a part would look like the whole
    p_values = [rows[name]["training_p"] for name in ("joint", "SegGuidedDif")]
    assert p_values == [pytest.approx(0.002), pytest.approx(0.6)]
    assert rows["joint"]["training_p_holm"] == pytest.approx(0.004)
    shown = pairing_table(list(rows.values()))
    assert shown.head[1:] == ["suspected copies", "nearer to training, p (Holm)"]
    assert [row[1:] for row in shown.rows[:2]] == [["–", "0.600"], ["5 of 6", "0.004"]]


def test_a_spread_of_one_value_has_no_deviation():
    assert Spread([None, 2.0]).mean == 2
    assert Spread([None, 2.0]).sd is None
