"""The figures in words: what a reader who knows no statistics takes from them."""

from __future__ import annotations

from pig_monai.features.shape import STATISTICS
from pig_monai.features.texture import TEXTURE
from pig_monai.metrics.two_samples import TwoSampleTest
from pig_monai.pairs_evaluation.answers import answers
from pig_monai.pairs_evaluation.compare import Comparison
from pig_monai.pairs_evaluation.figures import EQUAL, GENERATED, HELDOUT, SPLIT, Figure


def figure(metric: str, value: float | None, sample: str = GENERATED, region: str = "slice", name: str = "texture",
           note: str = "", ends: tuple[float, float] | None = None) -> Figure:  # fmt: skip
    return Figure(metric, name, region, sample, value, 100, 40, note, *(ends or ()))


def mask_tests(differ: dict[str, float]) -> dict[str, TwoSampleTest]:
    """Return tests of all statistics; those in ``differ`` have this gap, the others none."""
    return {
        name: TwoSampleTest(differ.get(name, 0.1), 0.001, 0.001 if name in differ else 0.9, (1.0, 2.0))
        for name in STATISTICS
    }


def answered(*figures: Figure, differ: dict[str, float] | None = None) -> dict[str, list[str]]:
    """Return the cells behind each question by its first words."""
    rows = answers(figures, [TEXTURE], Comparison(list(figures), {}, mask_tests(differ or {})))
    return {" ".join(row[0].split()[:3]): row[1:] for row in rows}


def test_as_many_slices_are_compared_with_real_patients():
    cells = answered(
        figure("frechet", 30.0), figure("frechet", 36.0, EQUAL), figure("frechet", 9.0, HELDOUT),
        figure("frechet", 12.0, SPLIT, ends=(8.0, 15.0)),
        figure("coverage", 0.5), figure("coverage", 0.3, EQUAL), figure("coverage", 0.6, HELDOUT),
        figure("frechet", 7.0, region="lesion"),
        figure("precision", None, note="refused: 4 slices are fewer than 10"),
    )  # fmt: skip
    refused = figure("coverage", None, HELDOUT, note="refused: 7 slices are fewer than 10")
    assert answered(figure("coverage", 0.5), refused)["Is the variety"] == ["0.5", "–", refused.note]
    assert cells["Do the slices"] == [
        "36", "12 (8 to 15)", "3.0 times as far from the training slices as other real patients are",
    ]  # fmt: skip
    assert cells["Is the variety"] == ["0.3", "0.6", "50 % of what unseen real slices reach"]
    assert cells["Do the lesions?"] == ["7", "–", "no real slices to compare with"]
    assert cells["Is each slice"] == ["–", "–", "refused: 4 slices are fewer than 10"]


def test_what_lies_in_the_range_of_real_patients_is_said_so():
    real = figure("frechet", 12.0, SPLIT, ends=(8.0, 15.0))
    words = "no farther from the training slices than other real patients may be"
    assert answered(figure("frechet", 14.9), real)["Do the slices"] == ["14.9", "12 (8 to 15)", words]
    assert answered(figure("frechet", 15.1), real)["Do the slices"][2].startswith("1.3 times")


def test_masks_that_differ_are_named_the_worst_first():
    words = "2 of 7 figures differ: area (0.50), x (0.20)"
    assert answered(differ={"x": 0.2, "area": 0.5})["Are the masks"] == ["0.50", "–", words]
    assert answered()["Are the masks"] == ["0.10", "–", "no difference was found"]


def test_masks_that_differ_no_more_than_real_ones_do_not_count():
    """The test takes slices for independent, and finds differences between patients, too."""
    real = [figure("ks", value, HELDOUT, "mask", name) for name, value in (("x", 0.3), ("area", 0.3))]
    cells = answered(*real, differ={"x": 0.2, "area": 0.5})["Are the masks"]
    assert cells == ["0.50", "0.30", "1 of 7 figures differ: area (0.50)"]
    cells = answered(*real, differ={"x": 0.2})["Are the masks"]
    assert cells == ["0.20", "0.30", "none differs more than held-out masks do, which are few"]


def test_where_unseen_real_slices_reach_nothing_there_is_no_ratio():
    made, real = (figure("coverage", value, sample) for value, sample in ((0.2, GENERATED), (0.0, HELDOUT)))
    cells = answered(made, real)["Is the variety"]
    assert cells == ["0.2", "0", "it is 0 for unseen real slices: nothing to compare with"]


def test_consistency_is_told_against_real_slices():
    def cells(generated: float, *real: Figure) -> list[str]:
        made = figure("pair_consistency", generated, region="mask", name="segmenter", ends=(0.1, 0.2))
        return answered(made, *real)["Do mask and"]

    real = figure("pair_consistency", 0.52, HELDOUT, "mask", "segmenter")
    assert cells(0.55, real)[:2] == ["55.0 % (10.0 to 20.0)", "52.0 %"]
    assert "about as well" in cells(0.55, real)[2]
    assert cells(0.25, real)[2] == "-27.0 points from real slices"
    assert cells(0.25)[1:] == ["–", "no real slices to compare with"]
    assert "Do mask and" not in answered()


def test_copies_and_preference_are_told():
    def memory(copies: float, p: float) -> list[list[str]]:
        cells = answered(
            figure("suspected_copies", copies, name="pixels"), figure("nearest_in_training", 0.95, name="pixels"),
            figure("nearest_in_training_expected", 0.8, name="pixels"),
            figure("nearest_in_training_p", p, name="pixels"),
        )  # fmt: skip
        return [cells["Are there copies"], cells["Is it nearer"]]

    assert memory(3, 0.01) == [
        ["3 of 40", "–", "look at the gallery below"],
        ["95 %", "80 % expected", "more than by chance: it remembers (p 0.010)"],
    ]
    assert memory(0, 0.3)[0][2] == "none is much nearer to one training patient"
    assert memory(0, 0.3)[1][2] == "nothing beyond chance was detected (p 0.300)"


def test_masks_that_are_remembered_are_told_apart_from_slices():
    given = {"nearest_in_training": 1.0, "nearest_in_training_expected": 0.8, "nearest_in_training_p": 0.01}
    found = [figure(metric, value, region="mask", name="outline") for metric, value in given.items()]
    rows = answers(found, [TEXTURE], Comparison(found, {}, {}))
    question = "Are the masks nearer to those of training patients?"
    assert rows[-1] == [question, "100 %", "80 % expected", "more than by chance: it remembers (p 0.010)"]
    assert not any("Is it nearer" in row[0] for row in rows)
